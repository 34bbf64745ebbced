"""Tables for people at a terminal: no line is wider than it, and a status has a colour. Loaded for those alone."""

import posix

COLOURS = {"running": 32, "paused": 33, "created": 36, "creating": 36, "stopped": 90}  # console_codes(4)
LEAST = 12  # what is left of a cell that gives way


def fitted(rows: "list[list[str]]", gives_way: int) -> "list[list[str]]":
    """The rows, with the cells of one column shortened at their beginning, which for paths tells less than the end."""
    spare = posix.get_terminal_size(1).columns - sum(
        max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(rows[0])) if i != gives_way
    )
    room = max(spare, LEAST)
    return [
        [f"…{cell[-room + 4 :]}" if i == gives_way and len(cell) + 3 > room else cell for i, cell in enumerate(row)]
        for row in rows
    ]


def coloured(table: str) -> str:
    """Each status in its colour, unless NO_COLOR is set (no-color.org). The width of a cell stays."""
    if posix.environ.get(b"NO_COLOR"):
        return table
    lines = table.split("\n")
    for number, line in enumerate(lines[1:], 1):
        for status, colour in COLOURS.items():
            if f" {status} " in line:
                lines[number] = line.replace(f" {status} ", f" \x1b[{colour}m{status}\x1b[0m ", 1)
                break
    return "\n".join(lines)

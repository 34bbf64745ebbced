"""pyrunc list: every container under the state root."""

import posix

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, complain, say
from pyrunc.container.container import Container
from pyrunc.errors import StateError, UsageError, printable, reason
from pyrunc.linux.passwd import name_of
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = Usage(
    "list",
    "",
    "list containers",
    (
        Flag("format", "f", help="table or json", value="FORMAT", default="table"),
        Flag("quiet", "q", help="only the IDs"),
    ),
    details="A container whose state can't be read is named on standard error and left out.",
)
COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def main(call: Call) -> None:
    arguments = call.arguments
    if arguments.text("format") not in ("table", "json"):
        raise UsageError("--format", f'"{arguments.text("format")}"', "invalid format option", "table or json")
    containers = _states(call)
    if arguments.on("quiet"):
        for state in containers:
            say(state["id"])
    elif arguments.text("format") == "json":
        say(dumps(containers) if containers else "null")
    else:
        rows = [list(COLUMNS), *([printable(str(state[column.lower()])) for column in COLUMNS] for state in containers)]
        if posix.isatty(1):
            from pyrunc.cli import screen

            say(screen.coloured(table(screen.fitted(rows, COLUMNS.index("BUNDLE")))))
        else:
            say(table(rows))


def _states(call: Call) -> "list[dict[str, Any]]":
    found = []
    try:
        ids = call.state_root.ids()
    except FileNotFoundError:
        if call.root_given:
            raise
        return []  # no container was ever made
    for container_id in ids:
        try:
            container = Container.load(call.state_root, container_id, call.log)
            state = container.state()
        except StateError:
            continue  # being made, or being deleted
        except Exception as error:  # the others are shown
            complain(printable(f"load container {container_id}: {reason(error)}"))
            continue
        state["owner"] = _name_of(container.record.get("uid", 0))
        found.append(state)
    return found


def _name_of(uid: int) -> str:
    return name_of(uid) or f"#{uid}"


def table(rows: "list[list[str]]") -> str:
    """Columns as wide as their widest cell and three spaces; as runc's tables are, at least twelve wide."""
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows
    )

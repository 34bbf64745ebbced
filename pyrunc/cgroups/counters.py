"""Reading what controllers count: files of numbers, of which any may be missing."""

import posix

from pyrunc.linux.fd import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]

NO_LIMIT = 2**64 - 1


def text(directory: str, file: str) -> str:
    """A file's text; "" where the controller or the kernel does not have it."""
    if not directory:
        return ""
    try:
        return read_file(f"{directory}/{file}").decode()
    except OSError:
        return ""


def is_there(directory: str, file: str) -> bool:
    return bool(directory) and posix.access(f"{directory}/{file}", posix.F_OK)


def number(directory: str, file: str) -> int:
    value = text(directory, file).strip()
    return NO_LIMIT if value == "max" else int(value or 0)


def numbers(directory: str, file: str) -> "list[int]":
    return [int(word) for word in text(directory, file).split()]


def keyed(directory: str, file: str) -> "dict[str, int]":
    """A file with a `key value` on each line."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text(directory, file).splitlines())}


def pressure(directory: str, resource: str) -> "Values | None":
    """Pressure stall information (PSI), Linux 4.20. None where the kernel keeps none."""
    found: Values = {}
    for line in text(directory, f"{resource}.pressure").splitlines():
        kind, *items = line.split()
        values = dict(item.split("=") for item in items)
        averages = {name: _plain(float(values[name])) for name in ("avg10", "avg60", "avg300")}
        found[kind] = {**averages, "total": int(values["total"])}
    zero = {"avg10": 0, "avg60": 0, "avg300": 0, "total": 0}
    return {"some": found.get("some", zero), "full": found.get("full", zero)} if found else None


def _plain(value: float) -> "float | int":
    """A number as Go writes it: a float without a fraction is an integer."""
    return int(value) if value == int(value) else value


def some(**values: "Any") -> "Values":
    """The values that are neither zero nor empty. In some places of runc's JSON, Go leaves out the others."""
    return {name: value for name, value in values.items() if value}


def not_empty(parts: "Values") -> "Values":
    """The parts without those whose members are all zero."""
    return {name: part for name, part in parts.items() if any(part.values())}

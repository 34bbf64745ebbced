"""Put limits back as they were, when an update fails half-way."""

from pyrunc.cgroups.files import read, write_all
from pyrunc.errors import PyruncError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrunc.cgroups.files import Write


def of(plan: "list[tuple[str, list[Write]]]") -> "list[Callable[[], None]]":
    """The functions that undo each part of a plan, the last part first. This is called before anything is written."""
    before = [
        (directory, [old for write in writes for old in previous(directory, *write)]) for directory, writes in plan
    ]
    return [_writing(directory, writes) for directory, writes in reversed(before)]


def _writing(directory: str, writes: "list[Write]") -> "Callable[[], None]":
    return lambda: write_all(directory, writes)


def all_of(undoing: "Iterable[Callable[[], None]]") -> "list[str]":
    """Undo all that can be undone. Returns why the rest could not."""
    failures = []
    for undo in undoing:
        try:
            undo()
        except PyruncError as error:
            failures.append(reason(error))
    return failures


def previous(directory: str, file: str, value: str) -> "list[Write]":
    """What to write to undo a write of `value`; nothing where the kernel does not tell what was there."""
    try:
        text = read(directory, file)
    except PyruncError:
        return []
    lines = text.splitlines()
    first, blank, rest = value.partition(" ")
    if blank and (":" in first or file.endswith(("ifpriomap", "rdma.max"))):  # a line for each device
        for line in lines:
            if line.startswith(f"{first} "):
                return [(file, line)]
        return [(file, f"{first} {rest.partition('=')[0]}=max" if "=" in rest else f"{first} 0")]
    if file == "memory.oom_control":
        return [(file, lines[0].rpartition(" ")[2])]
    if file in ("cpuset.cpus", "cpuset.mems") and not lines:
        # v2: write what its parent has. A cpuset with processes can't be made empty again (ENOSPC).
        return [(file, read(directory.rpartition("/")[0], f"{file}.effective"))]
    return [(file, lines[0] if lines else "\n")]

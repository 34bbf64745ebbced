"""unified: files of cgroup v2 by their names. config-linux.md#unified"""

from pyrunc.cgroups.controller import Controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrunc.cgroups.files import Write

FIRST = "memory.oom.group"  # before a limit on memory: it decides what that does to a group which is over it already


def files(_: str, unified: "dict[str, str]") -> "Iterator[Write]":
    """The writes for the files. The kernel takes one setting a write, so each line of a value is a write of its own."""
    idle = unified.get("cpu.idle", "").strip() == "1"  # the kernel lets an idle cgroup have no weight
    for name in sorted(unified, key=lambda name: name != FIRST):
        if idle and name == "cpu.weight":
            continue
        for line in unified[name].splitlines() or [""]:
            yield name, line


CONTROLLER = Controller("unified", "unified", (("", None, files),))

"""unified: files of cgroup v2 by their names. config-linux.md#unified"""

from pyrunc.cgroups.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrunc.cgroups.limits import Write

FIRST = "memory.oom.group"  # before a limit: what it does to a group that is over it already


def writes(_: str, files: "dict[str, str]") -> "Iterator[Write]":
    """A value of several lines is as many writes: the kernel takes one setting a write."""
    idle = files.get("cpu.idle", "").strip() == "1"  # it has no weight
    for name in sorted(files, key=lambda name: name != FIRST):
        if idle and name == "cpu.weight":
            continue
        for line in files[name].splitlines() or [""]:
            yield name, line


V2 = Limits("unified", (), also=writes)

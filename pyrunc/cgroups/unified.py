"""unified: files of cgroup v2 by their names. config-linux.md#unified"""

from pyrunc.cgroups.limits import Limits, write

FIRST = "memory.oom.group"  # before a limit: what it does to a group that is over it already


def write_files(directory: str, files: "dict[str, str]") -> None:
    """A value of several lines is as many writes: the kernel takes one setting a write."""
    for name in sorted(files, key=lambda name: name != FIRST):
        for line in files[name].splitlines() or [""]:
            write(directory, name, line)


V2 = Limits("unified", (), also=write_files)

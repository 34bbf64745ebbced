"""v2 with little memory: the cgroup is joined as late as can be.

A page is charged to the cgroup that its process was in when it was touched, and stays so when the process moves
(cgroup-v2.rst, Memory Ownership). Born in its cgroup the interpreter's copy takes up to 1.7 MiB of the limit. Moving
waits for a lock of the kernel's (docs/performance.md), so this is for those who would not start, or had half of it
taken.
"""

import posix

from pyrunc.cgroups.cgroup import UNIFIED, Cgroup
from pyrunc.linux.fd import Fd, open_at, read_file


class LateEntry:
    """The way in for a process itself, by descriptors: nothing is looked up in the container's file system."""

    __slots__ = ("home", "procs")

    def __init__(self, cgroup: Cgroup) -> None:
        own = read_file("/proc/self/cgroup").decode().splitlines()[-1].partition("::")[2]
        self.home = open_at(None, f"{cgroup.mounts[UNIFIED]}{own}/cgroup.procs", posix.O_WRONLY)
        self.procs = open_at(None, f"{cgroup.paths[UNIFIED]}/cgroup.procs", posix.O_WRONLY)

    def enter(self) -> None:
        posix.write(self.procs.number, b"0")

    def leave(self) -> None:
        posix.write(self.home.number, b"0")

    def descriptors(self) -> "tuple[Fd, Fd]":
        return self.home, self.procs


def entry(cgroup: Cgroup) -> "LateEntry | None":
    try:
        return LateEntry(cgroup)
    except OSError:
        return None  # our own cgroup is not ours to return to

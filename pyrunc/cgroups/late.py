"""v2, for containers with little memory: the process enters its cgroup as late as it can.

A page is charged to the cgroup that its process was in when it touched the page, and stays so when the process moves
(cgroup-v2.rst, Memory Ownership). If the process is born in its cgroup, the pages that it copies of the interpreter
take up to 1.7 MiB of the container's limit. With a limit of few MiB it would not start, or would lose half of its
memory. With a larger one it is not worth the time: moving a process waits for a lock of the kernel's
(docs/performance.md).
"""

import posix

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.cgroups.files import UNIFIED
from pyrunc.linux.fd import Fd, open_at, read_file


class LateEntry:
    """The way into the cgroup, and out again, for a process itself. It has descriptors, as it must look up no path in
    the container.

    Attributes:
        home: cgroup.procs of the cgroup that we are in.
        procs: cgroup.procs of the container's.
    """

    __slots__ = ("home", "procs")

    def __init__(self, cgroup: Cgroup) -> None:
        own = read_file("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines()[-1].partition("::")[2]
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
        return None  # we may not write to our own cgroup, so there would be no way out again

"""Learn that the kernel kills a cgroup's processes for want of memory, and that the cgroup is gone."""

import errno
import posix
import select

from pyrunc.cgroups.counters import keyed
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_all, write_file


class Watch:
    """What to poll, and what it means when poll(2) returns."""

    __slots__ = ()

    def pollable(self) -> "list[tuple[int, int]]":
        """(descriptor, events to poll for)"""
        raise NotImplementedError

    def kills(self) -> int:
        """How many processes have been killed since the last call."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether there is nothing left that could be killed."""
        raise NotImplementedError


class WatchV1(Watch):
    """v1: an eventfd, signalled when memory has run out, and when the cgroup goes. cgroup-v1/memory.rst"""

    __slots__ = ("control", "directory", "event")

    def __init__(self, directory: "str | None") -> None:
        if directory is None:
            raise PyruncError("watching", "the container", "this host has no memory controller for us")
        self.directory = directory
        self.event = Fd(posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK), "eventfd")
        self.control = open_at(None, f"{directory}/memory.oom_control", posix.O_RDONLY)
        line = f"{self.event.number} {self.control.number} ".encode()
        write_file(f"{directory}/cgroup.event_control", line)

    def pollable(self) -> "list[tuple[int, int]]":
        return [(self.event.number, select.POLLIN)]

    def kills(self) -> int:
        try:
            count = int(posix.eventfd_read(self.event.number))
        except BlockingIOError:
            return 0
        return 0 if self.is_over() else count

    def is_over(self) -> bool:
        return not posix.access(f"{self.directory}/cgroup.event_control", posix.F_OK)


class WatchV2(Watch):
    """v2: memory.events and cgroup.events change, which poll(2) sees. cgroup-v2.rst"""

    __slots__ = ("cgroup_events", "directory", "memory_events", "seen")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.cgroup_events = open_at(None, f"{directory}/cgroup.events", posix.O_RDONLY)
        self.memory_events: Fd | None = None
        try:
            self.memory_events = open_at(None, f"{directory}/memory.events", posix.O_RDONLY)
        except FileNotFoundError:
            pass  # the controller is not enabled: nobody is killed by it
        self._read()
        self.seen = self._count()

    def pollable(self) -> "list[tuple[int, int]]":
        fds = [self.cgroup_events] + ([self.memory_events] if self.memory_events is not None else [])
        return [(fd.number, select.POLLPRI) for fd in fds]

    def kills(self) -> int:
        self._read()
        count = self._count()
        new, self.seen = count - self.seen, count
        return max(0, new)

    def is_over(self) -> bool:
        return keyed(self.directory, "cgroup.events").get("populated", 0) == 0

    def _count(self) -> int:
        return keyed(self.directory, "memory.events").get("oom_kill", 0)

    def _read(self) -> None:
        """Read both files: poll(2) tells of changes since they were last read."""
        for fd in (self.cgroup_events, self.memory_events):
            if fd is not None:
                try:
                    posix.lseek(fd.number, 0, 0)
                    read_all(fd)
                except OSError as error:
                    if error.errno != errno.ENODEV:  # the cgroup is gone
                        raise PyruncError("reading", fd.name, reason(error)) from error

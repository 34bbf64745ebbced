"""events: what a container uses, now and then, and when it runs out of memory."""

import posix
import select
import time

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.cgroups.statistics import keyed, statistics
from pyrunc.container.container import Container
from pyrunc.errors import PyruncError, StateError, reason
from pyrunc.linux.fd import Fd, open_at, read_all, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

POLLPRI = 2


def stats(container: Container) -> "dict[str, Any]":
    """One event with the container's statistics."""
    if container.status() == "stopped":
        raise StateError(f"container with id {container.id} is not running", "")
    return {"type": "stats", "id": container.id, "data": _data(container)}


def events(container: Container, interval: float) -> "Iterator[dict[str, Any]]":
    """Statistics every `interval` seconds, and a note each time the kernel kills for want of memory. Ends with the
    container."""
    if container.status() == "stopped":
        raise StateError(f"container with id {container.id} is not running", "")
    watch = Unified(container.cgroup) if container.cgroup.unified else Legacy(container.cgroup)
    poll = select.poll()
    for fd, mask in watch.pollable():
        poll.register(fd, mask)
    due = time.monotonic() + interval
    while True:
        woken = poll.poll(max(0.0, due - time.monotonic()) * 1000)
        if woken:
            for _ in range(watch.kills()):
                yield {"type": "oom", "id": container.id}
            if watch.is_over():
                return
        now = time.monotonic()
        if now < due:
            continue
        due = max(due + interval, now)  # of a time that we slept through there is one
        if not container.is_alive():
            return
        yield {"type": "stats", "id": container.id, "data": _data(container)}


def _data(container: Container) -> "dict[str, Any]":
    found = statistics(container.cgroup)
    group = container.rdt_group()
    if group is not None:
        from pyrunc.cgroups import rdt

        found["intel_rdt"] = rdt.statistics(group)
    return found


class Legacy:
    """v1: an eventfd, signalled when memory has run out, and when the cgroup goes. cgroup-v1/memory.rst"""

    __slots__ = ("control", "directory", "event")

    def __init__(self, cgroup: Cgroup) -> None:
        directory = cgroup.directory("memory")
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


class Unified:
    """v2: memory.events and cgroup.events change, which poll(2) sees. cgroup-v2.rst"""

    __slots__ = ("cgroup_events", "directory", "memory_events", "seen")

    def __init__(self, cgroup: Cgroup) -> None:
        self.directory = cgroup.paths[""]
        self.cgroup_events = open_at(None, f"{self.directory}/cgroup.events", posix.O_RDONLY)
        self.memory_events: Fd | None = None
        try:
            self.memory_events = open_at(None, f"{self.directory}/memory.events", posix.O_RDONLY)
        except FileNotFoundError:
            pass  # the controller is not enabled: nobody is killed by it
        self._read()
        self.seen = self._count()

    def pollable(self) -> "list[tuple[int, int]]":
        fds = [self.cgroup_events] + ([self.memory_events] if self.memory_events is not None else [])
        return [(fd.number, POLLPRI) for fd in fds]

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
        """poll(2) tells of changes since the file was last read."""
        for fd in (self.cgroup_events, self.memory_events):
            if fd is not None:
                try:
                    posix.lseek(fd.number, 0, 0)
                    read_all(fd)
                except OSError as error:
                    if error.errno != 19:  # ENODEV: the cgroup is gone
                        raise PyruncError("reading", fd.name, reason(error)) from error

"""events: what a container uses, now and then, and when it runs out of memory."""

import select
import time

from pyrunc.container.container import Container
from pyrunc.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def stats(container: Container) -> "dict[str, Any]":
    """One event with the container's statistics."""
    if container.status() == "stopped":
        raise StateError(f"container with id {container.id} is not running", "")
    return {"type": "stats", "id": container.id, "data": _data(container)}


def events(container: Container, interval: float) -> "Iterator[dict[str, Any]]":
    """Yield statistics every `interval` seconds, and a note whenever the kernel kills a process for want of memory.
    Ends with the container.
    """
    if container.status() == "stopped":
        raise StateError(f"container with id {container.id} is not running", "")
    watch = container.cgroup.watch_oom()
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
        due = max(due + interval, now)  # if we slept through several, there is one event for all
        if not container.is_alive():
            return
        yield {"type": "stats", "id": container.id, "data": _data(container)}


def _data(container: Container) -> "dict[str, Any]":
    found = container.cgroup.statistics()
    group = container.rdt_group()
    if group is not None:
        from pyrunc.cgroups import rdt

        found["intel_rdt"] = rdt.statistics(group)
    return found

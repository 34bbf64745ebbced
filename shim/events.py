"""Events for containerd. Those of one container go one at a time, each after the one before it was received. Those of
different containers go together. None is lost while containerd restarts."""

import time

from pyrunc.protobuf import encode
from pyrunc.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.log import Log
    from pyrunc.shim.loop import Loop, Timer

LAST_PAUSE_SECONDS = 8.0
MOST = 4096  # waiting events; then the oldest is dropped: a shim without a containerd must not grow
FIRST_PAUSE_SECONDS = 0.25
EXIT = "/tasks/exit"  # sent until it is received: whoever waits for it would wait for ever
MOST_REFUSALS = 10  # of any other event, for which the next ones of its container wait


class Event:
    """One event.

    Attributes:
        sent: it is under way: neither received nor refused, as far as we know.
        due: when it may be sent again after it was refused.
    """

    __slots__ = ("any", "at", "container", "due", "refusals", "sent", "topic")

    def __init__(self, topic: str, values: "dict[str, Any]") -> None:
        name, message = messages.EVENTS[topic]
        self.topic = topic
        self.container = values["container_id"]
        self.at = time.time_ns()
        self.any = {"type_url": f"containerd.events.{name}", "value": encode(message, values)}
        self.sent = False
        self.refusals = 0
        self.due = 0.0


class Way:
    """A way to containerd. It tells the publisher what becomes of an event: `received`, `refused` or `failed`.

    Attributes:
        at_a_time: how many events may be under way.
    """

    __slots__ = ()
    at_a_time: int

    def send(self, events: "list[Event]") -> None:
        raise NotImplementedError


class Publisher:
    """The queue of events. An event leaves it when it was received. If it was sent but not received, it goes again."""

    __slots__ = ("again", "log", "loop", "pause", "queue", "soon", "timer", "way")

    def __init__(self, loop: "Loop", log: "Log") -> None:
        self.loop = loop
        self.log = log
        self.way: Way | None = None
        self.queue: list[Event] = []
        self.timer: Timer | None = None  # for the next attempt at all
        self.again: Timer | None = None  # for the next attempt with a refused event
        self.pause = FIRST_PAUSE_SECONDS
        self.soon = False

    def publish(self, topic: str, **values: "Any") -> None:
        """Queue an event. It goes after the answer to the call that is being served, with all others that wait then."""
        if self.way is None:
            return
        self.queue.append(Event(topic, values))
        if len(self.queue) > MOST:
            self._make_room()
        self._send_soon()

    def _make_room(self) -> None:
        """Drop the oldest event that is not the end of a process. There are never more ends than processes, so ends
        stay."""
        for index, event in enumerate(self.queue):
            if not event.sent and event.topic != EXIT:
                self.log.warning("containerd takes no events: the oldest that waits is given up")
                del self.queue[index]
                return

    def _send_soon(self) -> None:
        if not self.soon and self.timer is None:
            self.soon = True
            self.loop.soon(self._send)

    def _send(self) -> None:
        self.soon = False
        self.timer = None
        assert self.way is not None
        taken = {event.container for event in self.queue if event.sent}
        room = self.way.at_a_time - sum(event.sent for event in self.queue)
        now = time.monotonic()
        first: list[Event] = []
        later: list[float] = []
        for event in self.queue:
            if len(first) >= room:
                break
            if event.container not in taken:
                taken.add(event.container)
                if event.due > now:
                    later.append(event.due - now)
                else:
                    first.append(event)
        self.loop.cancel(self.again)
        self.again = self.loop.after(min(later), self._send_soon) if later else None
        if first:
            for event in first:
                event.sent = True
            self.way.send(first)

    def received(self, event: Event) -> None:
        self.pause = FIRST_PAUSE_SECONDS
        self.queue.remove(event)
        if self.queue:
            self._send_soon()

    def refused(self, event: Event, why: str, for_good: bool) -> None:
        """containerd has refused an event. It stays in front of all others of its container, which wait for it."""
        event.sent = False
        event.refusals += 1
        if for_good or (event.refusals > MOST_REFUSALS and event.topic != EXIT):
            self.log.warning(f"container {event.container}: {event.topic} is given up: containerd refuses it: {why}")
            return self.received(event)
        if event.refusals == 1:
            self.log.warning(f"container {event.container}: containerd refuses {event.topic} for now: {why}")
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(event.refusals - 1, 8), LAST_PAUSE_SECONDS)
        event.due = time.monotonic() + pause
        self._send_soon()

    def failed(self, why: str) -> None:
        """Send everything again later: nobody knows whether what was sent has arrived."""
        for event in self.queue:
            event.sent = False
        if self.queue:
            self.log.debug(f"{len(self.queue)} events wait for containerd: {why}")
            self.loop.cancel(self.timer)
            self.timer = self.loop.after(self.pause, self._send)
            self.pause = min(self.pause * 2, LAST_PAUSE_SECONDS)

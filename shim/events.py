"""Events for containerd: those of a container in order, each when the one before it was received; those of different
containers together. None is lost while containerd restarts."""

import posix
import time

from pyrunc.protobuf import Malformed, decode, encode
from shim import messages, ttrpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.log import Log
    from shim.loop import Loop, Timer
    from shim.publish import Program

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TIMEOUT_SECONDS = 5.0
LAST_PAUSE_SECONDS = 8.0
MOST = 4096  # that wait; then the oldest goes: a shim without a containerd must not grow
AT_A_TIME = 64
FIRST_PAUSE_SECONDS = 0.25
EXIT = "/tasks/exit"  # who waits for one waits for ever: it is told however often that takes
MOST_REFUSALS = 10  # of another event: the container's next ones wait behind it


class Event:
    """`sent`: and neither received nor lost, as far as we know. `due`: when it may be sent again, once refused."""

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


class Publisher:
    """The queue. An event leaves it when it was received; what was sent and not received is sent again."""

    __slots__ = ("again", "log", "loop", "pause", "queue", "soon", "timer", "way")

    def __init__(self, loop: "Loop", log: "Log") -> None:
        self.loop = loop
        self.log = log
        self.way: Forward | Program | None = None
        self.queue: list[Event] = []
        self.timer: Timer | None = None  # of the next attempt at all
        self.again: Timer | None = None  # of that with one that was refused
        self.pause = FIRST_PAUSE_SECONDS
        self.soon = False

    def publish(self, topic: str, **values: "Any") -> None:
        """It goes after the answer to the call that is being served, with all others that there are by then."""
        if self.way is None:
            return
        self.queue.append(Event(topic, values))
        if len(self.queue) > MOST:
            self._make_room()
        self._send_soon()

    def _make_room(self) -> None:
        """Of exits there are never more than processes: they stay."""
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
        """It stays before all others of its container, which wait with it."""
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
        """Of what was sent nobody knows whether it arrived."""
        for event in self.queue:
            event.sent = False
        if self.queue:
            self.log.debug(f"{len(self.queue)} events wait for containerd: {why}")
            self.loop.cancel(self.timer)
            self.timer = self.loop.after(self.pause, self._send)
            self.pause = min(self.pause * 2, LAST_PAUSE_SECONDS)


class Forward:
    """Over ttrpc, to the address that containerd has given us."""

    __slots__ = ("address", "connection", "log", "loop", "namespace", "publisher", "stream", "timer", "waiting")
    at_a_time = AT_A_TIME

    def __init__(self, publisher: Publisher, address: str, namespace: str) -> None:
        self.publisher = publisher
        self.loop = publisher.loop
        self.log = publisher.log
        self.address = address
        self.namespace = namespace
        self.connection: ttrpc.Connection | None = None
        self.stream = -1
        self.waiting: dict[int, Event] = {}
        self.timer: Timer | None = None

    def send(self, events: "list[Event]") -> None:
        """In one write."""
        try:
            if self.connection is None:
                self.connection = ttrpc.Connection(self.loop, ttrpc.connect(self.address), self._answered, self._lost)
                self.stream = -1
        except OSError as error:
            return self.publisher.failed(error.strerror or "")
        frames = bytearray()
        for event in events:
            self.stream += 2
            self.waiting[self.stream] = event
            frames += ttrpc.pack(self.stream, ttrpc.REQUEST, encode(messages.REQUEST, self._request(event)))
        if self.timer is None:
            self.timer = self.loop.after(TIMEOUT_SECONDS, self._give_up)
        self.connection.send(bytes(frames))

    def _request(self, event: Event) -> "dict[str, Any]":
        envelope = {
            "timestamp": messages.timestamp(event.at),
            "namespace": self.namespace,
            "topic": event.topic,
            "event": event.any,
        }
        return {
            "service": SERVICE,
            "method": "Forward",
            "payload": encode(messages.FORWARD, {"envelope": envelope}),
            "timeout_nano": int(TIMEOUT_SECONDS * 10**9),
            "metadata": [{"key": "containerd-namespace-ttrpc", "value": self.namespace}],
        }

    def _answered(self, connection: ttrpc.Connection, frame: ttrpc.Frame) -> None:
        if frame.type != ttrpc.RESPONSE or frame.stream not in self.waiting:
            return
        try:
            status = decode(messages.RESPONSE, frame.payload or b"")["status"]
        except Malformed as error:
            return connection.close(str(error))
        event = self.waiting.pop(frame.stream)
        self.loop.cancel(self.timer)
        self.timer = self.loop.after(TIMEOUT_SECONDS, self._give_up) if self.waiting else None
        if status and status["code"]:
            # that the event is none will not change; all else may, as while it starts
            self.publisher.refused(event, status["message"], status["code"] == ttrpc.INVALID_ARGUMENT)
        else:
            self.publisher.received(event)

    def _give_up(self) -> None:
        self.timer = None
        if self.connection is not None:
            self.connection.close("no answer")

    def _lost(self, _: ttrpc.Connection, why: str) -> None:
        self.connection = None
        self.loop.cancel(self.timer)
        self.timer = None
        self.waiting.clear()
        self.publisher.failed(why or "it hung up")


def publisher(loop: "Loop", log: "Log", flags: "dict[str, str]") -> "tuple[Publisher, Callable[[int, int], None]]":
    """And whom to tell of processes that have ended, which may be containerd's own program that publishes."""
    made = Publisher(loop, log)
    address = posix.environ.get(b"TTRPC_ADDRESS", b"").decode("utf-8", "surrogateescape")
    if address:
        made.way = Forward(made, address, flags["namespace"])
    elif flags.get("publish-binary") and flags.get("address"):
        from shim.publish import Program

        made.way = program = Program(made, flags["publish-binary"], flags["address"], flags["namespace"])
        return made, program.ended
    else:
        log.warning("there is neither a TTRPC_ADDRESS nor a -publish-binary: nobody gets events")
    return made, _nobody


def _nobody(pid: int, status: int) -> None:
    """An orphan of a container's, or a logger."""

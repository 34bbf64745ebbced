"""Events over ttrpc, to the address that containerd has given us."""

from pyrunc.errors import reason
from pyrunc.protobuf import Malformed, decode, encode
from pyrunc.shim import messages, ttrpc
from pyrunc.shim.events import Event, Publisher, Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.shim.loop import Timer

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TIMEOUT_SECONDS = 5.0
AT_A_TIME = 64


class Forward(Way):
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
        """Send the events in one write."""
        try:
            if self.connection is None:
                self.connection = ttrpc.Connection(self.loop, ttrpc.connect(self.address), self._answered, self._lost)
                self.stream = -1
        except OSError as error:
            return self.publisher.failed(reason(error))
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
            # an invalid event stays invalid; any other reason may pass, as while containerd starts
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

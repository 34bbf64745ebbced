"""Events for containerd, in order: each is sent when the one before it was received. None is lost while it restarts."""

import posix
import time

from shim import messages, ttrpc
from shim.protobuf import Malformed, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.log import Log
    from shim.loop import Loop, Timer

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TIMEOUT_SECONDS = 5.0
LAST_PAUSE_SECONDS = 8.0
MOST = 4096  # that wait; then the oldest goes: a shim without a containerd must not grow


class Publisher:
    __slots__ = ("address", "connection", "log", "loop", "namespace", "pause", "queue", "stream", "timer")

    def __init__(self, loop: "Loop", log: "Log", address: str, namespace: str) -> None:
        self.loop = loop
        self.log = log
        self.address = address
        self.namespace = namespace
        self.queue: list[bytes] = []
        self.connection: ttrpc.Connection | None = None
        self.stream = -1
        self.timer: Timer | None = None  # of the answer, or of the next attempt
        self.pause = 0.25

    def publish(self, topic: str, **values: "Any") -> None:
        name, message = messages.EVENTS[topic]
        event = {"type_url": f"containerd.events.{name}", "value": encode(message, values)}
        envelope = {
            "timestamp": messages.timestamp(time.time_ns()),
            "namespace": self.namespace,
            "topic": topic,
            "event": event,
        }
        if not self.address:
            return
        self.queue.append(encode(messages.FORWARD, {"envelope": envelope}))
        if len(self.queue) > MOST:
            self.log.warning("containerd takes no events: the oldest that waits is given up")
            del self.queue[1 if self.timer else 0]
        if self.timer is None:
            self._send()

    def _send(self) -> None:
        self.timer = None
        if not self.queue:
            return
        try:
            if self.connection is None:
                socket = ttrpc.connect(self.address)
                self.connection = ttrpc.Connection(self.loop, socket, self._answered, self._lost)
                self.stream = -1
        except OSError as error:
            return self._try_later(error.strerror or "")
        self.stream += 2
        request = {
            "service": SERVICE,
            "method": "Forward",
            "payload": self.queue[0],
            "timeout_nano": int(TIMEOUT_SECONDS * 10**9),
            "metadata": [{"key": "containerd-namespace-ttrpc", "value": self.namespace}],
        }
        self.timer = self.loop.after(TIMEOUT_SECONDS, self._give_up)
        frame = ttrpc.pack(self.stream, ttrpc.REQUEST, encode(messages.REQUEST, request))
        self.connection.send(frame)

    def _answered(self, connection: ttrpc.Connection, frame: ttrpc.Frame) -> None:
        if frame.stream != self.stream or frame.type != ttrpc.RESPONSE or not self.queue:
            return
        try:
            status = decode(messages.RESPONSE, frame.payload or b"")["status"]
        except Malformed as error:
            return connection.close(str(error))
        if status and status["code"]:
            self.log.warning(f"containerd refused an event: {status['message']}")
        self.loop.cancel(self.timer)
        self.pause = 0.25
        del self.queue[0]
        self._send()

    def _give_up(self) -> None:
        if self.connection is not None:
            self.connection.close("no answer")

    def _lost(self, _: ttrpc.Connection, why: str) -> None:
        self.connection = None
        if self.queue:
            self._try_later(why or "it hung up")

    def _try_later(self, why: str) -> None:
        self.log.debug(f"{len(self.queue)} events wait for containerd: {why}")
        self.loop.cancel(self.timer)
        self.timer = self.loop.after(self.pause, self._send)
        self.pause = min(self.pause * 2, LAST_PAUSE_SECONDS)


def address() -> str:
    return posix.environ.get(b"TTRPC_ADDRESS", b"").decode("utf-8", "surrogateescape")

"""One request of containerd's, and its answer, now or later."""

from pyrunc.protobuf import encode
from pyrunc.shim import messages, ttrpc
from pyrunc.shim.failure import in_words
from pyrunc.shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.log import Log
    from pyrunc.protobuf import Message, Values
    from pyrunc.shim.loop import Loop, Timer
    from pyrunc.shim.tracing import Traced, Tracer


class Call:
    """One request, until it is answered. It is answered once, however often somebody tries."""

    __slots__ = ("connection", "done", "late", "log", "loop", "message", "name", "stream", "timer", "traced")

    def __init__(self, loop: "Loop", log: "Log", connection: ttrpc.Connection, stream: int) -> None:
        self.loop = loop
        self.connection = connection
        self.stream = stream
        self.message: Message = messages.EMPTY
        self.name = ""
        self.done = False
        self.timer: Timer | None = None
        self.late: Callable[[Status], None] | None = None  # is called when its deadline has passed
        self.traced: Traced | None = None
        self.log = log  # of what is done for it

    def answer(self, work: "Callable[[], Values | bytes | None]") -> None:
        """Answer with what the work returns or raises. Bytes are an answer that is encoded already."""
        if self.done:
            return
        try:
            values = work()
            if values is not None:
                self._send({"payload": values if isinstance(values, bytes) else encode(self.message, values)})
        except Exception as error:
            status = in_words(error)
            if status.code == ttrpc.INTERNAL:
                self.log.error(f"{self.name}: {status.message}")
            self._send({"status": {"code": status.code, "message": status.message}})

    def _send(self, response: "Values") -> None:
        self.done = True
        self.late = None
        self.loop.cancel(self.timer)
        if self.traced is not None:
            self.traced.answered(response["status"]["message"] if "status" in response else "")
        try:
            data = ttrpc.pack(self.stream, ttrpc.RESPONSE, encode(messages.RESPONSE, response))
        except Status as status:
            refusal = {"status": {"code": status.code, "message": status.message}}
            data = ttrpc.pack(self.stream, ttrpc.RESPONSE, encode(messages.RESPONSE, refusal))
        self.connection.send(data)

    def give_up_after(self, nanoseconds: int) -> None:
        if nanoseconds > 0 and not self.done:
            self.timer = self.loop.after(nanoseconds / 10**9, self._too_late)

    def trace(self, tracer: "Tracer", request: "Values", values: "Values") -> None:
        """Make what is done for it a span in the caller's trace, unless the caller does not want it."""
        self.traced = tracer.traced(request, values, self.log)
        self.log = self.traced or self.log

    def _too_late(self) -> None:
        why = Status(ttrpc.DEADLINE_EXCEEDED, "context deadline exceeded")

        def refuse() -> None:
            raise why

        if self.late is None:
            self.answer(refuse)
        else:
            self.late(why)

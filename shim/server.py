"""The server: who may connect, which method a frame asks for, and its answer, now or later."""

import _socket
import posix
import select
import time

from pyrunc.errors import reason
from pyrunc.protobuf import Malformed, decode, encode
from shim import messages, service, ttrpc
from shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.log import Log
    from pyrunc.protobuf import Message, Values
    from shim.loop import Loop, Timer
    from shim.tracing import Traced, Tracer

SO_PEERCRED = 17
REST_SECONDS = 0.25


class Call:
    """One request, until it is answered: once, however often somebody tries."""

    __slots__ = ("connection", "done", "late", "log", "message", "name", "server", "stream", "timer", "traced")

    def __init__(self, server: "Server", connection: ttrpc.Connection, stream: int) -> None:
        self.server = server
        self.connection = connection
        self.stream = stream
        self.message: Message = messages.EMPTY
        self.name = ""
        self.done = False
        self.timer: Timer | None = None
        self.late: Callable[[Status], None] | None = None  # whom to tell that its deadline has passed
        self.traced: Traced | None = None
        self.log = server.log  # of what is done for it

    def answer(self, work: "Callable[[], Values | None]") -> None:
        """Whatever the work raises is an answer too."""
        if self.done:
            return
        try:
            values = work()
            if values is not None:
                self._send({"payload": encode(self.message, values)})
        except Status as status:
            self._send({"status": {"code": status.code, "message": status.message}})
        except Malformed as error:
            self._send({"status": {"code": ttrpc.INVALID_ARGUMENT, "message": f"{self.name}: {error}"}})
        except Exception as error:
            self.server.log.error(f"internal error: {self.name}: {type(error).__name__}: {error}")
            text = f"internal error: {type(error).__name__}: {error}"
            self._send({"status": {"code": ttrpc.INTERNAL, "message": text}})

    def _send(self, response: "Values") -> None:
        self.done = True
        self.server.loop.cancel(self.timer)
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
            self.timer = self.server.loop.after(nanoseconds / 10**9, self._too_late)

    def trace(self, request: "Values", values: "Values") -> None:
        """What is done for it is a span of whoever has called, where spans are wanted."""
        if self.server.tracer is not None:
            self.traced = self.server.tracer.traced(request, values, self.log)
            self.log = self.traced or self.log

    def _too_late(self) -> None:
        why = Status(ttrpc.DEADLINE_EXCEEDED, "context deadline exceeded")

        def refuse() -> None:
            raise why

        if self.late is None:
            self.answer(refuse)
        else:
            self.late(why)


class Server:
    """Attributes:
    came: when somebody has connected last.
    tracer: who makes spans of calls; None: nobody.
    """

    __slots__ = ("came", "connections", "last", "listener", "log", "loop", "path", "rests", "service", "tracer")

    def __init__(
        self, loop: "Loop", log: "Log", listener: "_socket.socket", path: str, tasks: "service.Service",
        tracer: "Tracer | None" = None,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.log = log
        self.listener = listener
        self.path = path
        self.service = tasks
        self.tracer = tracer
        self.came = time.monotonic()
        self.connections: set[ttrpc.Connection] = set()
        self.last: dict[ttrpc.Connection, int] = {}
        self.rests = False
        listener.setblocking(False)
        self._listen()

    def _accept(self, _: int) -> None:
        """Only who is the same user as we are: the socket's mode says so too (CVE-2020-15257)."""
        try:
            number = self.listener._accept()[0]  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            return self._rest(error)
        self.rests = False
        posix.set_inheritable(number, False)
        socket = _socket.socket(fileno=number)
        peer = socket.getsockopt(_socket.SOL_SOCKET, SO_PEERCRED, 12)
        uid = int.from_bytes(peer[4:8], "little")
        if uid != posix.geteuid():
            self.log.warning(f"a connection of user {uid} was refused")
            return socket.close()
        self.came = time.monotonic()
        self.connections.add(ttrpc.Connection(self.loop, socket, self._frame, self._closed))

    def _rest(self, error: OSError) -> None:
        """No descriptor is left, or no memory: who knocks waits. Were he heard meanwhile, we would
        do nothing else."""
        if not self.rests:
            self.log.warning(f"connections have to wait: {reason(error)}")
        self.rests = True
        self.loop.unwatch(self.listener.fileno())
        self.loop.after(REST_SECONDS, self._listen)

    def _listen(self) -> None:
        if self.path:
            self.loop.watch(self.listener.fileno(), select.POLLIN, self._accept)

    def _closed(self, connection: ttrpc.Connection, why: str) -> None:
        self.connections.discard(connection)
        self.last.pop(connection, None)
        if why:
            self.log.warning(f"a connection was closed: {why}")

    def _frame(self, connection: ttrpc.Connection, frame: ttrpc.Frame) -> None:
        call = Call(self, connection, frame.stream)
        call.answer(lambda: self._dispatch(call, frame))

    def _dispatch(self, call: Call, frame: ttrpc.Frame) -> "Values | None":
        if frame.type != ttrpc.REQUEST:
            raise Status(ttrpc.INVALID_ARGUMENT, f"stream {frame.stream}: there are no streams here")
        if not frame.stream % 2:
            raise Status(ttrpc.INVALID_ARGUMENT, "StreamID must be odd for client initiated streams")
        if frame.stream <= self.last.get(call.connection, 0):
            raise Status(ttrpc.INVALID_ARGUMENT, "StreamID cannot be re-used and must increment")
        self.last[call.connection] = frame.stream
        if frame.payload is None:
            raise Status(ttrpc.RESOURCE_EXHAUSTED, f"a message exceeds the maximum of {ttrpc.LARGEST} bytes")
        request = decode(messages.REQUEST, frame.payload)
        call.name = f"{request['service']}/{request['method']}"
        if request["service"] not in service.NAMES:
            raise Status(ttrpc.UNIMPLEMENTED, f"service {request['service']}")
        if request["method"] not in service.METHODS:
            raise Status(ttrpc.UNIMPLEMENTED, f"method {request['method']}")
        message, call.message, handler = service.METHODS[request["method"]]
        values = decode(message, request["payload"])
        call.trace(request, values)
        answer = handler(self.service, values, call)
        if answer is None:
            call.give_up_after(request["timeout_nano"])
        return answer

    def close(self) -> None:
        """Nobody comes in any more; who is in stays. Once: later the path may be another's."""
        if self.path:
            self.loop.unwatch(self.listener.fileno())
            try:
                posix.unlink(self.path)
            except FileNotFoundError:
                pass
            self.listener.close()
            self.path = ""

    @property
    def idle(self) -> bool:
        """Whether everything that was answered has been taken."""
        return not any(connection.out for connection in self.connections)

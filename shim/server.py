"""The server: who may connect, and which method a frame asks for."""

import _socket
import posix
import select
import time

from pyrunc.errors import reason
from pyrunc.protobuf import decode
from pyrunc.shim import messages, ttrpc
from pyrunc.shim.call import Call
from pyrunc.shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.log import Log
    from pyrunc.protobuf import Message, Values
    from pyrunc.shim.loop import Loop
    from pyrunc.shim.tracing import Tracer

    # for each method: the request, the answer, who answers; None: the answer comes later
    Methods = dict[str, tuple[Message, Message, Callable[[Values, Call], Values | None]]]

SO_PEERCRED = 17
REST_SECONDS = 0.25


class Server:
    """The server of the shim's socket.

    Args:
        services: their names; all have the same methods.
        tracer: makes spans of calls; None: there are no spans.

    Attributes:
        came: when somebody connected last.
    """

    __slots__ = (
        "came", "connections", "last", "listener", "log", "loop", "methods", "path", "rests", "services", "tracer",
    )  # fmt: skip

    def __init__(
        self, loop: "Loop", log: "Log", listener: "_socket.socket", path: str, services: "tuple[str, ...]",
        methods: "Methods", tracer: "Tracer | None" = None,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.log = log
        self.listener = listener
        self.path = path
        self.services = services
        self.methods = methods
        self.tracer = tracer
        self.came = time.monotonic()
        self.connections: set[ttrpc.Connection] = set()
        self.last: dict[ttrpc.Connection, int] = {}
        self.rests = False
        listener.setblocking(False)
        self._listen()

    def _accept(self, _: int) -> None:
        """Let a caller in if it is of the same user as we are. The socket's mode says so too (CVE-2020-15257)."""
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
        """Let callers wait: no descriptor is left, or no memory. poll would tell of them all the time."""
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
        call = Call(self.loop, self.log, connection, frame.stream)
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
        if request["service"] not in self.services:
            raise Status(ttrpc.UNIMPLEMENTED, f"service {request['service']}")
        if request["method"] not in self.methods:
            raise Status(ttrpc.UNIMPLEMENTED, f"method {request['method']}")
        message, call.message, handler = self.methods[request["method"]]
        values = decode(message, request["payload"])
        if self.tracer is not None:
            call.trace(self.tracer, request, values)
        answer = handler(values, call)
        if answer is None:
            call.give_up_after(request["timeout_nano"])
        return answer

    def close(self) -> None:
        """Let nobody in any more. Open connections stay. It is done only once: later the path may be another shim's."""
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

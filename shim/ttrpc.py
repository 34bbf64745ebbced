"""ttrpc: containerd's RPC over a Unix socket. Frames, and a connection that sends and receives them.

A frame: its length (4 bytes, big-endian), the stream (4 bytes), its type, flags, then a protocol buffers message.
"""

import _socket
import select

from pyrunc.protobuf import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.shim.loop import Loop

REQUEST, RESPONSE, DATA = 1, 2, 3
HEADER = 10
LARGEST = 4 << 20
CHUNK = 1 << 16

# gRPC's status codes
OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS = range(7)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL = 8, 9, 12, 13


class Status(Exception):
    """An answer that is an error."""

    __slots__ = ("code", "message")

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Frame:
    """A frame. If it was larger than a frame may be, it was skipped and `payload` is None."""

    __slots__ = ("flags", "payload", "stream", "type")

    def __init__(self, stream: int, type: int, flags: int, payload: "bytes | None") -> None:
        self.stream = stream
        self.type = type
        self.flags = flags
        self.payload = payload


def pack(stream: int, type: int, payload: bytes) -> bytes:
    if len(payload) > LARGEST:
        raise Status(RESOURCE_EXHAUSTED, f"a message of {len(payload)} bytes exceeds the maximum of {LARGEST}")
    return len(payload).to_bytes(4, "big") + stream.to_bytes(4, "big") + bytes((type, 0)) + payload


class Reader:
    """Makes frames from bytes as they come. It keeps of a message that is too large only what the refusal needs."""

    __slots__ = ("buffer", "skip")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.skip = 0

    def feed(self, data: bytes) -> "Iterator[Frame]":
        """The frames that are complete now. Raises Malformed; after that nothing that comes can be understood."""
        if self.skip:
            skipped = min(self.skip, len(data))
            self.skip -= skipped
            data = data[skipped:]
        self.buffer += data
        while len(self.buffer) >= HEADER:
            length = int.from_bytes(self.buffer[:4], "big")
            stream = int.from_bytes(self.buffer[4:8], "big")
            type, flags = self.buffer[8], self.buffer[9]
            if type not in (REQUEST, RESPONSE, DATA):
                raise Malformed(f"{type} is no type of a frame")
            if length > LARGEST:
                here = min(length, len(self.buffer) - HEADER)
                self.skip = length - here
                del self.buffer[: HEADER + here]
                yield Frame(stream, type, flags, None)
                continue
            if len(self.buffer) < HEADER + length:
                return
            payload = bytes(self.buffer[HEADER : HEADER + length])
            del self.buffer[: HEADER + length]
            yield Frame(stream, type, flags, payload)

    def is_between_frames(self) -> bool:
        return not self.buffer and not self.skip


class Connection:
    """A connected socket in the loop. `on_frame` gets each frame; `on_close` is called once, when nothing more
    comes."""

    __slots__ = ("loop", "on_close", "on_frame", "open", "out", "reader", "socket")

    def __init__(
        self,
        loop: "Loop",
        socket: "_socket.socket",
        on_frame: "Callable[[Connection, Frame], None]",
        on_close: "Callable[[Connection, str], None]",
    ) -> None:
        self.loop = loop
        self.socket = socket
        self.on_frame = on_frame
        self.on_close = on_close
        self.reader = Reader()
        self.out = bytearray()
        self.open = True
        socket.setblocking(False)
        loop.watch(socket.fileno(), select.POLLIN, self._ready)

    def send(self, data: bytes) -> None:
        """Send now, or as soon as the other side reads."""
        if not self.open:
            return
        self.out += data
        self._flush()

    def _ready(self, events: int) -> None:
        if events & select.POLLOUT:
            self._flush()
        if self.open and events & ~select.POLLOUT:
            self._receive()

    def _flush(self) -> None:
        try:
            while self.out:
                del self.out[: self.socket.send(self.out)]
        except BlockingIOError:
            pass
        except OSError as error:
            return self.close(str(error.strerror))
        self.loop.watch(self.socket.fileno(), select.POLLIN | (select.POLLOUT if self.out else 0), self._ready)

    def _receive(self) -> None:
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            return self.close(str(error.strerror))
        if not data:
            return self.close("" if self.reader.is_between_frames() else "it ended within a frame")
        try:
            for frame in self.reader.feed(data):
                self.on_frame(self, frame)
                if not self.open:
                    return
        except Malformed as error:
            self.close(str(error))

    def close(self, why: str = "") -> None:
        if self.open:
            self.open = False
            self.loop.unwatch(self.socket.fileno())
            self.socket.close()
            self.on_close(self, why)


def connect(address: str) -> "_socket.socket":
    """Connect to a server. Raises OSError, also if it would have to wait for the server to let it in."""
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        socket.connect(address.removeprefix("unix://"))
    except OSError:
        socket.close()
        raise
    return socket

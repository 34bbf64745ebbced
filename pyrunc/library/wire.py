"""Messages between a program, its worker and the worker's runners: JSON, and descriptors with it.

The sockets are of the kind SEQPACKET: any thread sends and receives a message whole, without a lock. A message that is
too large for a socket is sent as a file in memory. The member "config" is a text of JSON and goes behind the rest, so
that whoever passes it on need not read it.
"""

import _socket
import posix
import sys

from pyrunc.linux.fd import Fd, read_all, write_all
from pyrunc.spec.jsonc import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

LARGEST = 1 << 16
MOST_DESCRIPTORS = 8
IN_MEMORY = b"\0"  # the text is in the first descriptor
SEPARATOR = b"\0"  # JSON never has it


def send(socket: "_socket.socket", message: "Message", fds: "Sequence[int | Fd]" = ()) -> None:
    """Send a message. Raises OSError if nobody listens any more."""
    config: bytes | None = message.pop("config", None)
    data = dumps(message).encode("utf-8", "surrogateescape")
    if config is not None:
        data += SEPARATOR + config
    numbers = [int(fd) for fd in fds]
    if len(data) <= LARGEST:
        return _send(socket, data, numbers)
    with Fd(posix.memfd_create("pyrunc message", posix.MFD_CLOEXEC), "a message") as file:
        write_all(file, data)
        posix.lseek(file.number, 0, 0)
        _send(socket, IN_MEMORY, [file.number, *numbers])


def _send(socket: "_socket.socket", data: bytes, numbers: "list[int]") -> None:
    packed = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
    control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if numbers else []
    socket.sendmsg([data], control, _socket.MSG_NOSIGNAL)


def receive(socket: "_socket.socket", flags: int = 0) -> "tuple[Message, list[Fd]] | None":
    """The next message, with its descriptors. None: the other end is closed."""
    try:
        data, control = _receive(socket, flags)
    except ConnectionResetError:  # the peer closed without reading all; said once, before what it sent
        data, control = _receive(socket, flags)
    fds = [
        Fd(int.from_bytes(payload[at : at + 4], sys.byteorder), "a descriptor that was sent")
        for _, _, payload in control
        for at in range(0, len(payload) - 3, 4)
    ]
    if not data:
        return None
    if data == IN_MEMORY:
        with fds.pop(0) as file:
            data = read_all(file)
    text, separator, config = data.partition(SEPARATOR)
    message: Any = loads(text.decode("utf-8", "surrogateescape"))
    if separator:
        message["config"] = config
    return message, fds


def _receive(socket: "_socket.socket", flags: int) -> "tuple[bytes, list[tuple[int, int, bytes]]]":
    return socket.recvmsg(LARGEST, 64 + 4 * MOST_DESCRIPTORS, _socket.MSG_CMSG_CLOEXEC | flags)[:2]

"""Unix sockets of the caller's that get a descriptor by SCM_RIGHTS: a terminal's master, a process's pidfd."""

import _socket
import _stat
import posix
import sys

from pyrunc.container.patience import RECEIVER_SECONDS
from pyrunc.errors import PyruncError, UsageError, reason
from pyrunc.init.channel import rights
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at


def limit(socket: _socket.socket) -> None:
    """Limit how long connecting and sending may take: they wait while the other side accepts nobody.

    By SO_SNDTIMEO: for a non-blocking socket a full queue would be an error at once. unix(7), socket(7)
    """
    seconds = int(RECEIVER_SECONDS).to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, seconds)


def why(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return f"nobody has accepted the connection in {RECEIVER_SECONDS:.0f} s"
    return error.strerror or reason(error)


class Sender:
    """One such socket. It is connected early, so that a wrong path is an error before anything is created. It is
    found by an fd, so that its path may be longer than 108 bytes.
    """

    __slots__ = ("socket", "what", "word")

    def __init__(self, what: str, place: str, word: str) -> None:
        """`word`: what is sent with the descriptor."""
        self.what = what
        self.word = word
        try:
            with open_at(None, place, posix.O_PATH) as target:
                if path.file_type(target) != _stat.S_IFSOCK:
                    raise UsageError(what, place, "is not a socket")
                self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
                limit(self.socket)
                self.socket.connect(f"/proc/self/fd/{target.number}")
        except OSError as error:
            raise UsageError(what, place, why(error)) from error

    def send(self, fd: Fd) -> None:
        try:
            self.socket.sendmsg([self.word.encode()], [rights(fd)], _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise PyruncError(f"sending to the {self.what}", "", why(error)) from error
        self.socket.close()

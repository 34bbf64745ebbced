"""Unix sockets of the caller's that get a descriptor by SCM_RIGHTS: a terminal's master, a process's pidfd."""

import _socket
import posix

from pyrunc.errors import PyruncError, UsageError, reason
from pyrunc.init.context import rights
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at


class Sender:
    """One such socket. Connected early, so that a wrong path is an error before anything is created; through an fd,
    so that the path may be longer than 108 bytes."""

    __slots__ = ("socket", "what", "word")

    def __init__(self, what: str, place: str, word: str) -> None:
        """`word`: what is sent with the descriptor."""
        self.what = what
        self.word = word
        try:
            with open_at(None, place, posix.O_PATH) as target:
                if path.file_type(target) != path.S_IFSOCK:
                    raise UsageError(what, place, "is not a socket")
                self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
                self.socket.connect(f"/proc/self/fd/{target.number}")
        except OSError as error:
            raise UsageError(what, place, error.strerror or reason(error)) from error

    def send(self, fd: Fd) -> None:
        try:
            self.socket.sendmsg([self.word.encode()], [rights(fd)], _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise PyruncError(f"sending to the {self.what}", "", reason(error)) from error
        self.socket.close()

"""The host's end of a terminal: sent to who asked for it. The container's end is made in init/console.py."""

import _socket
import posix

from pyrunc.container.options import Options
from pyrunc.errors import PyruncError, UsageError, reason
from pyrunc.init.context import rights
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def receiver(options: Options, terminal: bool) -> "Callable[[Fd], None]":
    """Who gets the master. Raises UsageError where the options and `process.terminal` do not fit each other."""
    if terminal and options.detach and not options.console_socket and options.console is None:
        raise UsageError("cannot allocate tty if runc will detach without setting console socket")
    if options.console_socket and not (terminal and options.detach):
        raise UsageError("cannot use console socket if runc will not detach or allocate tty")
    if options.console_socket:
        return Sender(options.console_socket).send
    return options.console or _nobody


def _nobody(_: Fd) -> None:
    raise PyruncError("terminal", "", "nobody is there to take it")


class Sender:
    """A console socket: a Unix socket that gets the master by SCM_RIGHTS. Opened early, so that a wrong path is
    an error before anything is created; through the fd, so that the path may be longer than 108 bytes."""

    __slots__ = ("socket",)

    def __init__(self, place: str) -> None:
        try:
            with open_at(None, place, posix.O_PATH) as target:
                if path.file_type(target) != 0o140000:
                    raise UsageError("console socket", place, "is not a socket")
                self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
                self.socket.connect(f"/proc/self/fd/{target.number}")
        except OSError as error:
            raise UsageError("console socket", place, error.strerror or reason(error)) from error

    def send(self, master: Fd) -> None:
        try:
            self.socket.sendmsg([b"/dev/ptmx"], [rights(master)])
        except OSError as error:
            raise PyruncError("sending the terminal to the console socket", "", reason(error)) from error
        self.socket.close()
        master.close()

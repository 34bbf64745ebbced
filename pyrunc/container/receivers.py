"""Who gets the host's end of a terminal, and a process's pidfd. The terminal's other end: init/console.py."""

from pyrunc.container.options import Options
from pyrunc.errors import PyruncError, UsageError
from pyrunc.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def of_master(options: Options, terminal: bool) -> "Callable[[Fd], None]":
    """Raises UsageError where the options and `process.terminal` do not fit each other."""
    if terminal and options.detach and not options.console_socket and options.console is None:
        raise UsageError("cannot allocate tty if runc will detach without setting console socket")
    if options.console_socket and not (terminal and options.detach):
        raise UsageError("cannot use console socket if runc will not detach or allocate tty")
    if options.console_socket:
        from pyrunc.container.sender import Sender

        return Sender("console socket", options.console_socket, "/dev/ptmx").send
    return options.console or _nobody


def _nobody(_: Fd) -> None:
    raise PyruncError("terminal", "", "nobody is there to take it")


def of_pidfd(options: Options, kind: str) -> "Callable[[Fd], None]":
    """`kind`: the word that runc sends along, "standard" for a container's first process and "setns" for another."""
    takers = [] if options.pidfd is None else [options.pidfd]
    if options.pidfd_socket:
        from pyrunc.container.sender import Sender

        takers.append(Sender("pidfd socket", options.pidfd_socket, kind).send)

    def give(pidfd: Fd) -> None:
        for take in takers:
            take(pidfd)

    return give

"""The terminal that we were called at, and the container's, which takes its place."""

import fcntl
import posix
import termios

from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EINTR = 4
TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414


class Terminal:
    """Both of them.

    Attributes:
        master: the container's.
        ours: the first of our standard streams that is a terminal; when all are redirected, the one that we have
            all the same; None: there is none.
    """

    __slots__ = ("_settings", "_whole", "master", "ours")

    def __init__(self, master: Fd) -> None:
        self.master = master
        self.ours = _ours()
        self._whole = posix.isatty(0) and posix.isatty(1)
        self._settings: Any = None
        posix.set_blocking(master.number, False)
        if not self._whole:
            settings = termios.tcgetattr(master.number)
            settings[1] &= ~termios.ONLCR  # what is written down is the program's own lines, which end with \n
            termios.tcsetattr(master.number, termios.TCSANOW, settings)
        self.resize()

    def resize(self) -> None:
        """Our size is the container's too."""
        if self.ours is not None and self.master.number >= 0:
            try:
                fcntl.ioctl(self.master.number, TIOCSWINSZ, fcntl.ioctl(self.ours.number, TIOCGWINSZ, b"\0" * 8))
            except OSError:
                pass  # hung up

    def make_raw(self) -> None:
        """Every key is the container's: ours neither echoes nor interprets.

        Nor does it change what comes out, where all of that is the container's, whose own terminal has ended the lines.
        Keys that do not come to us stay what they are: then ^C is our signal, and passed on.
        """
        if not posix.isatty(0):
            return
        try:
            settings = termios.tcgetattr(0)
        except termios.error:
            return  # hung up
        if self._settings is None:
            self._settings = [*settings]
            self._settings[6] = [*settings[6]]
        settings[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON
                         | termios.IGNBRK | termios.PARMRK | termios.INLCR | termios.IGNCR)  # fmt: skip
        settings[1] &= ~termios.OPOST if self._whole else -1
        settings[2] = settings[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        settings[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        settings[6][termios.VMIN], settings[6][termios.VTIME] = 1, 0
        _set(settings)

    def restore(self) -> None:
        """As it was; unless another job has it now, whose it is to set."""
        if self._settings is None:
            return
        try:
            if posix.tcgetpgrp(0) != posix.getpgrp():
                return
        except OSError:
            pass  # not our controlling terminal: nobody is stopped for it
        _set(self._settings)


def _set(settings: "Any") -> None:
    """A job in the background is stopped here, until it is in the foreground."""
    while True:
        try:
            return termios.tcsetattr(0, termios.TCSANOW, settings)
        except termios.error as error:
            if error.args[0] != EINTR:
                return  # hung up


def _ours() -> "Fd | None":
    for number in (0, 1, 2):
        if posix.isatty(number):
            duplicate = Fd(posix.dup(number), "our terminal")
            posix.set_inheritable(duplicate.number, False)
            return duplicate
    try:
        return open_at(None, "/dev/tty", posix.O_RDWR)
    except OSError:
        return None

"""The terminal that we were called at, and the container's, which takes its place."""

import fcntl
import posix

from pyrunc.init.console import TIOCSWINSZ
from pyrunc.linux import termios
from pyrunc.linux.fd import Fd, open_at

TIOCGWINSZ = 0x5413


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
        self._settings: termios.Attributes | None = None
        posix.set_blocking(master.number, False)
        if not self._whole:
            settings = termios.get(master.number)
            settings.output &= ~termios.ONLCR  # what is written down is the program's own lines, which end with \n
            termios.set(master.number, settings)
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
            settings = termios.get(0)
            self._settings = self._settings or termios.get(0)
        except OSError:
            return  # hung up
        termios.make_raw(settings, output=self._whole)
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


def _set(settings: termios.Attributes) -> None:
    try:
        termios.set(0, settings)
    except OSError:
        pass  # hung up


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

"""Bytes between our standard streams and the container's terminal, and what else happens while a process runs."""

import posix
import select

from pyrunc.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.notify import Proxy

CHUNK = 1 << 16
END_OF_FILE = b"\x04"  # the key Ctrl-D


class Relay:
    """What passes bytes on, as long as a process runs.

    Args:
        master: the container's terminal; None: it has none.
        wake: a pipe. A signal writes to it, to wake us.
    """

    __slots__ = ("ended_in", "input_open", "line_open", "master", "poll", "proxy", "to_master", "wake")

    def __init__(self, master: "Fd | None", wake: Fd, proxy: "Proxy | None") -> None:
        self.master = master
        self.wake = wake
        self.proxy = proxy
        self.to_master = b""
        self.input_open = master is not None
        self.line_open = False  # whether something was typed after the last end of line
        self.ended_in = 0  # the terminal's mode when END_OF_FILE was typed
        self.poll = select.poll()
        self.poll.register(wake.number, select.POLLIN)
        if proxy is not None:
            self.poll.register(proxy.fileno(), select.POLLIN)
        self._watch()

    def _watch(self) -> None:
        """Choose what to poll. While the terminal can't take what was typed, no more input is read."""
        if self.master is None:
            self._unwatch(0)
            return
        self.poll.register(self.master.number, select.POLLIN | (select.POLLOUT if self.to_master else 0))
        if self.input_open and not self.to_master:
            self.poll.register(0, select.POLLIN)
        else:
            self._unwatch(0)

    def _unwatch(self, number: int) -> None:
        try:
            self.poll.unregister(number)
        except KeyError:
            pass

    def turn(self) -> None:
        """Wait until something happens, and pass it on."""
        for number, events in self.poll.poll():
            if number == self.wake.number:
                posix.read(number, CHUNK)
            elif self.proxy is not None and number == self.proxy.fileno():
                self.proxy.turn()
            elif self.master is None:
                continue  # the terminal has ended in this turn: nobody wants input any more
            elif number == 0:
                self._read_input()
            elif events & select.POLLOUT:
                self._write_master()
            else:
                self._read_master()
        self._watch()

    def _read_input(self) -> None:
        try:
            data = posix.read(0, CHUNK)
        except BlockingIOError:
            return  # another reader of our input was quicker
        except OSError:
            data = b""
        if data:
            self.line_open = data[-1:] not in (b"\n", b"\r", END_OF_FILE)
        else:  # our input has ended, so the container's ends too; in an open line the first key only sends off the line
            self.input_open = False
            self.ended_in = self._mode()
            data = END_OF_FILE * (1 + self.line_open)
        self.to_master += data

    def _end_again(self) -> None:
        """Type END_OF_FILE again, if the terminal's mode has changed since.

        A shell makes its terminal raw before it prompts. A key that the terminal took before that is lost: n_tty has
        made a NUL of it.
        """
        if not self.input_open and not self.to_master and self._mode() != self.ended_in:
            self.ended_in = self._mode()
            self.to_master = END_OF_FILE

    def _mode(self) -> int:
        """ICANON if the terminal collects lines, and so knows END_OF_FILE. 0 if the program does that itself, or the
        terminal is gone."""
        from pyrunc.linux import termios

        assert self.master is not None
        try:
            return termios.get(self.master.number).local & termios.ICANON
        except OSError:
            return 0

    def _write_master(self) -> None:
        assert self.master is not None
        try:
            self.to_master = self.to_master[posix.write(self.master.number, self.to_master) :]
        except BlockingIOError:
            pass

    def _read_master(self) -> None:
        """Pass on what the program has written. EIO is the end: nobody in the container has the terminal open any more.
        The container may still run."""
        assert self.master is not None
        try:
            data = posix.read(self.master.number, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and _write_output(data):
            self._end_again()
            return
        self._unwatch(self.master.number)
        if data:
            self.master.close()  # our output is gone: we close the terminal, and the container gets SIGHUP
        self.master = None

    def drain(self) -> None:
        """Pass on what the program wrote before it ended."""
        poll = select.poll()
        if self.master is not None:
            poll.register(self.master, select.POLLIN)
        while self.master is not None and poll.poll(0):
            self._read_master()


def _write_output(data: bytes) -> bool:
    """Write all of it, however long that takes. Returns False when nobody reads any more.

    Others share our standard output. They may have made it non-blocking, which applies to all who share it.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[posix.write(1, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(1, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True

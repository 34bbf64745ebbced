"""Standing in for a process at a terminal: signals passed on, its terminal joined to ours, its exit status ours."""

import _signal
import fcntl
import posix
import select

from pyrunc.container.container import exit_code
from pyrunc.linux.fd import Fd
from pyrunc.linux.process import PR_SET_CHILD_SUBREAPER, prctl

TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.container.notify import Proxy

CHUNK = 1 << 16
NOT_PASSED_ON = (_signal.SIGCHLD, _signal.SIGURG, _signal.SIGWINCH, _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE)
PASSED_ON = tuple(n for n in _signal.valid_signals() if n not in NOT_PASSED_ON and n not in (32, 33))


class Foreground:
    """From before the container is created, so that no signal and no death is missed (runc#5208), to its end.

    Until there is a process to pass them on to, signals that end a program end ours, by way of its clean-up. When it
    may be running already, and we have not heard of it yet, the first of them waits for it, and only a second ends us.
    """

    __slots__ = (
        "_handlers", "_settings", "master", "may_run", "pending", "pid", "subreaper",
        "wake_read", "wake_write",
    )  # fmt: skip

    def __init__(self, subreaper: bool = True) -> None:
        self.subreaper = subreaper
        self.master: Fd | None = None
        self.pid = 0
        self.may_run = False
        self.pending: list[int] = []
        self._settings: Any = None

    def __enter__(self) -> "Foreground":
        if self.subreaper:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self.wake_read, self.wake_write = Fd(read, "signals"), Fd(write, "signals")
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._handlers = {number: _signal.signal(number, self._on_signal) for number in (*PASSED_ON, 17, 28)}
        return self

    def __exit__(self, *_: object) -> None:
        _signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            if handler is not None:
                _signal.signal(number, handler)
        self._restore_terminal()
        self.wake_read.close()
        self.wake_write.close()

    def _on_signal(self, number: int, _: object) -> None:
        ends = number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)
        if ends and not self.pid and (not self.may_run or number in self.pending):
            raise KeyboardInterrupt
        self.pending.append(number)

    def take_master(self, master: Fd) -> None:
        """The container's terminal: joined to ours when it runs."""
        import termios

        posix.set_blocking(master.number, False)
        settings = termios.tcgetattr(master.number)
        settings[1] &= ~termios.ONLCR  # lines end as the program ends them: ours is there to add the CR
        termios.tcsetattr(master.number, termios.TCSANOW, settings)
        self.master = master

    def wait(self, pid: int, proxy: "Proxy | None" = None) -> int:
        """Until the process ends. Its exit status, as a shell shows it. `proxy`: hears of its readiness meanwhile."""
        self.pid = pid
        if proxy is not None:
            proxy.pid = pid
        if self.master is not None:
            self._raw_terminal()
            self._resize()
        relay = Relay(self.master, self.wake_read, proxy)
        while True:
            for number in self._take_pending():
                self._pass_on(number)
            status = self._reap()
            if status is not None:
                relay.drain()
                return exit_code(status)
            relay.turn()

    def _take_pending(self) -> "list[int]":
        pending, self.pending = self.pending, []
        return pending

    def _pass_on(self, number: int) -> None:
        if number == _signal.SIGWINCH:
            self._resize()
        elif number != _signal.SIGCHLD:
            try:
                posix.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def _reap(self) -> "int | None":
        """Bury every child that has died; the container's own gives its status."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return None
            if pid == self.pid:
                return status
            if not pid:
                return None

    def _resize(self) -> None:
        """Our terminal's size is the container's too."""
        if self.master is not None:
            try:
                fcntl.ioctl(self.master.number, TIOCSWINSZ, fcntl.ioctl(0, TIOCGWINSZ, b"\0" * 8))
            except OSError:
                pass  # standard input is no terminal: config.json's consoleSize stays

    def _raw_terminal(self) -> None:
        """Every key is the container's: ours neither echoes nor interprets."""
        import termios

        try:
            self._settings = termios.tcgetattr(0)
        except termios.error:
            return  # standard input is no terminal
        raw = termios.tcgetattr(0)
        raw[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON
                    | termios.IGNBRK | termios.PARMRK | termios.INLCR | termios.IGNCR)  # fmt: skip
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        raw[1] &= ~termios.OPOST
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSADRAIN, raw)

    def _restore_terminal(self) -> None:
        if self._settings is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._settings)


class Relay:
    """Bytes between our standard streams and the container's terminal, and the pipe that a signal wakes us by."""

    __slots__ = ("input_open", "master", "poll", "proxy", "to_master", "wake")

    def __init__(self, master: "Fd | None", wake: Fd, proxy: "Proxy | None") -> None:
        self.master = master
        self.wake = wake
        self.proxy = proxy
        self.to_master = b""
        self.input_open = master is not None
        self.poll = select.poll()
        self.poll.register(wake.number, select.POLLIN)
        if proxy is not None:
            self.poll.register(proxy.fileno(), select.POLLIN)
        self._watch()

    def _watch(self) -> None:
        """A key that the terminal can't take yet waits: then nothing more is read."""
        if self.master is None:
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
            elif number == 0:
                self._read_input()
            elif events & select.POLLOUT:
                self._write_master()
            elif not self._read_master():
                self._unwatch(number)
                self.master = None
        self._watch()

    def _read_input(self) -> None:
        try:
            data = posix.read(0, CHUNK)
        except OSError:
            data = b""
        self.to_master += data or b"\x04"  # the end of our input is the end of the container's
        self.input_open = bool(data)

    def _write_master(self) -> None:
        assert self.master is not None
        try:
            self.to_master = self.to_master[posix.write(self.master.number, self.to_master) :]
        except BlockingIOError:
            pass

    def _read_master(self) -> bool:
        """False at the end: EIO, when nobody in the container holds the terminal any more."""
        assert self.master is not None
        try:
            data = posix.read(self.master.number, CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        view = memoryview(data)
        while view:
            view = view[posix.write(1, view) :]
        return bool(data)

    def drain(self) -> None:
        """What the program wrote before it ended."""
        if self.master is None:
            return
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while poll.poll(0) and self._read_master():
            pass

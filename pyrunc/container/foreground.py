"""Stands in for a process at a terminal: passes signals on, joins the two terminals, and takes over its exit
status.
"""

import _signal
import posix

from pyrunc.container.container import exit_code
from pyrunc.container.relay import Relay
from pyrunc.errors import interrupt
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import pidfd_send_signal
from pyrunc.linux.process import PR_SET_CHILD_SUBREAPER, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from pyrunc.container.notify import Proxy
    from pyrunc.container.terminal import Terminal

# We have read or changed a terminal where another job is in the foreground: these two stop us, as any job.
JOB_CONTROL = (_signal.SIGTTIN, _signal.SIGTTOU)
NOT_PASSED_ON = (
    _signal.SIGCHLD, _signal.SIGURG, _signal.SIGWINCH, _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE, *JOB_CONTROL,
)  # fmt: skip
PASSED_ON = tuple(n for n in _signal.valid_signals() if n not in NOT_PASSED_ON and n not in (32, 33))
FATAL = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


class Foreground:
    """Entered before the container is created, so that no signal and no death is missed (runc#5208), and left at its
    end.

    Until there is a process to pass signals on to, those that end a program end this one, after its clean-up.
    """

    __slots__ = (
        "_handlers",
        "interrupted",
        "pending",
        "pidfd",
        "status",
        "subreaper",
        "terminal",
        "wake_read",
        "wake_write",
    )

    def __init__(self, subreaper: bool = True) -> None:
        self.subreaper = subreaper
        self.terminal: Terminal | None = None
        self.pidfd: Fd | None = None
        self.pending: list[int] = []
        self.interrupted = False
        self.status = 0  # of the process that was waited for, as waitpid(2) has it

    def __enter__(self) -> "Foreground":
        if self.subreaper:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self.wake_read, self.wake_write = Fd(read, "signals"), Fd(write, "signals")
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        handled = (*PASSED_ON, _signal.SIGCHLD, _signal.SIGWINCH)
        self._handlers = {number: _signal.signal(number, self._on_signal) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        _signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            if handler is not None:
                _signal.signal(number, handler)
        if self.terminal is not None:
            self.terminal.restore()
        for fd in (self.wake_read, self.wake_write, self.pidfd):
            if fd is not None:
                fd.close()

    def _on_signal(self, number: int, frame: "FrameType | None") -> None:
        """Pass it on at once. This is not left to wait(), which may be held up by a pipe that nobody reads."""
        if number == _signal.SIGWINCH:
            if self.terminal is not None:
                self.terminal.resize()
        elif self.pidfd is not None:
            self._pass_on(number)
        elif number in FATAL:
            if not self.interrupted:  # a second signal must not interrupt the clean-up
                self.interrupted = True
                interrupt(KeyboardInterrupt(number), frame)
        else:
            self.pending.append(number)

    def _pass_on(self, number: int) -> None:
        if number == _signal.SIGCHLD:
            return  # it has filled the pipe that wait() is woken by
        assert self.pidfd is not None
        try:
            pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass
        if number == _signal.SIGCONT and self.terminal is not None:
            self.terminal.make_raw()  # the shell that had stopped us has changed it

    def take_pidfd(self, pidfd: Fd) -> None:
        """Signals and keys go to this process from now on. Its program does not run yet: a signal that would end
        that ends the process.
        """
        self.pidfd = Fd(posix.dup(pidfd.number), pidfd.name)
        posix.set_inheritable(self.pidfd.number, False)
        if self.terminal is not None:
            self.terminal.make_raw()

    def take_master(self, master: Fd) -> None:
        """The container's terminal: it gets our size at once, and is joined to ours when the program runs."""
        from pyrunc.container.terminal import Terminal

        self.terminal = Terminal(master)

    def wait(self, pid: int, proxy: "Proxy | None" = None) -> int:
        """Wait until the process ends. Returns its exit status, as a shell shows it. `proxy` hears meanwhile when
        the container is ready.
        """
        for number in self.pending:
            self._pass_on(number)
        if proxy is not None:
            proxy.pid = pid
        relay = Relay(self.terminal.master if self.terminal else None, self.wake_read, proxy)
        while True:
            status = self._reap(pid)
            if status is not None:
                relay.drain()
                self.status = status
                return exit_code(status)
            relay.turn()

    def _reap(self, ours: int) -> "int | None":
        """Wait for every child that has ended. Returns the status of the container's own, if it is among them."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return None
            if pid == ours:
                return status
            if not pid:
                return None

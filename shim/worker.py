"""A worker: a child of the shim that does a verb that may wait. Whatever the child meets, the loop goes on.

The child is forked from the interpreter that runs, so there is nothing to start. When it ends, a process that it made
becomes the shim's child, as the shim is a subreaper. If it is killed, at any instant, it leaves what `delete --force`
removes, like any other caller of the library.
"""

import _signal
import _socket
import gc
import posix
import select
import sys
from _signal import SIGALRM, SIGKILL, SIGTERM

from pyrunc.container import state
from pyrunc.errors import CalledOff, is_cleaning_up, lose_no_interruption
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import pidfd_send_signal
from pyrunc.linux.process import clone3, die_with, keep_only
from pyrunc.log import Log, Timed
from pyrunc.shim import ttrpc
from pyrunc.shim.failure import in_words
from pyrunc.shim.ttrpc import Status
from pyrunc.spec.jsonc import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any

    from pyrunc.shim.loop import Loop, Timer

    Work = Callable[["Line"], Any]

LARGEST = 1 << 16
LONGEST_TEXT = 1 << 14
MOST_DESCRIPTORS = 8
MOST_SECONDS = 600.0  # for a verb without hooks whose caller has no deadline
GRACE_SECONDS = 3.0  # for a worker that was called off to undo what it has made
DEATH_SECONDS = 2.0  # for a worker that was killed to die
SOON_SECONDS = 0.005
HANGS = "it hangs in a system call, and outlives even SIGKILL"
BORN, ENDS, MASTER, HOOKS, STEP, RESULT, ERROR = "born", "ends", "master", "hooks", "step", "result", "error"


class Line:
    """A worker's end of its line to the shim: messages, and descriptors with them."""

    __slots__ = ("log", "socket")

    def __init__(self, socket: "_socket.socket", log: Log) -> None:
        self.socket = socket
        self.log: Log = _Log(log, self)

    def say(self, kind: str, value: object = None, fds: "Sequence[Fd | None]" = ()) -> None:
        """Send a message, with descriptors. None among them stands for one that is not there."""
        there = [fd.number for fd in fds if fd is not None]
        data = dumps([kind, value, [fd is not None for fd in fds]]).encode("utf-8", "surrogateescape")
        packed = b"".join(number.to_bytes(4, sys.byteorder) for number in there)
        control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if there else []
        self.socket.sendmsg([data], control, _socket.MSG_NOSIGNAL)

    def runs_hooks(self) -> None:
        """Tell the shim that hooks run from here on. By config.md and in runc a hook has no bound but its `timeout`. So
        the worker has none either. The loop does not wait for it, and Kill or the caller's deadline ends it."""
        self.say(HOOKS)


class _Log(Log):
    """The shim's log, in a worker. It knows what is being done, which a worker that is called off reports. It tells the
    shim how long steps took."""

    __slots__ = ("doing", "line")

    def __init__(self, log: Log, line: Line) -> None:
        super().__init__(log.file, log.json, log.debug_on)
        self.steps_on = log.steps_on
        self.line = line
        self.doing = ""

    def step(self, name: str) -> Timed:
        self.doing = name
        return super().step(name)

    def took(self, name: str, began: int, ended: int) -> None:
        self.line.say(STEP, [name, began, ended])


class Worker:
    """One verb of one container.

    Args:
        what: its name for people.
        work: is called in the child. What it returns is the answer, which must be JSON.
        told: is called here with what the child says meanwhile, and the descriptors that came with it.
        done: is called here, once: with the answer, or with the error.
        kept: descriptors that the work needs. The child closes all others.

    Attributes:
        born: the pidfd of a process that it has made and that may outlive it, once there is one.
        called_off: why it was told to end.
        died: it has ended without saying how it went.
        hangs: it outlives even SIGKILL.
        after: is called when it has ended.
    """

    __slots__ = (
        "after", "born", "called_off", "died", "done", "hangs", "log", "loop", "pid", "pidfd", "socket", "timer",
        "told", "what",
    )  # fmt: skip

    def __init__(
        self,
        loop: "Loop",
        log: Log,
        what: str,
        work: "Work",
        done: "Callable[[Any, Status | None], None]",
        told: "Callable[[str, Any, list[Fd | None]], None] | None" = None,
        kept: "Sequence[Fd | None]" = (),
    ) -> None:
        self.loop = loop
        self.log = log
        self.what = what
        self.done: Callable[[Any, Status | None], None] | None = done
        self.told = told
        self.born: Fd | None = None
        self.called_off: Status | None = None
        self.died = False
        self.hangs = False
        self.after: Callable[[], None] | None = None
        shim = posix.getpid()
        self.socket, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        numbers = [theirs.fileno(), *of_modules()]
        numbers += [fd.number for fd in (log.file, *kept) if fd is not None and fd.number >= 0]
        self.pid, pidfd = clone3(0)
        if pidfd is None:
            try:
                _become_worker(shim, numbers)
                _do(work, Line(theirs, log))
            finally:
                posix._exit(0)
        self.pidfd: Fd = pidfd
        theirs.close()
        self.socket.setblocking(False)
        loop.watch(self.socket.fileno(), select.POLLIN, self.hear)
        self.timer: Timer | None = loop.after(MOST_SECONDS, self._too_long)

    # --- what it says

    def hear(self, _: int = 0) -> None:
        while self.socket.fileno() >= 0:
            try:
                data, control, _, _ = self.socket.recvmsg(LARGEST, 64 + 4 * MOST_DESCRIPTORS, _socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, control = b"", []
            if not data:
                return self.loop.unwatch(self.socket.fileno())  # SIGCHLD tells the rest
            self._take(data, control)

    def _take(self, data: bytes, control: "list[tuple[int, int, bytes]]") -> None:
        came = [
            Fd(int.from_bytes(payload[at : at + 4], sys.byteorder), f"of {self.what}")
            for _, _, payload in control
            for at in range(0, len(payload) - 3, 4)
        ]
        message: Any = loads(data.decode("utf-8", "surrogateescape"))
        kind, value, there = message
        if len(came) < sum(there):
            return self.call_off(Status(ttrpc.RESOURCE_EXHAUSTED, f"{self.what}: too many open files"))
        fds = [came.pop(0) if each else None for each in there]
        if kind == BORN:
            self.born = fds[0]
        elif kind == STEP:
            self.log.took(*value)
        elif kind == HOOKS:
            self.loop.cancel(self.timer)
        elif kind == RESULT:
            self._finish(value, None)
        elif kind == ERROR:
            self._finish(None, Status(*value))
        elif self.told is not None:
            self.told(kind, value, fds)

    def _finish(self, value: "Any", error: "Status | None") -> None:
        if self.done is None:
            return
        done, self.done = self.done, None
        self.loop.cancel(self.timer)
        if error is not None and self.called_off is not None:
            error = Status(self.called_off.code, f"{self.called_off.message}: {error.message}")
        done(value, error)

    # --- its end

    @property
    def left_something(self) -> bool:
        """Whether some of what it made may be left."""
        return self.died or self.called_off is not None

    def call_off(self, why: Status) -> None:
        """Tell it to end. It undoes what it has made, and what it says then is the error's text. If it does not end, it
        is killed."""
        if self.called_off is not None or self.done is None:
            return
        self.called_off = why
        self.loop.cancel(self.timer)
        self._signal(SIGTERM)
        self.timer = self.loop.after(GRACE_SECONDS, self._kill)

    def _too_long(self) -> None:
        self.call_off(Status(ttrpc.DEADLINE_EXCEEDED, f"{self.what} has not ended in {MOST_SECONDS:.0f} s"))

    def _kill(self) -> None:
        self._signal(SIGKILL)
        self.timer = self.loop.after(DEATH_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Answer without it: its caller has waited for long enough."""
        self.hangs = True
        self._finish(None, Status(ttrpc.DEADLINE_EXCEEDED, HANGS))

    def _signal(self, number: int) -> None:
        try:
            pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def ended(self, status: int) -> None:
        """It has ended, and was waited for."""
        self.hear()
        self.loop.cancel(self.timer)
        if self.socket.fileno() >= 0:
            self.loop.unwatch(self.socket.fileno())
        self.socket.close()
        self.pidfd.close()
        if self.done is not None:
            self.died = True
            self._finish(None, Status(ttrpc.UNKNOWN, f"{self.what}: its process {_end_of(status)} before it was done"))
        if self.born is not None:
            self.born.close()
        if self.after is not None:
            self.after()


def of_modules() -> "list[int]":
    """The descriptor from which modules come (launcher/boot.py): a worker may need one that the shim has not loaded."""
    return [finder.descriptor for finder in sys.meta_path if hasattr(finder, "descriptor")]


def _end_of(status: int) -> str:
    if posix.WIFSIGNALED(status):
        return f"was ended by signal {posix.WTERMSIG(status)}"
    return f"ended with {posix.WEXITSTATUS(status)}"


def _become_worker(shim: int, kept: "list[int]") -> None:
    """Set up the child. It keeps nothing of the shim's: neither the listener, nor a connection, nor an end of a stream,
    whose reader would wait for us."""
    _signal.set_wakeup_fd(-1)
    die_with(shim)
    keep_only(3, kept)
    gc.disable()  # it ends soon, and would copy every page that it looks at
    state.lives_for_one_verb = True
    lose_no_interruption()


def _do(work: "Work", line: Line) -> None:
    """Do the work, in the child. Everything that it can raise becomes words."""

    def called_off(_: int, frame: "FrameType | None") -> None:
        if is_cleaning_up(frame):
            _signal.setitimer(_signal.ITIMER_REAL, SOON_SECONDS)
            return
        no_more()  # nothing may interrupt the undoing
        assert isinstance(line.log, _Log)
        raise CalledOff(f"at {line.log.doing}" if line.log.doing else "at once")

    def no_more() -> None:
        for number in (SIGTERM, SIGALRM):
            _signal.signal(number, _signal.SIG_IGN)

    try:
        for number in (SIGTERM, SIGALRM):
            _signal.signal(number, called_off)
        value = work(line)
        no_more()
        line.say(RESULT, value)
    except BaseException as error:
        status = in_words(error)
        line.say(ERROR, [status.code, status.message[:LONGEST_TEXT]])

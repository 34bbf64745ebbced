"""What a runner is doing, and how it is called off."""

import _signal
import _socket
import fcntl
import posix
import select

from pyrunc.errors import CalledOff, is_cleaning_up, lose_no_interruption
from pyrunc.library import wire
from pyrunc.linux.fd import Fd
from pyrunc.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from pyrunc.library.wire import Message

POLLRDHUP = 0x2000
F_SETOWN = 8
SOON_SECONDS = 0.005
GONE, TOO_LATE, ENDING = "the caller has called it off", "time is up", "the program has ended"


class Job:
    """What a runner is doing.

    Attributes:
        worker: the socket to the worker.
        line: the socket to the caller; None: there is no caller.
        fds: the descriptors that came with the request.
        log: collects warnings, which go with the answer.
        armed: it may be called off here and now; then CalledOff is raised.
        why: why it was called off, one of the texts above; "": it was not.
        once: the runner must end after this job.
        signals: a pipe that every signal writes to.
    """

    __slots__ = ("armed", "fds", "line", "log", "once", "signals", "why", "worker")

    def __init__(
        self, worker: "_socket.socket", line: "_socket.socket | None", fds: "list[Fd]", signals: Fd
    ) -> None:  # fmt: skip
        self.worker = worker
        self.signals = signals
        self.line = line
        self.fds = fds
        self.log = Warnings()
        self.armed = False
        self.why = ""
        self.once = False

    def watch(self) -> None:
        """Let signals call the job off when the caller goes or time is up. They interrupt whatever the runtime does."""
        lose_no_interruption()
        _signal.signal(_signal.SIGTERM, lambda _, frame: self._called_off(ENDING, frame))
        _signal.signal(_signal.SIGALRM, lambda _, frame: self._called_off(TOO_LATE, frame))
        _signal.signal(_signal.SIGIO, self._stirred)
        if self.line is not None:
            fcntl.fcntl(self.line.fileno(), F_SETOWN, posix.getpid())
            flags = fcntl.fcntl(self.line.fileno(), fcntl.F_GETFL)
            fcntl.fcntl(self.line.fileno(), fcntl.F_SETFL, flags | fcntl.FASYNC)
            if self.is_gone:
                self.why = GONE

    def _stirred(self, _: int, frame: "FrameType | None") -> None:
        """Something has happened on the line."""
        if self.is_gone:
            self._called_off(GONE, frame)

    def _called_off(self, why: str, frame: "FrameType | None" = None) -> None:
        """Raise CalledOff if the job is armed. During a clean-up, try again soon.

        Args:
            frame: what a signal has interrupted.
        """
        self.why = self.why or why
        if self.armed and is_cleaning_up(frame):
            self.alarm(SOON_SECONDS)
        elif self.armed:
            self.armed = False  # nothing may interrupt the undoing
            raise CalledOff(self.why)

    def arm(self) -> None:
        """From here to `disarm` the job may be called off. Raises CalledOff at once if that has already happened."""
        self.armed = True
        if self.why:
            self._called_off(self.why)

    def disarm(self) -> None:
        self.armed = False

    def alarm(self, seconds: float) -> None:
        """Call the job off after so many seconds; 0: never."""
        _signal.setitimer(_signal.ITIMER_REAL, seconds)

    @property
    def is_gone(self) -> bool:
        """Whether the caller has gone."""
        if self.line is None or self.line.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self.line.fileno(), POLLRDHUP)
        return bool(poll.poll(0))

    def wait_for(self, file: "Fd | _socket.socket") -> None:
        """Wait until there is something to read. Raises CalledOff.

        Every wait that may be long happens here. A signal that arrives right before a system call doesn't interrupt
        the call, so poll(2) watches the signals' pipe too.
        """
        poll = select.poll()
        poll.register(file.fileno(), select.POLLIN)
        poll.register(self.signals.number, select.POLLIN)
        while [number for number, _ in poll.poll()] == [self.signals.number]:
            posix.read(self.signals.number, 4096)

    def hear(self) -> "tuple[Message, list[Fd]]":
        """The caller's next message. Raises CalledOff."""
        assert self.line is not None
        self.wait_for(self.line)
        received = wire.receive(self.line)
        if received is None:
            raise CalledOff(GONE)
        return received

    def answers(self, line: "_socket.socket") -> None:
        """Serve another caller from now on."""
        assert self.line is not None
        self.line.close()
        self.line = line
        self.watch()
        self.arm()

    def answer(self, message: "Message", fds: "list[Fd] | None" = None) -> None:
        if self.line is None or self.line.fileno() < 0:
            return
        if self.log.texts:
            message["warnings"], self.log.texts = self.log.texts, []
        try:
            wire.send(self.line, message, fds or ())
        except OSError:
            pass  # the caller has gone

    def born(self, pid: int) -> None:
        """Tell the worker of a process that outlives us: the worker waits for its end."""
        wire.send(self.worker, {"born": pid})

    def rest(self) -> None:
        """The job is over: it can't be called off any more."""
        self.alarm(0)
        self.disarm()

    def close(self) -> None:
        for fd in self.fds:
            fd.close()
        if self.line is not None:
            self.line.close()


class Warnings(Log):
    """A log for the caller: warnings go with the answer and not to standard error."""

    __slots__ = ("texts",)

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, level: str, text: str) -> None:
        self.texts.append(text)

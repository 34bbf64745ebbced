"""A runner: a child of the worker's, which does one thing at a time that may wait.

It is forked from the interpreter that is there, and used again: a fork, and the pages that it copies, cost a third of a
container. Those that make a process which somebody else is to wait for end at once, as that is the worker's child then.
Killed, by the end of the worker too, it leaves what `delete --force` removes; told to end, it undoes what it has made.
"""

import _signal
import _socket
import posix
import sys

from pyrunc.errors import PyruncError
from pyrunc.library import jobs, wire
from pyrunc.library.errors import as_message
from pyrunc.library.job import Job
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import pidfd_send_signal
from pyrunc.linux.process import clone3, die_with, keep_only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pyrunc.library.wire import Message

    Kind = tuple[str, str]

MOST_JOBS = 500


class Made:
    """A process that somebody waits for: a container's first, or one that was added.

    Attributes:
        line: where its end is told.
        place: of a container: its root and ID, to remove it when the line is closed and it belongs to who had it.
    """

    __slots__ = ("born", "line", "owned", "pid", "place")

    def __init__(self, line: "_socket.socket", place: "tuple[str, str] | None") -> None:
        self.line = line
        self.place = place
        self.owned = False
        self.born = False
        self.pid = 0


class Runner:
    """The worker's side of one.

    Attributes:
        request: what it is doing; None: it waits.
        made: the process that it makes, for whom somebody waits.
        line: on which it was told for whom the container is that it had made ahead.
        next: the kind of the run that it does, if that comes often, and the request: for one more.
    """

    __slots__ = ("line", "made", "next", "pid", "pidfd", "request", "socket")

    def __init__(self, pid: int, pidfd: Fd, socket: "_socket.socket") -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.socket = socket
        self.request: Message | None = None
        self.line: _socket.socket | None = None
        self.made: Made | None = None
        self.next: tuple[Kind, Message] | None = None
        socket.setblocking(False)

    @classmethod
    def fork(cls) -> "Self":
        worker = posix.getpid()
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        pid, pidfd = clone3(0)
        if pidfd is not None:
            theirs.close()
            return cls(pid, pidfd, ours)
        status = 1
        try:
            signals = _become_runner(worker, theirs.fileno())
            _serve(theirs, signals)
            status = 0
        finally:
            posix._exit(status)

    def call_off(self) -> None:
        try:
            pidfd_send_signal(self.pidfd, _signal.SIGTERM)
        except ProcessLookupError:
            pass


def descriptors_of_modules() -> "list[int]":
    """Of the archive that modules come from (launcher/boot.py): one may be loaded later."""
    return [finder.descriptor for finder in sys.meta_path if hasattr(finder, "descriptor")]


def _become_runner(worker: int, line: int) -> Fd:
    """Returns what signals write to: see Job.wait_for."""
    _signal.set_wakeup_fd(-1)
    die_with(worker, _signal.SIGTERM)
    keep_only(3, [line, *descriptors_of_modules()])
    read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
    _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return Fd(read, "signals")


def _serve(worker: "_socket.socket", signals: Fd) -> None:
    for number in range(MOST_JOBS):
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        received = wire.receive(worker)
        if received is None:
            return
        message, fds = received
        job = Job(worker, _socket.socket(fileno=fds[0].take()) if fds else None, fds[1:], signals)
        answer = _do(job, message)
        again = message["verb"] not in jobs.ONCE and not job.once and number < MOST_JOBS - 1
        if again:
            wire.send(worker, {"idle": True})  # first: who is answered may ask for the next thing at once
        job.answer(answer)
        job.close()
        if not again:
            return


def _do(job: Job, message: "Message") -> "Message":
    """What is asked for, and the answer. After a mistake of ours nobody knows what the runner is good for."""
    try:
        job.watch()
        return {"result": jobs.TO_BE_RUN[message["verb"]](job, message)}
    except BaseException as error:
        job.once = job.once or not isinstance(error, PyruncError)
        return {"error": as_message(error)}
    finally:
        job.once = job.once or bool(job.why)  # a signal may have interrupted a clean-up: what it left ends with us
        job.rest()

"""A runner: a child of the worker that does what may wait, one thing at a time.

A fork, and the pages that it copies, cost a third of a container. So a runner is forked from the interpreter that is
running, and is used again. A runner that makes a process for somebody else to wait for ends at once, as the process is
the worker's child then. A runner that is killed, also by the end of the worker, leaves what `delete --force` removes.
A runner that is told to end undoes what it has made.
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
        line: the socket on which its end is told.
        place: the container's state root and ID. If its owner closes the line, the container is removed.
    """

    __slots__ = ("born", "line", "owned", "pid", "place")

    def __init__(self, line: "_socket.socket", place: "tuple[str, str] | None") -> None:
        self.line = line
        self.place = place
        self.owned = False
        self.born = False
        self.pid = 0


class Runner:
    """The worker's side of a runner.

    Attributes:
        request: what it is doing; None: it waits.
        made: the process that it makes, if somebody waits for that.
        line: the socket on which it was told who gets the container that it made ahead.
        next: the kind of its run and the request, if that kind comes often: one more is then made ahead.
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
    """The descriptor of the archive that modules come from (launcher/boot.py). A module may be loaded later."""
    return [finder.descriptor for finder in sys.meta_path if hasattr(finder, "descriptor")]


def _become_runner(worker: int, line: int) -> Fd:
    """Set the child up. Returns the pipe that signals write to (Job.wait_for)."""
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
            wire.send(worker, {"idle": True})  # before the answer: its reader may ask for the next thing at once
        job.answer(answer)
        job.close()
        if not again:
            return


def _do(job: Job, message: "Message") -> "Message":
    """Do what is asked for, and return the answer. After a bug of ours the runner is not used again."""
    try:
        job.watch()
        return {"result": jobs.TO_BE_RUN[message["verb"]](job, message)}
    except BaseException as error:
        job.once = job.once or not isinstance(error, PyruncError)
        return {"error": as_message(error)}
    finally:
        job.once = job.once or bool(job.why)  # a signal may have cut a clean-up short: what it left ends with us
        job.rest()

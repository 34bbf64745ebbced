"""The shim itself: what the process of `start` becomes."""

import _signal
import gc
import posix
import time

from pyrunc.linux.fd import Fd, open_at, write_file
from pyrunc.linux.process import PR_SET_CHILD_SUBREAPER, prctl
from pyrunc.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from pyrunc.shim.events import Publisher
    from pyrunc.shim.exporter import Exporter
    from pyrunc.shim.loop import Loop
    from pyrunc.shim.server import Server
    from pyrunc.shim.tasks import Tasks

NAME = b"containerd-shim"
# These are containerd's, or systemd's for containerd. The runtime would take them for its own.
NOT_OURS = (b"NOTIFY_SOCKET", b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES")
LINGER_SECONDS = 60.0
SIGNALLED_SECONDS = 3.0
UNUSED_SECONDS = 5.0
# If one of them is in containerd's environment, calls are traced. If not, no code for that is loaded.
TRACED = (
    b"PYRUNC_TRACES_FILE", b"PYRUNC_TIMELINE_FILE", b"OTEL_EXPORTER_OTLP_ENDPOINT",
    b"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)  # fmt: skip


def serve(listener: "_socket.socket", path: str, flags: "dict[str, str]") -> None:
    """Serve until containerd says Shutdown, or a signal ends us."""
    posix.setsid()
    log_fd = _open_log()
    for variable in NOT_OURS:
        posix.environ.pop(variable, None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    write_file("/proc/self/comm", NAME)
    _raise_oom_score()

    from pyrunc.shim.streams import StandardStreams  # what follows is loaded while containerd reads our address

    standard = StandardStreams(log_fd)
    from pyrunc.shim.children import Children
    from pyrunc.shim.listener import leave
    from pyrunc.shim.loop import Loop
    from pyrunc.shim.server import Server
    from pyrunc.shim.service import NAMES, Service
    from pyrunc.shim.tasks import Tasks

    log = Log(standard.log, debug="debug" in flags)
    loop = Loop(log)
    exporter: Exporter | None = None
    if any(posix.environ.get(name) for name in TRACED):
        from pyrunc.shim.exporter import exporter as made

        exporter = made(loop, log, flags["namespace"])
    publisher, ended = _publisher(loop, log, flags)
    ending = Ending(loop, publisher, lambda: leave(listener, path))
    at_shutdown = ending.when_unused if "shared" in flags else ending.at_once
    children = Children(loop, log, standard, ended)
    tasks = Tasks(children, log, flags["namespace"], path, publisher, at_shutdown)
    tracer = None if exporter is None else exporter.tracer
    ending.tasks = tasks
    ending.server = Server(loop, log, listener, path, NAMES, Service(tasks).methods(), tracer)
    loop.on_signals({
        _signal.SIGCHLD: children.reap, _signal.SIGUSR1: tasks.describe,
        _signal.SIGTERM: ending.by_signal, _signal.SIGINT: ending.by_signal,
    })  # fmt: skip
    from pyrunc import cgroups
    from pyrunc.container import create  # noqa: F401  # for the first container, which is about to come

    cgroups.load_code()
    gc.freeze()
    gc.enable()  # a daemon lives longer than a command
    loop.run()
    if exporter is not None:
        exporter.send()


class Ending:
    """How the shim ends: when containerd tells it to, when it is not used any more, or by a signal."""

    server: "Server"
    tasks: "Tasks"

    def __init__(self, loop: "Loop", publisher: "Publisher", leave: "Callable[[], bool]") -> None:
        """`leave`: gives the address up, unless somebody is about to use it."""
        self.loop = loop
        self.publisher = publisher
        self.leave = leave

    def at_once(self) -> None:
        """Give up the address, then end. Shutdown is answered after that: the next `start` of this name must not find
        us there."""
        self.server.close()
        self._linger(LINGER_SECONDS)

    def when_unused(self) -> None:
        """End a namespace's only shim once nobody uses it. A `start` of another container may just have found it, and
        counts on it."""
        if self.tasks.by_id:
            return
        rest = self.server.came + UNUSED_SECONDS - time.monotonic()
        if rest > 0:
            self.loop.after(rest, self.when_unused)
        elif self.leave():
            self.at_once()
        else:
            self.loop.after(UNUSED_SECONDS, self.when_unused)

    def by_signal(self) -> None:
        """End soon: whoever shuts the machine down does not wait for long."""
        self.server.close()
        self._linger(SIGNALLED_SECONDS)

    def _linger(self, patience: float, pause: float = 0.01) -> None:
        """End when the last answer and the last event are sent: containerd may be about to restart just now."""
        if patience <= 0 or (self.server.idle and not self.publisher.queue):
            self.loop.over = True
        else:
            self.loop.after(pause, lambda: self._linger(patience - pause, min(pause * 1.5, 0.5)))


def _open_log() -> "Fd | None":
    """Open the log, which containerd reads. It is opened for both directions, as containerd may restart, and without
    waiting, as containerd may not read."""
    try:
        return open_at(None, "log", posix.O_RDWR | posix.O_NONBLOCK)
    except OSError:
        return None


def _raise_oom_score() -> None:
    """Make the kernel kill us before containerd, and the container before us, when memory runs out."""
    try:
        with open_at(None, "/proc/self/oom_score_adj", posix.O_RDWR) as file:
            score = int(posix.read(file.number, 16))
            posix.write(file.number, str(min(score + 1, 1000)).encode())
    except OSError:
        pass  # a wish, not a condition


def _publisher(loop: "Loop", log: Log, flags: "dict[str, str]") -> "tuple[Publisher, Callable[[int, int], None]]":
    """The publisher of events, and the function that is told of the end of an unknown child: that may be containerd's
    program that publishes."""
    from pyrunc.shim.events import Publisher

    made = Publisher(loop, log)
    address = posix.environ.get(b"TTRPC_ADDRESS", b"").decode("utf-8", "surrogateescape")
    if address:
        from pyrunc.shim.forward import Forward

        made.way = Forward(made, address, flags["namespace"])
    elif flags.get("publish-binary") and flags.get("address"):
        from pyrunc.shim.publish import Program

        made.way = program = Program(made, flags["publish-binary"], flags["address"], flags["namespace"])
        return made, program.ended
    else:
        log.warning("there is neither a TTRPC_ADDRESS nor a -publish-binary: nobody gets events")
    return made, _nobody


def _nobody(pid: int, status: int) -> None:
    """Do nothing: it is an orphan of a container, or a logger."""

"""The program's side of the worker: starting it and asking it. Any thread may ask; no thread of ours runs here.

Each request has a socket of its own, the line. One end goes to the worker with the request; the answer comes to the
other end. So no thread reads for others, no lock is held while somebody waits, and an event loop watches a line like
any socket. Shutting a line down calls off the request.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
import weakref
from typing import Any, cast

from pyrunc.container.state import StateRoot
from pyrunc.errors import ConfigError, PyruncError, UsageError
from pyrunc.library import given, wire
from pyrunc.library.errors import TimeoutExpired, WorkerError, of_message
from pyrunc.linux.fd import Fd
from pyrunc.spec.jsonc import dumps

PROGRAM = "pyrunc-worker"
CONTROL = 3
# The worker, a hook or systemd's client may need these. The rest of the environment stays in the program.
VARIABLES = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LANG")
END_SECONDS = 20.0  # when the program ends, the worker has this long to remove what belongs to it
# For an interpreter that is not sealed: the installation has no launcher.
UNSEALED = "import sys; sys.path[:] = sys.argv.pop(1).split(':'); from pyrunc.library.bare import main; main()"


class Line:
    """The program's end of the socket that belongs to one request."""

    __slots__ = ("__weakref__", "pid", "socket", "worker")

    def __init__(self, socket: socket.socket, worker: "Worker") -> None:
        self.socket = socket
        self.worker = worker
        self.pid = os.getpid()
        _lines.add(self)

    def fileno(self) -> int:
        return self.socket.fileno()

    def receive(self, timeout: float | None = None, what: str = "the worker") -> tuple[dict[str, Any], list[Fd]]:
        """The next message. Raises the worker's error, TimeoutExpired, or WorkerError when no message can come."""
        if self.socket.fileno() < 0:
            cause = "it was closed" if self.pid == os.getpid() else "it is our parent's, and a fork has none of it"
            raise UsageError(what, "", cause)
        if timeout is not None and not wait_for(self, timeout):
            raise TimeoutExpired(what, timeout)
        return self.take(wire.receive(cast("Any", self.socket)), what)

    def take(self, received: "tuple[dict[str, Any], list[Fd]] | None", what: str) -> tuple[dict[str, Any], list[Fd]]:
        if received is None:
            raise WorkerError(what, "", f"the process that was at it has died{self.worker.last_words()}")
        message, fds = received
        for text in message.pop("warnings", ()):
            warn(text)
        if "error" in message:
            raise of_message(message["error"])
        return message, fds

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message. If the other end is closed, the next `receive` says so."""
        try:
            wire.send(cast("Any", self.socket), message)
        except OSError:
            pass

    def call_off(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def abandon(self) -> None:
        """Give the request up: if its container or process is there already, it is removed."""
        self.tell({"own": True})
        self.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def warn(text: str) -> None:
    import logging

    logging.getLogger("pyrunc").warning("%s", text)


def wait_for(line: Line, seconds: float) -> bool:
    """Whether a message comes within that time."""
    poll = select.poll()
    poll.register(line.fileno(), select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


class Worker:
    """A worker that was started, and for whom: a program whose rights have changed since needs another worker."""

    __slots__ = ("pid", "socket", "who", "words")

    def __init__(self) -> None:
        self.who = _who()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.words = Fd(os.memfd_create("pyrunc worker", os.MFD_CLOEXEC), "its standard error")
        with theirs:
            self.pid = _spawn(theirs.fileno(), self.words.number)

    def last_words(self) -> str:
        """The last line that the worker or a runner wrote before it died. Any such line is a bug of ours."""
        if self.words.number < 0:
            return ""
        text = os.pread(self.words.number, 1 << 16, 0).decode("utf-8", "replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""

    def close(self, seconds: float = 0.0) -> None:
        """Close our end, at which the worker ends, and wait for that. Other code of the program may have reaped it."""
        self.socket.close()
        self.words.close()
        deadline = time.monotonic() + seconds
        while self.who[0] == os.getpid():
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0] or time.monotonic() >= deadline:
                    return
            except ChildProcessError:
                return
            time.sleep(0.002)


_lines: "weakref.WeakSet[Line]" = weakref.WeakSet()
_lock = threading.Lock()
_worker: Worker | None = None


def _who() -> tuple[int, int, int]:
    return os.getpid(), os.geteuid(), os.getegid()


def _spawn(control: int, words: int) -> int:
    """Start the worker by posix_spawn(3). A fork would copy the locks that our threads hold."""
    program = _program()
    null = os.devnull
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, number, null, os.O_RDWR, 0) for number in range(2)]
    moved = control
    if control <= CONTROL:  # it has a low number when our own standard streams are closed
        moved = os.dup2(control, 100, inheritable=False)
    actions += [(os.POSIX_SPAWN_DUP2, words, 2), (os.POSIX_SPAWN_DUP2, moved, CONTROL)]
    environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    try:
        return os.posix_spawn(
            program[0], program, environment, file_actions=actions, setsid=True, setsigmask=(),
            setsigdef=[n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)],
        )  # fmt: skip
    except OSError as error:
        raise WorkerError("starting the worker", program[0], error.strerror or str(error)) from error
    finally:
        if moved != control:
            os.close(moved)


def _program() -> list[str]:
    """The launcher where pip has put it, or else our interpreter, which seals itself (bare.py)."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    home = os.path.dirname(package)
    place = home
    for _ in range(4):
        candidate = os.path.join(place, "bin", PROGRAM)
        if os.access(candidate, os.X_OK):
            return [candidate]
        place = os.path.dirname(place)
    paths = [path for path in sys.path if path and ":" not in path]
    return [sys.executable, "-I", "-B", "-Xutf8", "-c", UNSEALED, ":".join(paths)]


def request(message: dict[str, Any], fds: "tuple[int, ...] | list[int]" = ()) -> Line:
    """Ask for something. If this process has no worker yet, one is started."""
    config = _text(message["config"]) if "config" in message else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for attempt in range(2):
            worker = _current()
            try:
                if config is not None:
                    message["config"] = config
                wire.send(cast("Any", worker.socket), message, [theirs.fileno(), *fds])
                return Line(ours, worker)
            except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
                cause = f"it dies as soon as it is started{worker.last_words()}"
                _discard(worker)
                if attempt:
                    ours.close()
                    raise WorkerError("asking the worker", "", cause) from None
            except BaseException:
                ours.close()
                raise
    raise AssertionError


def _text(config: object) -> bytes:
    try:
        return dumps(config).encode("utf-8", "surrogateescape")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError("config.json", "", f"it has a value that JSON has not: {error}") from error


def ask(message: dict[str, Any], what: str, timeout: float | None = None) -> Any:
    """Ask for something, and wait for the one answer."""
    with request(message) as line:
        return line.receive(timeout, what)[0]["result"]


def _current() -> Worker:
    global _worker
    worker = _worker
    if worker is not None and worker.who == _who():
        return worker
    with _lock:
        if _worker is not None and _worker.who != _who():
            _worker.close()
            _worker = None
        if _worker is None:
            _worker = Worker()
        return _worker


def _discard(worker: Worker) -> None:
    global _worker
    with _lock:
        if _worker is worker:
            _worker = None
            worker.close(0.1)


def _in_fork() -> None:
    """Close the worker's sockets in a child that was forked from us. They are not the child's, and while it held them
    the worker would take us to be alive."""
    global _worker, _lock
    _lock = threading.Lock()
    if _worker is not None:
        _worker.socket.close()
        _worker.words.close()
        _worker = None
    for line in [*_lines]:
        line.socket.close()


def _at_exit() -> None:
    global _worker
    worker, _worker = _worker, None
    if worker is not None:
        worker.close(END_SECONDS)


os.register_at_fork(after_in_child=_in_fork)
# Python joins its threads before it runs atexit's functions: they may use the worker to their end.
import atexit  # noqa: E402

atexit.register(_at_exit)


def state_root(root: "str | os.PathLike[str] | None") -> str:
    """The absolute path of a state root: the worker has another working directory."""
    if root is None:
        return StateRoot.default().path
    return os.path.abspath(given.path(root, "state_root"))


__all__ = ["Line", "PyruncError", "Worker", "ask", "request", "state_root", "wait_for", "warn"]

"""Opening what a process's streams lead to, as containerd names it: fifos, files, loggers.

To open one may mean to wait for a reader, for a file server or for a logger. So a worker calls this, not the loop.
"""

import _signal
import posix
import time
from _stat import S_IFIFO

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, make_directories, open_at, write_all
from pyrunc.linux.mount import AT_FDCWD
from pyrunc.linux.path import RESOLVE_CACHED, file_type, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    # standard input, output, error; and a pipe whose end says that the files have all that was written
    Ends = list[Fd | None]

FIFO, FILE_TYPE = 0o010000, 0o170000
LOGGERS = ("binary", "binary-v2")
KINDS = ("", "fifo", "file", *LOGGERS)
CHUNK = 1 << 16
READER_SECONDS = 0.25  # an engine may take so long to open the fifos that it has made
PAUSE_SECONDS = 0.001
NO_READER = 6  # ENXIO


def open_ends(names: "tuple[str, str, str]", container: "tuple[str, str]", patience: float = 0.0) -> "Ends":
    """Open all ends of a process. Raises PyruncError.

    An engine that hears of a process's end while it still opens the fifos may take that for an error and read nothing,
    as containerd's client does. So we wait for the readers.

    Args:
        container: its ID and namespace, for a logger.
        patience: how long to wait for the readers of fifos, in seconds.
    """
    ends: Ends = [None, None, None, None]
    if names[0]:
        ends[0] = _open(names[0], posix.O_RDONLY | posix.O_NONBLOCK)
    if _kind(names[1]) in LOGGERS:
        from pyrunc.shim.logger import start

        ends[1], ends[2] = start(names[1], *container)
        return ends
    deadline = time.monotonic() + patience
    files = Files()
    for index in (1, 2):
        if names[index]:
            ends[index] = _open_sink(names[index], files, deadline)
    ends[3] = files.ended()
    return ends


def open_at_once(names: "tuple[str, str, str]") -> "tuple[Ends, bool]":
    """Open the ends that need no waiting, and say whether these are all. If not, `open_ends` opens all or says why not.

    They are fifos that are in the kernel's cache (RESOLVE_CACHED, Linux 5.12) and have their readers. Those that are
    open must stay open until all are: a client that finds a writer, and then none, takes that for the end.
    """
    ends: Ends = [None, None, None, None]
    try:
        for index, name in enumerate(names):
            if name:
                ends[index] = _open_known(name, index > 0)
                if ends[index] is None:
                    return ends, False
    except OSError:
        return ends, False
    return ends, True


def _open_known(name: str, is_sink: bool) -> "Fd | None":
    if not name.startswith("/"):
        return None
    here = Fd(AT_FDCWD)
    if is_sink:
        with openat2(here, name, posix.O_WRONLY | posix.O_NONBLOCK, resolve=RESOLVE_CACHED):
            fd = openat2(here, name, posix.O_RDWR | posix.O_NONBLOCK, resolve=RESOLVE_CACHED)
    else:
        fd = openat2(here, name, posix.O_RDONLY | posix.O_NONBLOCK, resolve=RESOLVE_CACHED)
    return fd if file_type(fd) == S_IFIFO else None


def _kind(name: str) -> str:
    scheme = name.partition("://")[0] if "://" in name else ""
    if scheme not in KINDS:
        raise PyruncError("opening", name, f"{scheme}:// is no kind of stream", "fifo, file, binary or binary-v2")
    return scheme


def _open_sink(name: str, files: "Files", deadline: float) -> Fd:
    kind = _kind(name)
    path = name.partition("://")[2] if kind else name
    if kind in LOGGERS:
        raise PyruncError("opening", name, "a logger for standard error alone is no kind of stream")
    if kind == "file":
        path = path.partition("?")[0]
        _make_folder(path.rpartition("/")[0])
    if posix.access(path, posix.F_OK) and posix.stat(path).st_mode & FILE_TYPE == FIFO:
        return _open_fifo(path, deadline)
    return files.add(path)


def _open_fifo(path: str, deadline: float) -> Fd:
    """Open a fifo for both directions. So we neither wait for a reader nor fail when it goes, and another may come."""
    writer = _writer(path)
    while writer is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        writer = _writer(path)
    try:
        return _open(path, posix.O_RDWR | posix.O_NONBLOCK)
    finally:
        if writer is not None:
            writer.close()  # not earlier: a reader that finds no writer takes that for the end


def _writer(path: str) -> "Fd | None":
    """The fifo, opened for writing. None: there is no reader."""
    try:
        return open_at(None, path, posix.O_WRONLY | posix.O_NONBLOCK)
    except OSError as error:
        if error.errno == NO_READER:
            return None
        raise PyruncError(f"opening {reason(error)}") from error


def _open(path: str, flags: int) -> Fd:
    try:
        return open_at(None, path, flags, 0o644)
    except OSError as error:
        raise PyruncError(f"opening {reason(error)}") from error


def _make_folder(path: str) -> None:
    try:
        make_directories(path, 0o755)
    except OSError as error:
        raise PyruncError(f"making {reason(error)}") from error


class Files:
    """Files that a process's output goes to.

    A write to a file can't be told not to wait, and a disk or a file server may take its time. So each file has a
    process that waits for it, and the shim does not.
    """

    __slots__ = ("alive", "sinks")

    def __init__(self) -> None:
        self.sinks: dict[str, Fd] = {}
        self.alive: tuple[Fd, Fd] | None = None

    def add(self, path: str) -> Fd:
        """Open a file, and return the pipe to write to instead."""
        if path in self.sinks:
            return Fd(posix.dup(self.sinks[path].number), path)
        if self.alive is None:
            read, write = posix.pipe2(posix.O_CLOEXEC)
            self.alive = Fd(read, "the writers' end"), Fd(write, "the writers' end")
        with _open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND) as file:
            read, write = posix.pipe2(posix.O_CLOEXEC)
            self.sinks[path] = Fd(write, path)
            with Fd(read, path) as source:
                if not posix.fork():
                    _write_on(source.number, file.number, self.alive[1].number)
        return self.sinks[path]

    def ended(self) -> "Fd | None":
        """A pipe that is at its end when all writers have ended. None: there are no files."""
        if self.alive is None:
            return None
        self.alive[1].close()
        return self.alive[0]


def _write_on(source: int, file: int, alive: int) -> None:
    """Copy a pipe to a file, in a process of its own. It keeps nothing of the shim's: if it had the other ends of the
    pipes, it would never see their end."""
    status = 1
    try:
        for number, fd in enumerate([posix.dup(fd) for fd in (source, file, alive)]):
            posix.dup2(fd, number)
        posix.closerange(3, 1 << 20)
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)  # it ends when all is written
        while data := posix.read(0, CHUNK):
            write_all(1, data)
        status = 0
    finally:
        posix._exit(status)

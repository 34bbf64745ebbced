"""A process's standard streams: from and to containerd's fifos, files and loggers.

The process gets pipes of its own, or a terminal, and what is read from them is written on here: what the container
does with its descriptors does not reach the fifos, which are containerd's; they stay whole when it restarts.
"""

import fcntl
import posix
import select

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.loop import Loop

CHUNK = 1 << 16
TIOCSWINSZ = 0x5414
FIFO, FILE_TYPE = 0o010000, 0o170000


class Pump:
    """Copies from one descriptor to another, both its own, to the end. While the sink is full nothing is read."""

    __slots__ = ("closing", "loop", "on_end", "pending", "sink", "source")

    def __init__(self, loop: "Loop", source: Fd, sink: Fd, on_end: "Callable[[], None]") -> None:
        self.loop = loop
        self.source = source
        self.sink = sink
        self.on_end = on_end
        self.pending = b""
        self.closing = False
        posix.set_blocking(source.number, False)
        posix.set_blocking(sink.number, False)
        loop.watch(source.number, select.POLLIN, self._readable)

    def _readable(self, _: int) -> None:
        try:
            data = posix.read(self.source.number, CHUNK)
        except BlockingIOError:
            if self.closing:
                self.end()
            return
        except OSError:
            data = b""  # EIO: of a terminal nobody has the other end any more
        if data:
            self._write(data)
        else:
            self.end()

    def _write(self, data: bytes) -> None:
        try:
            self.pending = data[posix.write(self.sink.number, data) :]
        except BlockingIOError:
            self.pending = data
        except OSError:
            return self.end()  # nobody will read it
        if self.pending:
            self.loop.unwatch(self.source.number)
            self.loop.watch(self.sink.number, select.POLLOUT, self._writable)
        elif self.closing:
            self._readable(0)

    def _writable(self, _: int) -> None:
        self.loop.unwatch(self.sink.number)
        self.loop.watch(self.source.number, select.POLLIN, self._readable)
        self._write(self.pending)

    def finish(self) -> None:
        """Copy what is there by now, and end."""
        self.closing = True
        if not self.pending and self.source.number >= 0:
            self._readable(0)

    def end(self) -> None:
        if self.source.number >= 0:
            self.loop.unwatch(self.source.number)
            self.loop.unwatch(self.sink.number)
            self.source.close()
            self.sink.close()
            self.on_end()


class Streams:
    """Of one process. Opened before it is made; `child` are its ends, which are closed here when it has them.

    Args:
        names: standard input, output and error as containerd names them: a path or a URI; "" is nothing.
        owner: (uid, gid) of the pipes.
    """

    __slots__ = ("child", "input", "logger", "loop", "master", "names", "on_drained", "outputs", "sinks", "terminal")

    def __init__(
        self, loop: "Loop", names: "tuple[str, str, str]", terminal: bool, owner: "tuple[int, int]",
        container: "tuple[str, str]",
    ) -> None:  # fmt: skip
        self.loop = loop
        self.names = names
        self.terminal = terminal
        self.child: list[Fd | None] = [None, None, None]
        self.sinks: list[Fd | None] = [None, None]
        self.input: Pump | None = None
        self.outputs: list[Pump] = []
        self.master: Fd | None = None
        self.logger: list[Fd] = []
        self.on_drained: Callable[[], None] | None = None
        try:
            if names[1].partition("://")[0] in ("binary", "binary-v2"):
                from shim.logger import start

                self.sinks = start(names[1], *container)
            else:
                self.sinks = [_open_sink(name) for name in names[1:]]
            if not terminal:
                self._make_pipes(owner)
        except BaseException:
            self.close()
            raise

    def _make_pipes(self, owner: "tuple[int, int]") -> None:
        if self.names[0]:
            source = open_at(None, self.names[0], posix.O_RDONLY | posix.O_NONBLOCK)
            read, write = _pipe("standard input", owner)
            self.child[0] = read
            self.input = Pump(self.loop, source, write, _nothing)
        for index, sink in enumerate(self.sinks):
            if sink is not None:
                read, write = _pipe("standard output", owner)
                self.child[index + 1] = write
                self.outputs.append(Pump(self.loop, read, sink, self._drained))
        self.sinks = [None, None]

    def take_master(self, master: Fd) -> None:
        """The terminal's end that is ours, from the process in the making."""
        self.master = master
        if self.names[0]:
            source = open_at(None, self.names[0], posix.O_RDONLY | posix.O_NONBLOCK)
            self.input = Pump(self.loop, source, _copy(master), _nothing)
        if self.sinks[0] is not None:
            self.outputs.append(Pump(self.loop, _copy(master), self.sinks[0], self._drained))
        if self.sinks[1] is not None:
            self.sinks[1].close()
        self.sinks = [None, None]

    def started(self) -> None:
        """The process has its ends."""
        for fd in self.child:
            if fd is not None:
                fd.close()

    def resize(self, width: int, height: int) -> None:
        if self.master is not None:
            size = b"".join(number.to_bytes(2, "little") for number in (height, width, 0, 0))
            fcntl.ioctl(self.master.number, TIOCSWINSZ, size)

    def close_input(self) -> None:
        if self.input is not None:
            self.input.finish()

    @property
    def drained(self) -> bool:
        return all(pump.source.number < 0 for pump in self.outputs)

    def _drained(self) -> None:
        if self.drained and self.on_drained is not None:
            self.on_drained()

    def close(self) -> None:
        self.on_drained = None
        for pump in [self.input, *self.outputs]:
            if pump is not None:
                pump.end()
        for fd in [*self.child, *self.sinks, self.master]:
            if fd is not None:
                fd.close()


class StandardStreams:
    """Ours: /dev/null twice and the log, but for the moment in which a process is made, which inherits them."""

    __slots__ = ("log", "null")

    def __init__(self, log: "Fd | None") -> None:
        self.null = open_at(None, "/dev/null", posix.O_RDWR)
        self.log = log or self.null
        self.lend([])

    def lend(self, streams: "list[Fd | None]") -> None:
        for number, own in enumerate((self.null, self.null, self.log)):
            given = (streams[number] or self.null) if streams else own
            posix.dup2(given.number, number, inheritable=True)


def _open_sink(name: str) -> "Fd | None":
    """Where output goes. A fifo is opened for both directions: that neither waits for a reader nor fails without."""
    if not name:
        return None
    path = name
    if "://" in name:
        scheme, _, path = name.partition("://")
        if scheme not in ("file", "fifo"):
            raise PyruncError("opening", name, f"{scheme}:// is no kind of stream", "fifo, file, binary or binary-v2")
        if scheme == "file":
            path = path.partition("?")[0]
            _make_directories(path.rpartition("/")[0])
    try:
        if posix.access(path, posix.F_OK) and posix.stat(path).st_mode & FILE_TYPE == FIFO:
            return open_at(None, path, posix.O_RDWR | posix.O_NONBLOCK)
        return open_at(None, path, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o644)
    except OSError as error:
        raise PyruncError("opening", name, reason(error)) from error


def _make_directories(path: str) -> None:
    if path and not posix.access(path, posix.F_OK):
        _make_directories(path.rpartition("/")[0])
        posix.mkdir(path, 0o755)


def _pipe(name: str, owner: "tuple[int, int]") -> "tuple[Fd, Fd]":
    read, write = posix.pipe2(posix.O_CLOEXEC)
    if owner != (0, 0):
        posix.fchown(read, *owner)
    return Fd(read, name), Fd(write, name)


def _copy(fd: Fd) -> Fd:
    return Fd(fcntl.fcntl(fd.number, fcntl.F_DUPFD_CLOEXEC, 3), fd.name)


def _nothing() -> None:
    """Nobody waits for the end of the input."""

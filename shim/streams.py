"""A process's standard streams, which lead to containerd's fifos, to files and to loggers.

The process gets pipes of its own, or a terminal, and the shim copies. So what a container does to its descriptors does
not reach containerd's fifos, and the pipes stay when containerd restarts. What may wait is done elsewhere:
`ends.open_ends` opens the ends, and each file has a process that writes to it.
"""

import fcntl
import posix
import select
import sys
import time

from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.shim.ends import Ends
    from pyrunc.shim.loop import Loop, Timer

CHUNK = 1 << 16
LOGGERS = ("binary://", "binary-v2://")  # take both outputs
TIOCSWINSZ, FIONREAD = 0x5414, 0x541B
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.002, 0.25  # between two looks at a fifo whose writer has ended
SOON_READ = 4096  # bytes that a reader, which is awake by now, takes with its next read
READER_SECONDS = 0.25  # for which Delete waits for a client that has not opened the fifo yet


class Pump:
    """Copies from one descriptor to another until the end. It owns both. While the sink is full, nothing is read. It
    copies a chunk at a time, so that others get their turn."""

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
        loop.watch(source.number, select.POLLIN, self.copy)

    def copy(self, _: int = 0) -> None:
        if self.pending or self.source.number < 0:
            return
        try:
            data = posix.read(self.source.number, CHUNK)
        except BlockingIOError:
            if self.closing:
                self._source_ended()
            return
        except OSError:
            data = b""  # EIO: nobody has the other end of the terminal any more
        if data:
            self._write(data)
        else:
            self._source_ended()

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
            self.loop.soon(self.copy)

    def _writable(self, _: int) -> None:
        self.loop.unwatch(self.sink.number)
        if not self.closing:
            self.loop.watch(self.source.number, select.POLLIN, self.copy)
        self._write(self.pending)

    def finish(self) -> None:
        """Copy what is there by now, and end. It reads until there is nothing, which poll does not tell."""
        if not self.closing and self.source.number >= 0:
            self.closing = True
            self.loop.unwatch(self.source.number)
            self.loop.soon(self.copy)

    def _source_ended(self) -> None:
        """The source has ended, and all that came from it is written."""
        self.end()

    def end(self) -> None:
        for fd in (self.source, self.sink):
            if fd.number >= 0:
                self.loop.unwatch(fd.number)
                fd.close()
        self.pending = b""
        self.on_end()


class Output(Pump):
    """A pump to where containerd says.

    A reader that opens a fifo late must find what was written in it, and a writer. If the fifo were closed before, the
    output would be gone and the reader would wait for ever. A client that deletes the process reads no more. So an
    output is drained only when the fifo is empty.
    """

    __slots__ = ("ended", "holds", "pause", "timer")

    def __init__(self, loop: "Loop", source: Fd, sink: Fd, on_end: "Callable[[], None]") -> None:
        self.timer: Timer | None = None
        self.pause = FIRST_PAUSE_SECONDS
        self.ended = 0.0
        self.holds = posix.O_RDWR  # how the fifo is open
        super().__init__(loop, source, sink, on_end)

    @property
    def drained(self) -> bool:
        if self.source.number >= 0:
            return False
        if self.sink.number < 0 or not self._unread():
            return True
        return self.holds != posix.O_PATH and time.monotonic() > self.ended + READER_SECONDS

    @property
    def taken(self) -> bool:
        """Whether the reader, if there is one, has read nearly all that was written by now."""
        if self.source.number >= 0:
            return not self.pending and not unread(self.source) and unread(self.sink) <= SOON_READ
        return self.sink.number < 0 or self.holds == posix.O_WRONLY or self._unread() <= SOON_READ

    def _source_ended(self) -> None:
        if not posix.readlink(f"/proc/self/fd/{self.sink.number}").startswith("/"):
            return self.end()  # a pipe: its reader was there before us
        self.loop.unwatch(self.source.number)
        self.source.close()
        self.ended = time.monotonic()
        self._look()

    def _look(self) -> None:
        """Look whether there is a reader. As long as we have the fifo open for reading ourselves, poll can't tell. When
        there is one, we close our writing end, so that the reader finds the end. We keep only a descriptor that shows
        whether everything was read."""
        try:
            if self.holds == posix.O_RDWR:
                self._hold(posix.O_WRONLY)
            if self.holds == posix.O_WRONLY and has_reader(self.sink):
                self._hold(posix.O_PATH)
        except OSError:
            pass  # no descriptor is left
        if self.holds == posix.O_PATH and not self._unread():
            return self.end()
        self.timer = self.loop.after(self.pause, self._look)
        self.pause = min(self.pause * 2, LAST_PAUSE_SECONDS)
        self.on_end()

    def _hold(self, how: int) -> None:
        own = self.sink
        self.sink = open_at(None, f"/proc/self/fd/{own.number}", how | posix.O_NONBLOCK)
        self.holds = how
        own.close()

    def _unread(self) -> int:
        if self.holds != posix.O_PATH:
            return unread(self.sink)
        try:
            with open_at(None, f"/proc/self/fd/{self.sink.number}", posix.O_RDONLY | posix.O_NONBLOCK) as fifo:
                return unread(fifo)  # a fifo that nobody else has open is empty
        except OSError:
            return 0

    def end(self) -> None:
        self.loop.cancel(self.timer)
        super().end()


class Streams:
    """The streams of one process.

    Args:
        names: standard input, output and error as containerd names them: a path or a URI; "" is nothing.

    Attributes:
        child: the process's ends. They are closed here once the process has them.
    """

    __slots__ = ("child", "ends", "input", "loop", "master", "names", "on_drained", "ours", "outputs", "terminal")

    def __init__(self, loop: "Loop", names: "tuple[str, str, str]", terminal: bool) -> None:
        self.loop = loop
        self.names = names
        self.terminal = terminal
        self.child: list[Fd | None] = [None, None, None]
        self.ours: list[Fd | None] = [None, None, None]  # the other ends of its pipes
        self.ends: Ends = [None, None, None, None]
        self.input: Pump | None = None
        self.outputs: list[Output] = []
        self.master: Fd | None = None
        self.on_drained: Callable[[], None] | None = None

    @property
    def to_open(self) -> "tuple[str, str, str]":
        stdin, stdout, stderr = self.names
        return stdin, stdout, "" if self.terminal else stderr

    def make_pipes(self) -> None:
        """Make pipes for a process without a terminal, before it is known where they lead."""
        if self.terminal:
            return
        if self.names[0]:
            self.child[0], self.ours[0] = _pipe("standard input")
        if self.names[1]:
            self.ours[1], self.child[1] = _pipe("standard output")
        if self.names[2] or self.names[1].startswith(LOGGERS):
            self.ours[2], self.child[2] = _pipe("standard error")

    def own(self, owner: "tuple[int, int]") -> None:
        """Give the pipes to (uid, gid)."""
        if owner != (0, 0):
            for fd in self.child:
                if fd is not None:
                    posix.fchown(fd.number, *owner)

    def take(self, ends: "Ends") -> None:
        """Take the ends that were opened. From here on the streams are copied."""
        self.ends = ends
        written = ends[3]
        if written is not None:
            self.loop.watch(written.number, select.POLLIN, self._files_written)
        if self.terminal:
            return
        source, write = ends[0], self.ours[0]
        if source is not None and write is not None:
            self.input = Pump(self.loop, source, write, _nothing)
        for sink, read in zip(ends[1:3], self.ours[1:], strict=True):
            if sink is not None and read is not None:
                self.outputs.append(Output(self.loop, read, sink, self._drained))

    def take_master(self, master: Fd) -> None:
        """Take our end of the terminal, which comes from the process in the making."""
        self.master = master
        source, sink = self.ends[:2]
        if source is not None:
            self.input = Pump(self.loop, source, _copy(master), _nothing)
        if sink is not None:
            self.outputs.append(Output(self.loop, _copy(master), sink, self._drained))

    def started(self) -> None:
        """Close the process's ends, which it has now."""
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
        """Whether all that the process has written has arrived where it goes."""
        written = self.ends[3]
        return all(output.drained for output in self.outputs) and (written is None or written.number < 0)

    @property
    def taken(self) -> bool:
        """Whether the readers have nearly all of the outputs. What has been written is copied first."""
        for output in self.outputs:
            output.copy()
        return all(output.taken for output in self.outputs)

    def _files_written(self, _: int) -> None:
        """The processes that write to the files have ended."""
        written = self.ends[3]
        assert written is not None
        self.loop.unwatch(written.number)
        written.close()
        self._drained()

    def _drained(self) -> None:
        if self.on_drained is not None and self.drained:
            self.on_drained()

    def close(self) -> None:
        self.on_drained = None
        for pump in [self.input, *self.outputs]:
            if pump is not None:
                pump.end()
        if self.ends[3] is not None and self.ends[3].number >= 0:
            self.loop.unwatch(self.ends[3].number)
        for fd in [*self.child, *self.ours, *self.ends, self.master]:
            if fd is not None:
                fd.close()
        self.input, self.outputs = None, []  # they refer to us, and only a collection would free us


class StandardStreams:
    """The shim's own standard streams: /dev/null twice, and the log. A new process inherits them, so they are its
    streams while it is made."""

    __slots__ = ("log", "null")

    def __init__(self, log: "Fd | None") -> None:
        self.null = open_at(None, "/dev/null", posix.O_RDWR)
        self.log = log or self.null
        self.lend([])

    def lend(self, streams: "list[Fd | None]") -> None:
        for number, own in enumerate((self.null, self.null, self.log)):
            given = (streams[number] or self.null) if streams else own
            posix.dup2(given.number, number, inheritable=True)


def has_reader(fifo: Fd) -> bool:
    """Whether a fifo that is open for writing only has a reader."""
    poll = select.poll()
    poll.register(fifo.number, 0)  # POLLERR comes unasked
    return not poll.poll(0)


def unread(fifo: Fd) -> int:
    return int.from_bytes(fcntl.ioctl(fifo.number, FIONREAD, bytes(4)), sys.byteorder)


def _pipe(name: str) -> "tuple[Fd, Fd]":
    read, write = posix.pipe2(posix.O_CLOEXEC)
    return Fd(read, name), Fd(write, name)


def _copy(fd: Fd) -> Fd:
    return Fd(fcntl.fcntl(fd.number, fcntl.F_DUPFD_CLOEXEC, 3), fd.name)


def _nothing() -> None:
    """Do nothing: nobody waits for the end of the input."""

"""A file descriptor with an owner: CLOEXEC from birth, closed by scope, named in errors."""

import posix
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

FLAGS = posix.O_CLOEXEC | posix.O_NOCTTY
O_PATH = posix.O_PATH
PIPE_BUF = 4096
MESSAGE_SECONDS = 5.0


class Fd:
    """One open file description. `name` is for people: it is what errors say."""

    __slots__ = ("name", "number")

    def __init__(self, number: int, name: str = "") -> None:
        self.number = number
        self.name = name

    def fileno(self) -> int:
        return self.number

    def __index__(self) -> int:
        return self.number

    __int__ = __index__

    def take(self) -> int:
        """Give the number away. The caller closes it."""
        number, self.number = self.number, -1
        return number

    def close(self) -> None:
        """Close it. It is closed whatever close(2) says."""
        if self.number >= 0:
            try:
                posix.close(self.take())
            except OSError:
                pass

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def open_at(directory: "Fd | None", path: str, flags: int, mode: int = 0) -> Fd:
    """openat(2). For paths of the host; inside a root file system use linux.path.resolve."""
    number = posix.open(path, flags | FLAGS, mode, dir_fd=None if directory is None else directory.number)
    return Fd(number, path)


def read_all(fd: "Fd | int", limit: int = 1 << 26) -> bytes:
    """Everything up to the end of the file, at most `limit` bytes."""
    chunks = []
    while limit > 0 and (chunk := posix.read(int(fd), min(limit, 1 << 16))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def read_file(path: str, directory: "Fd | None" = None) -> bytes:
    with open_at(directory, path, posix.O_RDONLY) as fd:
        try:
            return read_all(fd)
        except OSError as error:  # read(2) names nobody; that of a folder fails here
            error.filename = path
            raise


def write_file(path: str, data: bytes, directory: "Fd | None" = None) -> None:
    """Write in one write(2): what the kernel's control files ask for."""
    with open_at(directory, path, posix.O_WRONLY) as fd:
        posix.write(fd.number, data)


def write_all(fd: "Fd | int", data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[posix.write(int(fd), view) :]


def write_message(fd: "Fd | int", data: bytes) -> None:
    """Write all of it, or as much as is taken in time. A full pipe or a stopped terminal must not hold us for ever.
    It is written in pieces that a pipe takes as a whole or not at all. Raises OSError.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    view = memoryview(data)
    while view and poll.poll(MESSAGE_SECONDS * 1000):
        view = view[posix.write(int(fd), view[:PIPE_BUF]) :]


def replace_file(directory: Fd, name: str, data: bytes, mode: int = 0o600) -> None:
    """Write beside and rename: a reader sees the old or the new content, never a part."""
    temporary = f".{name}.{posix.getpid()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW
    try:
        with open_at(directory, temporary, flags, mode) as fd:
            write_all(fd, data)
            posix.close(fd.take())  # a file system on a network says here that it could not keep the data
        posix.rename(temporary, name, src_dir_fd=directory.number, dst_dir_fd=directory.number)
    except BaseException:
        unlink_quietly(directory, temporary)
        raise


def make_directories(path: str, mode: int) -> "list[str]":
    """mkdir -p. Returns the directories that were missing, the topmost first. Somebody else may have made them
    meanwhile.
    """
    missing: list[str] = []
    while path and not posix.access(path, posix.F_OK):
        missing.insert(0, path)
        path = path.rpartition("/")[0]
    for directory in missing:
        try:
            posix.mkdir(directory, mode)
        except FileExistsError:
            pass
    return missing


def unlink_quietly(directory: Fd, name: str) -> None:
    try:
        posix.unlink(name, dir_fd=directory.number)
    except FileNotFoundError:
        pass

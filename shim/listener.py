"""A shim's socket: one shim serves an address, whoever comes at the same time."""

import _socket
import fcntl
import posix
import select

from pyrunc.linux.fd import Fd, make_directories, open_at


def listen(folder: str, path: str) -> "_socket.socket | None":
    """A socket that only its owner can connect to; None: somebody serves this address already.

    The folder is locked meanwhile: of two that come at once one would else take the other's socket, bound and not yet
    listened to, for that of a shim that was killed, and a pod would have two.
    """
    make_directories(folder, 0o711)
    with _lock(folder):
        if not _remove_stale(path):
            return None
        before = posix.umask(0o177)
        try:
            socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            socket.bind(path)
        finally:
            posix.umask(before)
        socket.listen(128)
        return socket


def leave(socket: "_socket.socket", path: str) -> bool:
    """Take an address away, unless somebody has come, or is about to: whether that was done.

    Who looks for a shim holds the folder's lock: he has found us before this, and waits to be let in, or not at all.
    """
    try:
        lock = _lock(path.rpartition("/")[0], fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    with lock:
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        if poll.poll(0):
            return False
        posix.unlink(path)
        return True


def was_left(path: str) -> bool:
    """Whether its shim has gone without taking the socket along: it was killed. It is removed."""
    with _lock(path.rpartition("/")[0]):
        return _remove_stale(path)


def _lock(folder: str, how: int = 0) -> Fd:
    fd = open_at(None, folder, posix.O_RDONLY | posix.O_DIRECTORY)
    fcntl.flock(fd.number, fcntl.LOCK_EX | how)
    return fd


def _remove_stale(path: str) -> bool:
    """Whether nobody serves this address, and so nothing is there any more."""
    if posix.access(path, posix.F_OK):
        if _is_served(path):
            return False
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass  # it has just gone
    return True


def _is_served(path: str) -> bool:
    """Without waiting for one that takes nobody in."""
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        socket.connect(path)
    except BlockingIOError:
        pass  # so many are waiting there already
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    finally:
        socket.close()
    return True

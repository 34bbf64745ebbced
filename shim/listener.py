"""A shim's socket. Only one shim serves an address, even if several start at the same time."""

import _socket
import fcntl
import posix
import select

from pyrunc.linux.fd import Fd, make_directories, open_at


def listen(folder: str, path: str) -> "_socket.socket | None":
    """A socket that only its owner can connect to. None: somebody serves this address already.

    The folder is locked meanwhile. Otherwise, if two come at once, the second finds a socket that is bound and not yet
    listened to, takes it for that of a killed shim, and replaces it. Then a pod has two shims.
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
    """Take the address away, unless somebody has come or is about to. Returns whether that was done.

    Whoever looks for a shim holds the folder's lock. So they have found us before this and wait to be let in, or they
    don't find us.
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
    """Whether its shim was killed and has left the socket behind. If so, the socket is removed."""
    with _lock(path.rpartition("/")[0]):
        return _remove_stale(path)


def _lock(folder: str, how: int = 0) -> Fd:
    fd = open_at(None, folder, posix.O_RDONLY | posix.O_DIRECTORY)
    fcntl.flock(fd.number, fcntl.LOCK_EX | how)
    return fd


def _remove_stale(path: str) -> bool:
    """Whether nobody serves this address. A socket that a killed shim has left there is removed."""
    if posix.access(path, posix.F_OK):
        if _is_served(path):
            return False
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass  # it has just gone
    return True


def _is_served(path: str) -> bool:
    """Whether somebody serves this address. It does not wait for a shim that lets nobody in."""
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

"""A shim's socket. One shim serves an address, even when several start at the same time."""

import _socket
import fcntl
import posix
import select

from pyrunc.linux.fd import Fd, make_directories, open_at


def listen(folder: str, path: str) -> "_socket.socket | None":
    """A socket that only its owner can connect to. None: somebody serves this address already.

    The folder is locked meanwhile. Else, of two that come at once, the second would find a socket that is bound and not
    yet listened to, take it for that of a killed shim, and replace it: a pod would have two shims.
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
    """Take the address away, unless somebody has come or is about to. Whether that was done.

    Who looks for a shim holds the folder's lock. So he has found us before this, and waits to be let in; or he does not
    find us.
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
    """Whether its shim was killed, and has left the socket behind. That is removed."""
    with _lock(path.rpartition("/")[0]):
        return _remove_stale(path)


def _lock(folder: str, how: int = 0) -> Fd:
    fd = open_at(None, folder, posix.O_RDONLY | posix.O_DIRECTORY)
    fcntl.flock(fd.number, fcntl.LOCK_EX | how)
    return fd


def _remove_stale(path: str) -> bool:
    """Whether nobody serves this address. What a killed shim has left there is removed."""
    if posix.access(path, posix.F_OK):
        if _is_served(path):
            return False
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass  # it has just gone
    return True


def _is_served(path: str) -> bool:
    """Whether somebody serves it. This does not wait for a shim that lets nobody in."""
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

"""System calls in a task of their own, for a caller who has something else to do while the kernel makes them wait.

The task is a child that shares our memory and, unless its call opens something, our descriptors (clone(2), CLONE_VM |
CLONE_FILES). So it costs a tenth of a fork. It runs no Python: a second thread of the interpreter would not be safe
beside clone3.
"""

import _socket
import errno
import sys

from pyrunc.linux import encoded, kernel_error
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.mount import AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE, in_a_page

MOST_ON_EACH_OTHER = 64  # mounts


class Apart:
    """One call.

    Attributes:
        pid: a child of ours. When we have waited for it, we can take what the call has returned.
        opens: that is a descriptor.
    """

    __slots__ = ("call", "kept", "opens", "pid", "socket")

    def __init__(
        self, number: int, arguments: "tuple[int | bytes, ...]", folder: str = "", times: int = 1, opens: bool = False
    ) -> None:
        """Raises OSError. What the kernel reads stays where it is for as long as this object, which must outlive the
        task.

        Args:
            folder: becomes the task's working directory first.
            times: how often to call, as long as that does not fail.
        """
        self.call = ffi.new("struct apart *")
        self.kept = [ffi.from_buffer(each) for each in (encoded(folder) + b"\0", *arguments) if isinstance(each, bytes)]
        self.call.folder = self.kept[0] if folder else ffi.NULL
        self.call.number = number
        self.call.times = times
        self.call.gives = -1
        self.opens = opens
        if opens:
            kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
            self.socket, theirs = _socket.socketpair(_socket.AF_UNIX, kind, 0)
            self.call.gives = theirs.fileno()
        texts = iter(self.kept[1:])
        for index, each in enumerate(arguments):
            self.call.arguments[index] = int(ffi.cast("intptr_t", next(texts))) if isinstance(each, bytes) else each
        self.pid: int = lib.start_apart(self.call)
        if self.pid < 0:
            raise kernel_error("clone", "a task for a system call")

    def take(self) -> int:
        """What the last call has returned: a descriptor is the caller's to close. Negative: an errno."""
        result: int = self.call.result
        return self._received(result) if self.opens else result

    def _received(self, result: int) -> int:
        """What was sent has arrived, even if its task was killed before it could say so."""
        with_it: list[tuple[int, int, bytes]] = []
        try:
            with_it = self.socket.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)[1]
        except OSError:
            pass  # the call has failed, or its task was killed before
        self.socket.close()
        for _, _, payload in with_it:
            return int.from_bytes(payload[:4], sys.byteorder)
        return -errno.EMFILE if result >= 0 else result  # we had no number left for it


def mount(source: str, target: str, kind: str, flags: int, data: str, folder: str = "") -> Apart:
    words = [encoded(word) + b"\0" for word in (source, target, kind)]
    return Apart(lib.NR_MOUNT, (*words, flags, in_a_page(data, target) + b"\0"), folder)


def umount_all(path: str, flags: int) -> Apart:
    """Until nothing is mounted there: EINVAL, or ENOENT."""
    return Apart(lib.NR_UMOUNT, (encoded(path) + b"\0", flags), times=MOST_ON_EACH_OTHER)


def open_tree(source: str, recursive: bool) -> Apart:
    """A detached copy."""
    flags = OPEN_TREE_CLOEXEC | OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    return Apart(lib.NR_OPEN_TREE, (AT_FDCWD, encoded(source) + b"\0", flags), opens=True)

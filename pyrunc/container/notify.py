"""sd_notify for a container: its messages reach the service manager that started us. sd_notify(3), NOTIFY_SOCKET

The container gets a socket of its own, in a folder of the state directory that is bound to /run/notify. What it sends
there is passed on: by `start` until it is ready, by `run` to its end. With the manager's own socket it could speak
about other services and other processes, and reach the descriptors that the manager keeps.
"""

import _socket
import posix
import select
import sys

from pyrunc.errors import reason
from pyrunc.init.channel import rights
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import PIPEFS_MAGIC, filesystem_type
from pyrunc.linux.pid import pidfd_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.log import Log
    from pyrunc.spec.types import Mount

FOLDER = "notify"
INSIDE = "/run/notify"
SOCKET = "notify.sock"
BARRIER_SECONDS = 30.0
TELL_SECONDS = 5.0
MESSAGE = 4096
CONTROL = 1024
READY = b"READY=1"
BARRIER = b"BARRIER=1"
# What a service says of itself. Variables that choose a process (MAINPID), let others speak (NOTIFYACCESS) or store
# descriptors (FDSTORE) are not passed on.
PASSED_ON = (
    b"READY", b"RELOADING", b"STOPPING", b"MONOTONIC_USEC", b"STATUS", b"ERRNO", b"BUSERROR", b"EXIT_STATUS",
    b"WATCHDOG", b"EXTEND_TIMEOUT_USEC",
)  # fmt: skip


def manager() -> str:
    """The socket of a service manager that wants to hear; "" without one."""
    return posix.environ.get(b"NOTIFY_SOCKET", b"").decode("utf-8", "surrogateescape")


def mount(state_directory: str) -> "Mount":
    """The folder, as a mount of the container's."""
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    return {"destination": INSIDE, "type": "bind", "source": f"{state_directory}/{FOLDER}", "options": options}


class Proxy:
    """Passes on what the container says of itself. With READY=1 it adds the pid by which the manager knows the
    container.

    Attributes:
        done: the container has said that it is ready.
    """

    __slots__ = ("done", "log", "pid", "socket")

    def __init__(self, state_directory: Fd, log: "Log") -> None:
        self.pid = 0
        self.done = False
        self.log = log
        # By descriptor: a socket's path may have 107 bytes, and Kubernetes' state directories have more.
        path = f"/proc/self/fd/{state_directory.number}/{FOLDER}/{SOCKET}"
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            posix.unlink(path)
        except FileNotFoundError:
            pass
        self.socket.bind(path)
        posix.chmod(path, 0o777)  # the container's user may be any

    def fileno(self) -> int:
        return self.socket.fileno()

    def turn(self) -> None:
        """Pass one message on, with the descriptor of its barrier, which the manager will close.

        If the manager can't be told, that is a warning: the container runs.
        """
        try:
            data, control, flags, _ = self.socket.recvmsg(MESSAGE, CONTROL, _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        descriptors = _descriptors(control)
        if flags & _socket.MSG_TRUNC:
            return  # it is longer than the manager takes
        lines = [line for line in data.split(b"\n") if line.partition(b"=")[0] in PASSED_ON]
        if READY in lines:
            self.done = True
            lines.append(b"MAINPID=%d" % self.pid)
        try:
            if lines:
                _tell(b"\n".join(lines))
            if data == BARRIER and len(descriptors) == 1 and filesystem_type(descriptors[0]) == PIPEFS_MAGIC:
                _tell(BARRIER, descriptors[0])
        except OSError as error:
            self.log.warning(f"the service manager at NOTIFY_SOCKET can't be told: {reason(error)}")

    def wait(self, pid: int) -> None:
        """For `start`: until the container is ready and the manager has heard of it, or until it has ended."""
        self.pid = pid
        try:
            pidfd: Fd | None = pidfd_open(pid)
        except ProcessLookupError:
            pidfd = None  # its parent was quicker than we: what it has said is here all the same
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        while not self.done:
            ready = [number for number, _ in poll.poll(None if pidfd is not None else 0)]
            if self.fileno() not in ready:
                return
            self.turn()
        self._wait_for_manager()

    def _wait_for_manager(self) -> None:
        """Wait until the manager has read everything. It looks up who sent a message, and that is us: we must not
        be gone.
        """
        read, write = posix.pipe2(posix.O_CLOEXEC)
        with Fd(read, "barrier") as read_end, Fd(write, "barrier") as write_end:
            try:
                _tell(BARRIER, write_end)
            except OSError:
                return  # a warning has been written
            write_end.close()
            poll = select.poll()
            poll.register(read_end, 0)  # POLLHUP comes unasked
            if not poll.poll(BARRIER_SECONDS * 1000):
                self.log.warning(f"the service manager has not answered BARRIER=1 in {BARRIER_SECONDS:.0f} s")


def _tell(message: bytes, fd: "Fd | None" = None) -> None:
    """Send one datagram to the manager. Its queue may be full: we wait for that no more than a moment."""
    name = manager()
    to_manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        to_manager.settimeout(TELL_SECONDS)
        to_manager.connect("\0" + name[1:] if name[:1] == "@" else name)
        to_manager.sendmsg([message], [] if fd is None else [rights(fd)])
    finally:
        to_manager.close()


def _descriptors(control: "list[tuple[int, int, bytes]]") -> "list[Fd]":
    """The descriptors that were sent along. They are ours, so that they are closed when nobody needs them."""
    found = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers = [int.from_bytes(data[i : i + 4], sys.byteorder) for i in range(0, len(data) - 3, 4)]
            found += [Fd(number, "a descriptor of the container") for number in numbers]
    return found

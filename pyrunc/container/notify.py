"""sd_notify for a container: its messages reach the service manager that started us. sd_notify(3), NOTIFY_SOCKET

The container gets a socket of its own, in a folder of the state directory that is bound to /run/notify; what it says
there is passed on by `start` and `run`. The manager's own socket would be a way to talk to it about other services.
"""

import _socket
import posix
import select

from pyrunc.init.context import rights
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import pidfd_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Mount

FOLDER = "notify"
INSIDE = "/run/notify"
SOCKET = "notify.sock"
BARRIER_SECONDS = 30.0
MESSAGE = 4096


def manager() -> str:
    """The service manager's socket, if one wants to hear."""
    return posix.environ.get(b"NOTIFY_SOCKET", b"").decode("utf-8", "surrogateescape")


def mount(state_directory: str) -> "Mount":
    """The folder, as a mount of the container's."""
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    return {"destination": INSIDE, "type": "bind", "source": f"{state_directory}/{FOLDER}", "options": options}


class Proxy:
    """Passes READY=1 on, once, with the container's pid as MAINPID."""

    __slots__ = ("done", "pid", "socket")

    def __init__(self, state_directory: str) -> None:
        self.pid = 0
        self.done = False
        path = f"{state_directory}/{FOLDER}/{SOCKET}"
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
        """Read what has come. Of a message only lines that are ours to pass on are."""
        try:
            lines = self.socket.recv(MESSAGE).split(b"\n")
        except BlockingIOError:
            return
        if b"READY=1" in lines and not self.done:
            self.done = True
            self._tell()

    def _tell(self) -> None:
        """READY and the pid, and then a barrier: the manager has read both before we, the sender, may be gone."""
        to_manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        name = manager()
        to_manager.connect("\0" + name[1:] if name[:1] == "@" else name)
        to_manager.send(f"READY=1\nMAINPID={self.pid}".encode())
        read, write = posix.pipe2(posix.O_CLOEXEC)
        with Fd(read, "barrier") as read_end, Fd(write, "barrier") as write_end:
            to_manager.sendmsg([b"BARRIER=1"], [rights(write_end)])
            write_end.close()
            poll = select.poll()
            poll.register(read_end, select.POLLIN)
            poll.poll(BARRIER_SECONDS * 1000)
        to_manager.close()

    def wait(self, pid: int) -> None:
        """For `start`: until the container is ready, or has ended."""
        self.pid = pid
        with pidfd_open(pid) as pidfd:
            poll = select.poll()
            poll.register(self, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            while not self.done:
                ready = [number for number, _ in poll.poll()]
                if self.fileno() in ready:
                    self.turn()
                elif ready:
                    return

"""What the steps share, and the line to the parent."""

import _socket
import posix
import sys
import time

from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.linux.fd import Fd
from pyrunc.linux.process import PR_SET_PDEATHSIG, SIGKILL, keep_only, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.late import LateEntry
    from pyrunc.init.capabilities import Sets
    from pyrunc.linux.process import SharedByte
    from pyrunc.spec.types import Config, Process

    Status = Literal["creating", "created", "running", "stopped"]
    Step = Callable[["Context"], None]

SOL_SOCKET = _socket.SOL_SOCKET
SCM_RIGHTS = _socket.SCM_RIGHTS
GLANCE = _socket.MSG_PEEK | _socket.MSG_DONTWAIT
MESSAGE = 1 << 16
IN_INIT = "error during container init"
# What runc's debug log says when it has come as far: scripts look for it.
MILESTONES = {
    ("set_oom_score", True): "nsexec container setup",
    ("set_oom_score", False): "nsexec container setup",
    ("join_keyring", True): "child process in init()",
    ("join_keyring", False): "child process in init()",
    ("leave_nothing", True): "init: closing the pipe to signal completion",
    ("leave_nothing", False): "setns_init: about to exec",
}  # by the step's name, and whether it is of the container's first process
ROOT = -1  # in place of an index in mounts: the root file system


class Channel:
    """One end of a SOCK_SEQPACKET pair between the runtime and the process that becomes the container.

    A message is a letter and its text: `G` go on; `M` write my ID maps; `P` my pidfd, after a second clone; `L` set my
    limits; `S` fetch this descriptor of mine, the filter's listener; `T` write my time offsets; `N` move network
    devices to my network namespace, its fd attached; `O` open the source of this mount for me, or mount my root; `V`
    make this device for me; `U`
    give my user this pipe; `H` the mounts stand, run the runtime's hooks; `R` ready to wait for start; `C` the
    console's master, its fd attached; `W` a warning; `D` debug; `K` a step has been taken, its name and its times; `E`
    failed, with the four fields of the error. The end of the stream: the other side is dead.
    """

    __slots__ = ("socket",)

    def __init__(self, socket: _socket.socket) -> None:
        self.socket = socket

    @staticmethod
    def pair() -> "tuple[Channel, Channel]":
        pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        return Channel(pair[0]), Channel(pair[1])

    def send(self, kind: str, text: str = "", fd: "Fd | None" = None) -> None:
        data = (kind + text).encode("utf-8", "surrogateescape")[:MESSAGE]
        self.socket.sendmsg([data], [] if fd is None else [rights(fd)], _socket.MSG_NOSIGNAL)

    def write(self, kind: str, text: str = "") -> None:
        """The same by write(2), which a filter that is in force forbids last."""
        posix.write(self.socket.fileno(), (kind + text).encode("utf-8", "surrogateescape")[:MESSAGE])

    def receive(self) -> "tuple[str, str, Fd | None]":
        """(kind, text, fd); kind is "" when the other side is gone."""
        data, control, _, _ = self.socket.recvmsg(MESSAGE, 64, _socket.MSG_CMSG_CLOEXEC)
        fd = None
        for level, kind, payload in control:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fd = Fd(int.from_bytes(payload[:4], sys.byteorder), "a descriptor of the container")
        text = data.decode("utf-8", "surrogateescape")
        return text[:1], text[1:], fd

    def close(self) -> None:
        Fd(self.socket.detach()).close()


def rights(fd: Fd) -> "tuple[int, int, bytes]":
    """The control message that carries a descriptor. unix(7)"""
    return SOL_SOCKET, SCM_RIGHTS, fd.number.to_bytes(4, sys.byteorder)


class Context:
    """What a container's process needs on its way from clone to execve. Made by the parent, before clone.

    Attributes:
        config, process: config.json, and the process of it or of `exec`.
        bundle, rootfs: absolute paths of the host.
        host_proc: /proc of the host, opened before anything of a container's: the only procfs that is written to.
        joins: (CLONE_NEW*, fd) of namespaces to enter.
        callers: which namespaces the runtime is in, of the kinds that config.json gives a path for.
        new_namespaces: CLONE_NEW* of those that the child makes itself, after clone.
        own_propagation: (mount, MS_* in order) of the mounts that have one of their own.
        late: the way into v2's cgroup, where that is entered at the end.
        unseen: whether that clone is the last thing before execve: steps.EXEC_UNSEEN.
        second_clone: whether a process namespace is entered by another clone, after all else.
        progress: which step it is at, for the parent to see.
        state: status, and the pid where it is another: the state document that hooks read.
    """

    config: "Config"
    process: "Process"
    channel: Channel
    host_proc: Fd
    progress: "SharedByte"
    sets: "Sets"
    state: "Callable[..., bytes]"

    __slots__ = (
        "apparmor_profile", "bpf", "bpf_flags", "bpf_installed", "bundle", "callers", "cgroup", "cgroup_tasks",
        "channel", "config", "debug", "deferred_cwd", "entered_cwd", "environment", "executable", "fifo", "host_proc",
        "idmaps", "init", "joins", "keyring", "late", "listen_fds", "listen_names", "may_be_dumpable", "mount_label",
        "new_namespaces", "new_network", "no_pivot", "notify_socket", "null", "opened", "own_propagation", "pinned",
        "preserve_fds", "process", "progress", "read_only_later", "root", "rootfs", "second_clone", "selinux_label",
        "sets", "state", "terminal", "unseen", "userns", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bundle = ""
        self.rootfs = ""
        self.init = True
        self.debug = False
        self.joins: list[tuple[int, Fd]] = []
        self.callers: dict[str, tuple[int, int]] = {}
        self.new_namespaces = 0
        self.second_clone = False
        self.unseen = False
        self.new_network = False
        self.userns = False
        self.keyring = ""
        self.apparmor_profile = self.selinux_label = self.mount_label = ""  # those that the kernel can apply
        self.no_pivot = False
        self.preserve_fds = 0
        self.listen_fds = 0
        self.listen_names = ""
        self.notify_socket = ""
        self.cgroup: Cgroup | None = None
        self.cgroup_tasks: list[Fd] = []
        self.late: LateEntry | None = None
        self.fifo: Fd | None = None
        self.opened: Fd | None = None  # of `exec`: tells that somebody has opened the fifo
        self.waiting = False  # for start: the parent has gone
        self.may_be_dumpable = False  # its caller is not root, its namespaces are its own: nobody else is there to look
        self.bpf: bytes | None = None
        self.bpf_flags = 0
        self.bpf_installed = False
        self.root: Fd | None = None  # the container's root file system, once it is mounted
        self.pinned: dict[str, Fd] = {}  # /proc, /sys: what is mounted there
        self.null: Fd | None = None  # the container's /dev/null, once it is verified
        self.terminal: Fd | None = None
        self.idmaps: dict[int, Fd] = {}  # index in mounts, and ROOT: the user namespace that maps it
        self.read_only_later: list[Fd] = []
        self.own_propagation: list[tuple[Fd, list[int]]] = []
        self.deferred_cwd = False
        self.entered_cwd = False
        self.environment: dict[str, str] = {}
        self.executable = ""

    def close(self) -> None:
        """In the parent, when the child is on its way: what it opened for the child is the child's alone. The fifo
        above all: `start` waits until nobody holds its other end."""
        for fd in self._descriptors():
            fd.close()

    def _descriptors(self) -> "list[Fd]":
        """What the parent opened for the child."""
        late = self.late.descriptors() if self.late else ()
        lists = (self.cgroup_tasks, self.idmaps.values(), (fd for _, fd in self.joins), late)
        every = (self.host_proc, self.fifo, self.opened, *(fd for several in lists for fd in several))
        return [fd for fd in every if fd is not None]

    def keep_only_own(self) -> None:
        """In the child, at once: close all that is neither promised to the program nor opened for us.

        It was the caller's: a folder of the host's, perhaps (CVE-2024-21626), a lock that would be held as long as the
        container lives, or the end of another container's pipe, whose reader would wait for us.
        """
        own = [fd.number for fd in self._descriptors()]
        keep_only(3 + self.preserve_fds + self.listen_fds, [self.channel.socket.fileno(), *own])

    def warn(self, text: str) -> None:
        self.channel.send("W", text)

    def ask_for_mount(self, index: int) -> Fd:
        """Have the runtime, in our mount namespace but with its own rights, open the source of a mount."""
        self.channel.send("O", str(index))
        kind, _, mount = self.channel.receive()
        if kind != "G" or mount is None:
            raise SystemExit(1)
        return mount

    def ask_for_device(self, index: int) -> "Fd | None":
        """Have the runtime make a device node. None where that may not either."""
        self.channel.send("V", str(index))
        kind, _, node = self.channel.receive()
        if kind != "G":
            raise SystemExit(1)
        return node

    def wait_for_go(self) -> None:
        """Until the parent says so. A parent that died never will, and its container must not live on."""
        if posix.read(self.channel.socket.fileno(), MESSAGE) != b"G":
            raise SystemExit(1)

    def die_with_runtime(self) -> None:
        """Until the container is on its own. The kernel forgets it in a child, and when credentials change: prctl(2)

        No poll(2), which wants a higher RLIMIT_NOFILE than a container may have.
        """
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        try:
            alive = self.channel.socket.recv(1, GLANCE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            alive = b""
        if not alive:
            raise SystemExit(1)  # it died before


def run(steps: "tuple[Step, ...]", context: Context) -> None:
    """Take the steps in order. The only place that turns a failure into words."""
    began = time.time_ns() if context.debug else 0
    page = context.progress.page
    for number, step in enumerate(steps):
        page[0] = number
        try:
            step(context)
        except PyruncError as error:
            if error.operation.startswith("exec"):
                raise  # the program's own fault, which has a form of its own
            raise StepError(f"{IN_INIT}: {error.operation}", error.subject, error.cause, error.hint) from error
        except (OSError, ValueError, OverflowError) as error:
            raise StepError(f"{IN_INIT}: {title(step)}", "", reason(error)) from error
        if context.debug:
            now = time.time_ns()
            context.channel.write("K", f"{step.__module__.rpartition('.')[2]}.{step.__name__}\0{began}\0{now}")
            if (step.__name__, context.init) in MILESTONES:
                context.channel.write("D", MILESTONES[step.__name__, context.init])
            began = now


def title(step: "Step") -> str:
    """The first line of a step's docstring, as errors show it."""
    return (step.__doc__ or step.__name__).partition("\n")[0].rstrip(".")

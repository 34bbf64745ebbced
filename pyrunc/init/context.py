"""What the steps share: the context of a process on its way to execve, and what a step is."""

from _signal import SIGKILL

from pyrunc.init import channel
from pyrunc.linux.fd import Fd
from pyrunc.linux.process import PR_SET_PDEATHSIG, keep_only, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.late import LateEntry
    from pyrunc.init.capabilities import Sets
    from pyrunc.init.channel import Channel
    from pyrunc.linux.process import SharedByte
    from pyrunc.spec.types import Config, Process


IN_INIT = "error during container init"
ROOT = -1  # stands for the root file system, in place of an index in mounts


class Step:
    """One thing that happens to a process between clone and execve.

    Args:
        title: what it does, as errors say it.
        take: the function that does it.

    Attributes:
        name: as the debug log has it: `rootfs.pivot`.
    """

    __slots__ = ("name", "take", "title")

    def __init__(self, title: str, take: "Callable[[Context], None]") -> None:
        self.title = title
        self.take = take
        self.name = f"{take.__module__.rpartition('.')[2]}.{take.__name__}"

    def __call__(self, context: "Context") -> None:
        self.take(context)


def step(title: str) -> "Callable[[Callable[[Context], None]], Step]":
    """Make a function a step with this title."""
    return lambda take: Step(title, take)


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
        take_channel: takes the parent's end when the process is ready, as its program is told after start.
        state: status, and the pid where it is another: the state document that hooks read.
    """

    config: "Config"
    process: "Process"
    channel: "Channel"
    host_proc: Fd
    progress: "SharedByte"
    sets: "Sets"
    state: "Callable[..., bytes]"

    __slots__ = (
        "apparmor_profile", "bpf", "bpf_flags", "bpf_installed", "bundle", "callers", "cgroup", "cgroup_tasks",
        "channel", "config", "confinement", "debug", "deferred_cwd", "entered_cwd", "environment", "executable",
        "fifo", "first_step", "hook_outputs", "host_proc", "idmaps", "init", "joins", "keyring", "late", "listen_fds",
        "listen_names", "may_be_dumpable", "mount_label", "new_namespaces", "new_network", "no_pivot",
        "notify_socket", "null", "opened", "own_propagation", "pinned", "preserve_fds", "process", "progress",
        "read_only_later", "root", "rootfs", "second_clone", "selinux_label", "sets", "state", "take_channel",
        "terminal", "unseen",
        "userns", "waiting",
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
        self.take_channel: Callable[[Channel], None] | None = None
        self.waiting = False  # for start: the parent has gone
        self.may_be_dumpable = False  # the caller is not root, and nobody else is in the namespaces who could look
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
        self.confinement: tuple[Step, Step] | None = None  # Landlock, where an annotation asks for it
        self.first_step: Step | None = None  # core scheduling, likewise
        self.hook_outputs: tuple[Fd | None, Fd | None] = (None, None)

    def close(self) -> None:
        """In the parent, when the child is on its way: close what was opened for the child. Above all the fifo:
        `start` waits until nobody holds its other end.
        """
        for fd in self._descriptors():
            fd.close()

    def _descriptors(self) -> "list[Fd]":
        """What the parent opened for the child."""
        late = self.late.descriptors() if self.late else ()
        lists = (self.cgroup_tasks, self.idmaps.values(), (fd for _, fd in self.joins), late)
        every = (
            self.host_proc,
            self.fifo,
            self.opened,
            *self.hook_outputs,
            *(fd for several in lists for fd in several),
        )
        return [fd for fd in every if fd is not None]

    def keep_only_own(self) -> None:
        """In the child, first of all: close everything that is neither promised to the program nor opened for us.

        These descriptors came from the caller. One may be a folder of the host's (CVE-2024-21626), a lock that would
        be held as long as the container lives, or the end of another container's pipe, whose reader would wait for us.
        """
        own = [fd.number for fd in self._descriptors()]
        keep_only(3 + self.preserve_fds + self.listen_fds, [self.channel.socket.fileno(), *own])

    def warn(self, text: str) -> None:
        self.channel.send(channel.WARNING, text)

    def ask(self, kind: str, *fields: str, fd: "Fd | None" = None) -> None:
        """Have the runtime do something for us, and wait until it is done."""
        self.channel.send(kind, *fields, fd=fd)
        self.wait_for_go()

    def ask_for_descriptor(self, kind: str, index: int) -> "Fd | None":
        """The same, where the answer carries a descriptor."""
        self.channel.send(kind, str(index))
        answer = self.channel.receive()
        if answer.kind != channel.GO:
            raise SystemExit(1)
        return answer.descriptor

    def ask_for_mount(self, index: int) -> Fd:
        """Have the runtime, in our mount namespace but with its own rights, open the source of a mount."""
        mount = self.ask_for_descriptor(channel.OPEN_MOUNT, index)
        if mount is None:
            raise SystemExit(1)
        return mount

    def wait_for_go(self) -> None:
        """Wait until the parent says so. If the parent has died, end: its container must not live on."""
        if not self.channel.read_go():
            raise SystemExit(1)

    def die_with_runtime(self) -> None:
        """Until the container is on its own. The kernel forgets this in a child, and when credentials change:
        prctl(2)
        """
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        if self.channel.is_alone():
            raise SystemExit(1)  # it died before

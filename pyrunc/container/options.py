"""What the verbs that start a process can be told besides the configuration."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.init.channel import Channel
    from pyrunc.linux.fd import Fd


class Options:
    """Of `create`, `run` and `exec`.

    Attributes:
        pid_file: where the process's pid is written, by rename.
        cgroups: of `exec`: below the container's, as its --cgroup takes them.
        console_socket: the path of a socket that the terminal's master is sent to.
        console: takes the master instead, when the caller is the terminal's other side.
        take_channel: the program and its streams are told after start, on the channel that this takes: see
            init.execute.hear_program.
        pidfd: takes the process's pidfd when it is ready, for the call only.
        detach: nobody waits for the process here.
        pidfd_socket: the path of a socket that the process's pidfd is sent to, when the process is ready.
        preserve_fds: how many descriptors from 3 on the program keeps.
        no_cgroup: the container gets no cgroup of its own.
        no_pivot, no_new_keyring: see the verbs.
        config: the path of the configuration, in place of the bundle's config.json.
        exit_record: the container's end is to be on record: see ended.py.
        systemd: let systemd make the cgroup.
        wait_fifo: of `exec`: the path of a fifo; the program runs when somebody opens it for reading.
        rootless: go without cgroups where we may not make them; None: when we are not root of the host.
    """

    __slots__ = (
        "cgroups",
        "config",
        "console",
        "console_socket",
        "detach",
        "exit_record",
        "no_cgroup",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd",
        "pidfd_socket",
        "preserve_fds",
        "rootless",
        "systemd",
        "take_channel",
        "wait_fifo",
    )

    def __init__(
        self,
        *,
        pid_file: str = "",
        console_socket: str = "",
        console: "Callable[[Fd], None] | None" = None,
        detach: bool = True,
        preserve_fds: int = 0,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        rootless: "bool | None" = None,
        systemd: bool = False,
        cgroups: "list[str] | None" = None,
        pidfd: "Callable[[Fd], None] | None" = None,
        pidfd_socket: str = "",
        wait_fifo: str = "",
        exit_record: bool = False,
        config: str = "",
        no_cgroup: bool = False,
        take_channel: "Callable[[Channel], None] | None" = None,
    ) -> None:
        self.pid_file = pid_file
        self.cgroups = cgroups or []
        self.console_socket = console_socket
        self.console = console
        self.detach = detach
        self.preserve_fds = preserve_fds
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.rootless = rootless
        self.systemd = systemd
        self.pidfd = pidfd
        self.pidfd_socket = pidfd_socket
        self.wait_fifo = wait_fifo
        self.exit_record = exit_record
        self.config = config
        self.no_cgroup = no_cgroup
        self.take_channel = take_channel

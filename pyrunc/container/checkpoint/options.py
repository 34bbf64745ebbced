"""What checkpoint and restore can be told."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    from pyrunc.linux.fd import Fd

    class Common(TypedDict, total=False):
        """See CriuOptions."""

        work: str
        criu: str
        tcp_established: bool
        external_sockets: bool
        shell_job: bool
        file_locks: bool
        cgroups: str
        auto_dedup: bool
        lazy_pages: bool


class CriuOptions:
    """The options that both have.

    Attributes:
        images: the folder of the checkpoint.
        work: the folder of CRIU's log and other files; "" is that of the checkpoint.
        criu: the program; "" is looked up in PATH.
        tcp_established: take established TCP connections along.
        external_sockets: allow UNIX sockets whose other end is outside.
        shell_job: allow a session, and a terminal, that are not the container's own.
        file_locks: take locks on files along.
        cgroups: how CRIU deals with cgroups: soft, full, strict, ignore, or "" for its default.
        auto_dedup: free in earlier checkpoints what a later one has again.
        lazy_pages: leave the memory behind, and hand over each page when it is needed.
    """

    __slots__ = (
        "auto_dedup", "cgroups", "criu", "external_sockets", "file_locks", "images", "lazy_pages", "shell_job",
        "tcp_established", "work",
    )  # fmt: skip

    def __init__(self, images: str, **common: "Unpack[Common]") -> None:
        for name in common:
            if name not in CriuOptions.__slots__:
                raise TypeError(f"there is no option {name}")
        self.images = images
        self.work = common.get("work", "")
        self.criu = common.get("criu", "")
        self.tcp_established = common.get("tcp_established", False)
        self.external_sockets = common.get("external_sockets", False)
        self.shell_job = common.get("shell_job", False)
        self.file_locks = common.get("file_locks", False)
        self.cgroups = common.get("cgroups", "")
        self.auto_dedup = common.get("auto_dedup", False)
        self.lazy_pages = common.get("lazy_pages", False)


class CheckpointOptions(CriuOptions):
    """The options of `checkpoint`.

    Attributes:
        parent: an earlier checkpoint of the same processes, as a path from `images`. Memory that has not changed since
            is not written again.
        leave_running: let the container run on.
        pre_dump: write its memory only, and let it run on.
        skip_in_flight: forget TCP connections that are still being made.
        link_remap: allow files that have no name any more, by giving them one.
        page_server: (address, port) of the server that takes the memory.
        status_fd: a descriptor that gets a zero byte, and is closed, when lazy pages can be asked for.
    """

    __slots__ = ("leave_running", "link_remap", "page_server", "parent", "pre_dump", "skip_in_flight", "status_fd")

    def __init__(
        self,
        images: str,
        *,
        parent: str = "",
        leave_running: bool = False,
        pre_dump: bool = False,
        skip_in_flight: bool = False,
        link_remap: bool = False,
        page_server: "tuple[str, int] | None" = None,
        status_fd: "Fd | None" = None,
        **common: "Unpack[Common]",
    ) -> None:
        super().__init__(images, **common)
        self.parent = parent
        self.leave_running = leave_running
        self.pre_dump = pre_dump
        self.skip_in_flight = skip_in_flight
        self.link_remap = link_remap
        self.page_server = page_server
        self.status_fd = status_fd


class RestoreOptions(CriuOptions):
    """The options of `restore`, besides those of `create`.

    Attributes:
        lsm_profile: TYPE:NAME of the profile or label that the processes get.
        lsm_mount_context: the SELinux context that the mounts get.
        paused: leave the container paused: it runs after `resume`.
    """

    __slots__ = ("lsm_mount_context", "lsm_profile", "paused")

    def __init__(
        self,
        images: str,
        *,
        lsm_profile: str = "",
        lsm_mount_context: str = "",
        paused: bool = False,
        **common: "Unpack[Common]",
    ) -> None:
        super().__init__(images, **common)
        self.lsm_profile = lsm_profile
        self.lsm_mount_context = lsm_mount_context
        self.paused = paused

"""checkpoint: write a running container's processes to files, and end them unless they are to go on."""

import posix

from pyrunc.container.checkpoint import criu, folders, host, messages
from pyrunc.container.checkpoint.criu import Criu
from pyrunc.container.checkpoint.external import EXTERNAL_NAMESPACES, Mounts, key_of
from pyrunc.errors import PyruncError, StateError, UsageError, reason
from pyrunc.init.namespaces import own
from pyrunc.linux import encoded
from pyrunc.linux.fd import Fd, open_at, replace_file, unlink_quietly
from pyrunc.linux.process import CLONE_NEWNET, refuse_threads, set_dumpable
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.container.checkpoint.options import CheckpointOptions, CriuOptions
    from pyrunc.container.recorded import Recorded
    from pyrunc.init.channel import Channel

LOG = "dump.log"
LOG_LEVEL = 4
STREAMS = 3


def dump(container: "Recorded", options: "CheckpointOptions") -> None:
    """Write the container to files. The caller holds its lock.

    If we are killed, the container runs on or is gone. CRIU sends us a message before it ends any process. When that
    fails because we are dead, it lets the processes go on.
    """
    set_dumpable(False)
    refuse_threads()
    status = container.status()
    if status not in ("running", "paused"):
        raise StateError(f"Container cannot be checkpointed in {status} state", container.id)
    Dump(container, options, was_frozen=status == "paused").run()


def common(options: "CriuOptions") -> "dict[str, Any]":
    """The part of a request that checkpoint and restore share. Network devices are not the runtime's to describe: all
    that is kept of a network namespace is that there is one (empty_ns)."""
    if options.cgroups not in messages.CGROUP_MODES:
        raise UsageError("--manage-cgroups-mode", options.cgroups, "invalid manage-cgroups-mode value",
                         "soft, full, strict or ignore")  # fmt: skip
    return {
        "log_level": LOG_LEVEL,
        "notify_scripts": True,
        "manage_cgroups_mode": messages.CGROUP_MODES[options.cgroups],
        "orphan_pts_master": True,
        "empty_ns": CLONE_NEWNET,
        "shell_job": options.shell_job,
        "tcp_established": options.tcp_established,
        "ext_unix_sk": options.external_sockets,
        "file_locks": options.file_locks,
        "auto_dedup": options.auto_dedup,
        "lazy_pages": options.lazy_pages,
    }


def numbered(wanted: "dict[str, Any]", numbers: "dict[str, int]") -> "dict[str, Any]":
    """The request with the folders added, as numbers of descriptors that are open in CRIU."""
    wanted["images_dir_fd"] = numbers["images"]
    if "work" in numbers:
        wanted["work_dir_fd"] = numbers["work"]
    return wanted


class Dump:
    """One checkpoint."""

    __slots__ = ("container", "folders", "images", "mounts", "options", "was_frozen", "work")

    def __init__(self, container: "Recorded", options: "CheckpointOptions", was_frozen: bool) -> None:
        self.container = container
        self.options = options
        self.was_frozen = was_frozen

    def run(self) -> None:
        """Do it. All that can be wrong is looked at before CRIU is started."""
        options, container = self.options, self.container
        wanted = self._wanted()
        program = criu.find(options.criu)
        self.images = folders.make(options.images, "--image-path")
        if options.parent:
            folders.verify_parent(self.images, options.parent)
        folders.verify_target(self.images, options.images)
        self.work = folders.make(options.work, "--work-path") if options.work else None
        folders.make_way(self.work or self.images, LOG)
        if options.status_fd is not None:
            self._verify_status_fd(options.status_fd)
        self.folders = {"images": self.images if options.parent else folders.guarded(self.images)}
        if self.work is not None:
            self.folders["work"] = folders.guarded(self.work)
        with container.log.step("checkpoint.start_criu"):
            process = Criu(program, container.log, self._set_up)
        container.directory.note_hook(process.pid)  # `delete --force` ends the process on record
        try:
            process.go()
            with container.log.step("checkpoint.ask"):
                self._ask(process, wanted)
        except BaseException as error:
            self._failed(process, error)
            raise
        finally:
            process.close()

    def _set_up(self, _: "Channel") -> "dict[str, Fd]":
        """In the child."""
        posix.umask(0o022)  # the folder decides who may read them; see points.Points.bring_along
        null = open_at(None, "/dev/null", posix.O_RDWR)
        for number in range(STREAMS):
            posix.dup2(null.number, number)
        return self.folders

    def _wanted(self) -> "dict[str, Any]":
        container, options = self.container, self.options
        pid = container.pid
        wanted: dict[str, Any] = {
            **common(options),
            "pid": pid,
            "log_file": LOG,
            "root": encoded(container.record["rootfs"]),
            "leave_running": options.leave_running,
            "tcp_skip_in_flight": options.skip_in_flight,
            "link_remap": options.link_remap,
            "external": [],
        }
        config_file = host.config_file(container.record["annotations"])
        if config_file:
            wanted["config_file"] = encoded(config_file)
        freezer = container.cgroup.paths.get(container.cgroup.freezer)
        if freezer is not None:
            wanted["freeze_cgroup"] = encoded(freezer)
        if options.page_server is not None:
            address, port = options.page_server
            wanted["ps"] = {"address": address, "port": port}
        if options.parent:
            wanted["parent_img"] = encoded(options.parent)
            wanted["track_mem"] = True
        for kind in self._external_namespaces():
            name = EXTERNAL_NAMESPACES[kind]
            wanted["external"].append(f"{name}[{posix.stat(own(kind, pid)).st_ino}]:{key_of(name)}")
        if not options.pre_dump:
            names = Mounts(container).names()
            wanted["ext_mnt"] = [{"key": encoded(place), "val": encoded(name)} for place, name in names.items()]
        return wanted

    def _external_namespaces(self) -> "list[str]":
        wanted = self.container.config["linux"].get("namespaces") or []
        return [n["type"] for n in wanted if n.get("path") and n["type"] in EXTERNAL_NAMESPACES]

    def _ask(self, process: Criu, wanted: "dict[str, Any]") -> None:
        options = self.options
        process.require_version()
        for kind in self._external_namespaces():
            process.require(f"an external {'process' if kind == 'pid' else 'network'} namespace")
        if options.pre_dump or options.parent:
            process.require_of_kernel("mem_track", "MemTrack")
        if options.lazy_pages:
            process.require_of_kernel("lazy_pages", "LazyPages")
        if not options.pre_dump:
            replace_file(self.images, folders.DESCRIPTORS, dumps(self._streams()).encode("utf-8", "surrogateescape"))
        what = messages.PRE_DUMP if options.pre_dump else messages.DUMP
        unlink_quietly(self.images, folders.INVENTORY)  # what a failure leaves must not look like a checkpoint
        process.ask({"type": what, "opts": numbered(wanted, process.numbers)}, self._notified)
        if folders.INVENTORY not in posix.listdir(self.images.number):
            raise PyruncError("criu", process.program, f"it says that it is done, and there is no {folders.INVENTORY}")

    def _streams(self) -> "list[str]":
        """What the first process's standard streams are. At restore, its caller's streams replace the pipes."""
        found: list[str] = []
        for number in range(STREAMS):
            try:
                found.append(posix.readlink(f"/proc/{self.container.pid}/fd/{number}"))
            except OSError:
                found.append("")  # closed
        return found

    def _notified(self, what: str, _: int, __: "Fd | None") -> None:
        status_fd = self.options.status_fd
        if what == "status-ready" and status_fd is not None:
            try:
                posix.write(status_fd.number, b"\0")
            except OSError as error:
                self.container.log.warning(f"can't write \\0 to status fd: {reason(error)}")
            status_fd.close()

    @staticmethod
    def _verify_status_fd(fd: Fd) -> None:
        import fcntl

        try:
            flags = fcntl.fcntl(fd.number, fcntl.F_GETFL)
        except OSError as error:
            raise UsageError("invalid --status-fd argument", str(fd.number), reason(error)) from error
        if flags & posix.O_ACCMODE not in (posix.O_WRONLY, posix.O_RDWR):
            raise UsageError("invalid --status-fd argument", str(fd.number), "not writable")

    def _failed(self, process: Criu, error: BaseException) -> None:
        """Clean up after a failure, and say what CRIU says of it.

        CRIU has let the processes go, unless it was killed. Then the freezer may still hold them.
        """
        status = process.wait()
        if isinstance(error, criu.CriuFailed):
            place = self.options.work or self.options.images
            host.explain(error, self.container.log, self.work or self.images, LOG, place)
        if posix.WIFSIGNALED(status) and not self.was_frozen:
            try:
                self.container.cgroup.thaw_all()
            except PyruncError as other:
                self.container.log.warning(str(other))

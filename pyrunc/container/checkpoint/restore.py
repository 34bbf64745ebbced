"""restore: make a container from its bundle and a checkpoint's files. It goes on where it was.

We tell CRIU what comes from outside. It makes the processes, and we check them. CRIU is born in the container's cgroup,
and in a mount namespace that ends with it: so no mount is left, whenever CRIU or we are killed.
"""

import _signal
import posix

from pyrunc.cgroups.hierarchy import find
from pyrunc.container import notify, prepare
from pyrunc.container.checkpoint import criu, folders, host, images, messages
from pyrunc.container.checkpoint.criu import Criu
from pyrunc.container.checkpoint.dump import common, numbered
from pyrunc.container.checkpoint.external import EXTERNAL_NAMESPACES, JOINED_NAMESPACES, key_of, refuse_what_is_lost
from pyrunc.container.checkpoint.inspect import Expected, descendants
from pyrunc.container.checkpoint.points import Points
from pyrunc.container.create import plan
from pyrunc.container.creation import Creation
from pyrunc.container.errand import Errand
from pyrunc.container.launch import open_namespace
from pyrunc.container.options import Options
from pyrunc.errors import PyruncError, reason
from pyrunc.init import namespaces
from pyrunc.init.context import Context
from pyrunc.linux import encoded
from pyrunc.linux.fd import Fd, open_at, read_file, replace_file, write_file
from pyrunc.linux.pid import has_ended, pidfd_open, pidfd_send_signal, reap
from pyrunc.linux.process import CLONE_NEWNET, CLONE_NEWNS, refuse_threads, setns
from pyrunc.log import Log
from pyrunc.spec.jsonc import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.container.checkpoint.options import RestoreOptions
    from pyrunc.container.net_devices import NetDevices
    from pyrunc.container.recorded import Recorded
    from pyrunc.container.state import StateRoot
    from pyrunc.init.channel import Channel
    from pyrunc.spec.types import Config

LOG = "restore.log"
PLACE = "criu"  # in the state directory: where CRIU finds all that it needs
DEATH_SECONDS = 10.0


def restore(
    root: "StateRoot",
    container_id: str,
    bundle: str,
    restoring: "RestoreOptions",
    options: "Options | None" = None,
    log: "Log | None" = None,
) -> "Recorded":
    """Make a container from a checkpoint. It runs when this returns. Nothing of it is left when this raises."""

    def kind(*arguments: "Any") -> Restoration:
        return Restoration(restoring, *arguments)

    creation = plan(container_id, bundle, options or Options(), log or Log(), kind=kind)
    creation.run(root)
    return creation.container


class Restoration(Creation):
    """One container in the making, from a checkpoint."""

    __slots__ = ("images", "looked", "namespaces", "parents", "process", "restoring", "streams", "tasks", "work")

    def __init__(self, restoring: "RestoreOptions", record: "dict[str, Any]", config: "Config", *others: "Any") -> None:
        """Look at what is asked for, and at what is there. Nothing is made."""
        refuse_threads()
        refuse_what_is_lost(config)
        common(restoring)
        self.restoring = restoring
        self.process: Criu | None = None
        self.looked = False
        self.images = folders.open_images(restoring.images)
        self.parents = folders.verify(self.images, restoring.images)
        self.streams = self._streams()
        self.namespaces = self._open_namespaces(config)
        super().__init__(record, config, *others)

    def find_net_devices(self) -> "NetDevices | None":
        """The devices to move; None with a network namespace of somebody else's, which has them already."""
        wanted = self.config["linux"].get("namespaces") or []
        joined = any(n["type"] == "network" and n.get("path") for n in wanted)
        return None if joined else super().find_net_devices()

    def _streams(self) -> "list[str]":
        """What the standard streams were at the checkpoint."""
        place = f"{self.restoring.images}/{folders.DESCRIPTORS}"
        try:
            with open_at(
                self.images, folders.DESCRIPTORS, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK
            ) as file:
                text = posix.read(file.number, 1 << 16)
            found = loads(text.decode("utf-8", "surrogateescape"))
        except FileNotFoundError:
            return []  # somebody made this checkpoint with CRIU alone
        except (OSError, ValueError) as error:
            raise PyruncError("reading", place, reason(error)) from error
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise PyruncError("reading", place, "it is no list of texts")
        return found

    @staticmethod
    def _open_namespaces(config: "Config") -> "dict[str, Fd]":
        """Open the namespaces with a path. They were somebody else's at the checkpoint too, and must exist."""
        opened: dict[str, Fd] = {}
        for namespace in config["linux"].get("namespaces") or []:
            path = namespace.get("path")
            if not path:
                continue
            if namespace["type"] in EXTERNAL_NAMESPACES:
                opened[namespace["type"]] = open_namespace(path)
            elif namespace["type"] not in JOINED_NAMESPACES:
                raise PyruncError("restoring namespace", path, f"CRIU can't join a {namespace['type']} namespace")
        namespaces.verify_kinds(opened.items())
        return opened

    def begin(self, death_seconds: float = DEATH_SECONDS) -> None:
        """Make the whole container: CRIU can't make one that waits for start."""
        restoring, container = self.restoring, self.container
        directory = container.directory
        self.make_surroundings()
        bundle = container.record["bundle"]
        self.work = folders.make(restoring.work, "--work-path", bundle) if restoring.work else None
        folders.make_way(self.work or self.images, LOG)
        self._make_notify_folder()
        posix.mkdir(PLACE, 0o700, dir_fd=directory.fd.number)
        state = posix.readlink(f"/proc/self/fd/{directory.fd.number}")
        points = Points(container, self.config, state, f"{state}/{PLACE}", self.options.no_pivot)
        copies = self._vetted()
        points.bring_along(self.images, self.parents, self.work, copies)
        self.tasks = self.cgroup.open_tasks()
        external: dict[str, str] = {}
        with self.log.step("restore.start_criu"):
            self.process = process = Criu(
                criu.find(restoring.criu), self.log, lambda line: self._set_up(points, line),
                flags=CLONE_NEWNS, cgroup=self.cgroup, leader=not restoring.shell_job,
            )  # fmt: skip
        directory.note_hook(process.pid)  # `delete --force` ends the process on record
        self.settle(process.pid)
        if self.group is not None:
            self.group.join(process.pid)
        process.go(external.__setitem__)
        with self.log.step("restore.ask"):
            self._ask(process, self._wanted(process, points, external, images.leaves_cgroups(copies)))
        process.close()

    def _vetted(self) -> "dict[str, bytes]":
        """Copies of the images that CRIU may not read from the folder itself: see images.vetted."""
        context = Context()
        context.config = self.config
        prepare.use_filter(context, self.container)
        is_soft = self.restoring.cgroups in ("", "soft")
        place, hierarchies = self.restoring.images, self._hierarchies()
        return images.vetted(self.images, place, hierarchies, is_soft, context.bpf, context.bpf_flags)

    def _hierarchies(self) -> "list[str] | None":
        """The hierarchies in which CRIU may restore cgroups. None: it is to leave cgroups alone."""
        if self.options.no_cgroup or self.restoring.cgroups == "ignore":
            return None
        return [*(self.cgroup.paths or self.cgroup.mounts)]

    def _set_up(self, points: Points, line: "Channel") -> "dict[str, Fd]":
        """Prepare the child that becomes CRIU: join v1's cgroups, mount everything. Returns what stays open in CRIU."""
        for tasks in self.tasks:
            posix.write(tasks.number, b"0")
        return {**points.make(line), **self.namespaces}

    def _make_notify_folder(self) -> None:
        """Make the folder for the container's messages to a service manager. A container that had one when it was
        checkpointed has a mount of it, which needs a source."""
        if not self.container.record["notify"]:
            posix.mkdir(notify.FOLDER, 0o755, dir_fd=self.container.directory.fd.number)

    # --- the request

    def _wanted(
        self, process: Criu, points: Points, external: "dict[str, str]", leave_cgroups: bool
    ) -> "dict[str, Any]":
        restoring, record = self.restoring, self.container.record
        wanted: dict[str, Any] = {
            **common(restoring),
            "evasive_devices": True,
            "rst_sibling": True,
            "log_file": LOG,
            "root": encoded(points.root),
            "cg_root": _cgroup_roots(process.pid),
            "ext_mnt": [{"key": encoded(name), "val": encoded(source)} for name, source in external.items()],
            "inherit_fd": [
                *({"key": stream, "fd": number} for number, stream in enumerate(self.streams[:3]) if _is_pipe(stream)),
                *({"key": key_of(EXTERNAL_NAMESPACES[kind]), "fd": process.numbers[kind]} for kind in self.namespaces),
            ],
            "join_ns": [
                {"ns": JOINED_NAMESPACES[namespace["type"]], "ns_file": encoded(namespace["path"])}
                for namespace in self.config["linux"].get("namespaces") or []
                if namespace.get("path") and namespace["type"] in JOINED_NAMESPACES
            ],
        }
        if leave_cgroups:
            wanted["manage_cgroups_mode"] = messages.CGROUP_MODES["ignore"]
        for name, value in (("lsm_profile", restoring.lsm_profile), ("lsm_mount_context", restoring.lsm_mount_context)):
            if value:
                wanted[name] = value
        config_file = host.config_file(record["annotations"])
        if config_file:
            wanted["config_file"] = encoded(config_file)
        return wanted

    def _ask(self, process: Criu, wanted: "dict[str, Any]") -> None:
        process.require_version()
        for kind in self.namespaces:
            process.require(f"an external {'process' if kind == 'pid' else 'network'} namespace")
        for flag, given in (("--lsm-profile", self.restoring.lsm_profile),
                            ("--lsm-mount-context", self.restoring.lsm_mount_context)):  # fmt: skip
            if given:
                process.require(flag)
        try:
            process.ask({"type": messages.RESTORE, "opts": numbered(wanted, process.numbers)}, self._notified)
        except criu.CriuFailed as error:
            place = self.restoring.work or self.restoring.images
            host.explain(error, self.container.log, self.work or self.images, LOG, place)
            raise
        if not self.looked:
            raise PyruncError("criu's answer", "", "it is done, and nobody has looked at what it has made")

    # --- what CRIU says

    def _notified(self, what: str, pid: int, fd: "Fd | None") -> None:
        if pid and not _is_our_child(pid):
            raise PyruncError("criu's answer", "", f"process {pid} is none that it has made")
        if what == "setup-namespaces":
            self.born(pid)
            self._set_up_network(pid)
            self.run_hooks()
        elif what == "orphan-pts-master" and fd is not None:
            self.take_master(fd)
        elif what == "post-restore":
            if not self.container.pid:
                self.born(pid)  # without namespaces of its own there was no setup-namespaces
            self._note_time_namespace(pid)
        elif what == "pre-resume":
            self._look()
            if self.restoring.paused:
                self._hold()

    def _look(self) -> None:
        """Check the processes before they run. If they fail the check, kill them, and then CRIU, which holds them: it
        takes no answer at this point, and would let them run."""
        assert self.process is not None
        pid, restoring = self.container.pid, self.restoring
        try:
            Expected(
                self.container, self.config, self.cgroup, self.process.pid, restoring.lsm_profile, restoring.shell_job
            ).look(pid)
            if restoring.cgroups in ("full", "strict"):
                self._limit()  # CRIU has written what the images say
        except BaseException:
            for each in descendants(pid):
                _kill(each)
            self.process.kill()
            raise
        self.looked = True

    def _hold(self) -> None:
        """Freeze the processes before CRIU lets them go. CRIU was born in their cgroup, so it is moved out first."""
        assert self.process is not None
        freezer = self.cgroup.freezer
        for hierarchy in find():
            if hierarchy.name == freezer:
                write_file(f"{hierarchy.mount}{hierarchy.own}/cgroup.procs", str(self.process.pid).encode())
        directory = self.cgroup.paths.get(freezer)
        if directory is None:
            raise PyruncError("restoring", self.container.id, "it can't be paused: this host has no freezer for us")
        write_file(f"{directory}/{self.cgroup.freeze_file}", self.cgroup.freeze_value.encode())

    def _set_up_network(self, pid: int) -> None:
        """Bring up loopback, and move the devices in. CRIU leaves a new network namespace empty."""
        wanted = self.config["linux"].get("namespaces") or []
        if not any(n["type"] == "network" and not n.get("path") for n in wanted):
            return
        with open_at(None, namespaces.own("network", pid), posix.O_RDONLY) as namespace:

            def bring_up() -> None:
                setns(namespace, CLONE_NEWNET)
                context = Context()
                context.new_network = True
                namespaces.loopback_up(context)

            try:
                Errand(bring_up).close()
            except OSError as error:
                raise PyruncError("restoring", "network namespace", f"its loopback device: {reason(error)}") from error
            if self.net_devices is not None:
                self.move_devices(Fd(posix.dup(namespace.number), "the container's network namespace"))

    def _note_time_namespace(self, pid: int) -> None:
        """Note a time namespace that CRIU has made, so that `exec` enters it. CRIU makes one so that clocks go on."""
        wanted = self.config["linux"].get("namespaces") or []
        if any(n["type"] == "time" for n in wanted) or not posix.access(namespaces.own("time"), posix.F_OK):
            return
        if namespaces.identity(namespaces.own("time", pid)) != namespaces.identity(namespaces.own("time")):
            self.config["linux"]["namespaces"] = [*wanted, {"type": "time"}]
            self.container.directory.save_config(self.config)

    # --- the end

    def hear(self) -> bool:
        container = self.container
        posix.rmdir(PLACE, dir_fd=container.directory.fd.number)
        try:
            with pidfd_open(container.pid) as pidfd:
                self.take_pidfd(pidfd)
        except ProcessLookupError:
            pass  # it has ended by now
        _write_pid_file(self.options.pid_file, container.pid)
        if self.group is not None:
            self.group.settle()
            self.record["rdt"] = self.group.record()
            self.save()
        if self.restoring.paused:
            container.cgroup.freeze()  # asked for in `_hold`; this waits until all stand still
        else:
            container.run_hooks("poststart", "running")
        return True

    def undo(self) -> None:
        """CRIU undoes what it has not finished. Kill what it has finished."""
        container = self.container
        if self.process is not None:
            self.process.close()
        if container.pid:
            _end(container.pid, container.is_alive(), self.cgroup)
        super().undo()


def _is_pipe(stream: str) -> bool:
    return stream.startswith("pipe:[")


def _cgroup_roots(pid: int) -> "list[dict[str, Any]]":
    """For each controller, the cgroup that CRIU is in. CRIU restores there what was elsewhere at the checkpoint."""
    found = []
    for line in read_file(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, names, path = line.split(":", 2)
        found += [{"ctrl": name, "path": encoded(path)} for name in names.split(",")]
    return found


def _is_our_child(pid: int) -> bool:
    """Whether a process is our child. Restored ones are: CRIU gives them its own parent (rst_sibling)."""
    try:
        posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOWAIT | posix.WNOHANG)
    except (OSError, OverflowError):
        return False
    return True


def _kill(pid: int) -> None:
    """Kill a process that stands still: so its number can't have become another's."""
    try:
        with pidfd_open(pid) as pidfd:
            pidfd_send_signal(pidfd, _signal.SIGKILL)
    except ProcessLookupError:
        pass


def _end(pid: int, is_alive: bool, cgroup: "Cgroup") -> None:
    """End the first process. It is our child: until we wait for it, its number stays its own, even once it is dead."""
    try:
        with pidfd_open(pid) as pidfd:
            if is_alive:
                pidfd_send_signal(pidfd, _signal.SIGKILL)
                cgroup.thaw_all()  # a frozen process of v1 dies when it thaws
            has_ended(pidfd, DEATH_SECONDS)
            reap(pidfd)
    except (ProcessLookupError, ChildProcessError):
        pass  # CRIU was quicker


def _write_pid_file(path: str, pid: int) -> None:
    """Write the pid file by rename, once all else is done."""
    if not path:
        return
    folder, slash, name = path.rpartition("/")
    try:
        with open_at(None, folder or slash or ".", posix.O_RDONLY | posix.O_DIRECTORY) as directory:
            replace_file(directory, name, str(pid).encode(), 0o644)
    except OSError as error:
        raise PyruncError("writing pid file", path, reason(error)) from error

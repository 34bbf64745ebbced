"""One container in the making: its cgroup, its process, its record, and how they are undone when something fails."""

import posix

from pyrunc import cgroups
from pyrunc.container import ids, launch, notify, patience, prepare
from pyrunc.container.options import Options
from pyrunc.container.recorded import Recorded
from pyrunc.container.state import StateDirectory, StateRoot, is_root_of_host
from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.init import cgroup_mounts, labels, steps
from pyrunc.init.context import Context
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount_options import asks_for_mapping
from pyrunc.linux.pid import start_time
from pyrunc.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.rdt import Group
    from pyrunc.container.net_devices import NetDevices
    from pyrunc.spec.types import Config

CAN_NOT_KILL = "nothing tells which processes are the container's, so kill and delete can't end them all"


class Creation(launch.Parent):
    """One container in the making.

    Its record is written before each thing that is made. So `delete --force` finds all that a killed `create` has
    left.
    """

    __slots__ = (
        "cgroup", "child", "config", "container", "group", "is_claimed", "log", "net_devices", "options", "record",
    )  # fmt: skip

    child: launch.Launch
    container: Recorded

    def __init__(
        self,
        record: "dict[str, Any]",
        config: "Config",
        options: Options,
        log: Log,
        take_master: "Callable[[Fd], None]",
        take_pidfd: "Callable[[Fd], None]",
    ) -> None:
        """Look at what is asked for. Nothing is made."""
        super().__init__(take_master, take_pidfd)
        self.is_claimed = False
        self.record = record
        self.config = config
        self.options = options
        self.log = log
        self.cgroup = _place(record["id"], config, options)
        self.net_devices = self.find_net_devices()
        self.group = _rdt_group(config, record["id"])

    def find_net_devices(self) -> "NetDevices | None":
        return _net_devices(self.config, self.options)

    def run(self, root: StateRoot) -> None:
        """Make the whole container. If that fails, nothing is left of it."""
        self.claim(root)
        try:
            self.begin()
            while not self.hear():
                pass
        except BaseException as error:
            _close_what_it_left(error)
            try:
                del self.child  # it has descriptors too
            except AttributeError:
                pass  # it failed before there was a child
            self.undo()
            raise
        finally:
            self.close()

    def claim(self, root: StateRoot) -> None:
        """Take its ID. The caller calls `close` at the end. After a failure, `undo` or `delete --force` removes what is
        left."""
        self.container = Recorded(StateDirectory.make(root, self.record["id"]), self.record, self.log)
        self.container.known_config = self.config
        self.is_claimed = True

    def begin(self, death_seconds: float = patience.DEATH_SECONDS) -> None:
        """Make everything up to its process, and start that. Call `hear` whenever the process has sent something.

        Args:
            death_seconds: how long to wait for the end of its process when this fails.
        """
        self.make_surroundings()
        with self.log.step("create.prepare"):
            context = self._context()
        namespaces = self.config["linux"].get("namespaces") or []
        flags = launch.plan_namespaces(context, namespaces)
        own_mounts = any(n["type"] == "mount" and not n.get("path") for n in namespaces)
        self.child = launch.Launch(context, self.log, self)
        self.child.death_seconds = death_seconds
        self.child.begin(steps.INIT if own_mounts else steps.INIT_IN_FOREIGN_MOUNTS, flags)

    def make_surroundings(self) -> None:
        """Make what is there before its process."""
        self._record_what_will_be()
        if not self.cgroup.needs_process:
            with self.log.step("create.make_cgroup"):
                self._make_cgroup()
        if self.group is not None:
            try:
                self.group.make(self.config["linux"]["intelRdt"])
            finally:
                self.record["rdt"] = self.group.record()

    def hear(self) -> bool:
        """Listen to its process, and do what that asks for. Returns whether the container is complete."""
        if not self.child.hear():
            return False
        prepare.write_pid_file(self.options.pid_file, self.child)
        if self.group is not None:
            self.group.settle()
            self.record["rdt"] = self.group.record()
            self.save()
        return True

    def save(self) -> None:
        self.container.directory.save(self.record)

    def _record_what_will_be(self) -> None:
        record, directory, cgroup = self.record, self.container.directory, self.cgroup
        if record["notify"]:
            posix.mkdir(notify.FOLDER, 0o755, dir_fd=directory.fd.number)
            self.config["mounts"] = [*(self.config.get("mounts") or []), notify.mount(directory.path)]
        directory.save_config(self.config)
        cgroup.refuse_used()
        record["cgroup"] = cgroup.record()
        directory.note_cgroup(record["cgroup"])
        if self.group is not None:
            record["rdt"] = self.group.record()
        self.save()

    def _make_cgroup(self) -> None:
        rootless = _is_rootless(self.options)
        self.cgroup.make(tolerant=rootless and not self.config["linux"].get("cgroupsPath"))
        self.record["cgroup"]["paths"] = self.cgroup.paths
        if not self.cgroup.paths and not self.record["own_pids"]:
            words = "a container without a cgroup and without a process namespace of its own is created"
            self.log.warning(f"{words}. Such configuration is strongly discouraged: {CAN_NOT_KILL}")
        self._limit()

    def _limit(self) -> None:
        if self.options.no_cgroup:
            return
        resources = self.config["linux"].get("resources") or {}
        may_set_devices = not _is_rootless(self.options) or is_root_of_host()  # with --rootless, root still may
        self.cgroup.limit(resources, may_set_devices)
        _delegate(self.cgroup, self.config)

    def _context(self) -> Context:
        context = _context(self.container, self.config, self.options)
        prepare.use_cgroup(context, self.cgroup)
        return context

    def settle(self, pid: int) -> None:
        """Have systemd make the scope. It does so only for a process that exists."""
        if not self.cgroup.needs_process:
            return
        resources, annotations = self.config["linux"].get("resources") or {}, self.record["annotations"]
        try:
            with self.log.step("create.start_unit"):
                self.cgroup.start(self.container.id, pid, resources, annotations)
        finally:
            self.record["cgroup"] = self.cgroup.record()
            self.container.directory.note_cgroup(self.record["cgroup"])
            self.save()
        self._limit()

    def born(self, pid: int) -> None:
        self.record["pid"] = pid
        self.record["start"] = start_time(pid)
        self.save()
        if self.group is not None:
            self.group.join(pid)

    def move_devices(self, namespace: Fd) -> None:
        assert self.net_devices is not None
        self.net_devices.arrive(namespace)
        self.record["netDevices"] = self.net_devices.record()
        self.save()
        self.net_devices.move()

    def delegate(self, pid: int) -> None:
        self.cgroup.delegate(pid, *_root_on_the_host(self.config))

    def run_hooks(self) -> None:
        self.container.run_hooks("prestart", "created")  # "after step 2 of the lifecycle": the environment exists
        self.container.run_hooks("createRuntime", "creating")

    def undo(self) -> None:
        """After a failure, when the process is dead: give its network devices back, remove its cgroup and its
        directory.

        What can't be removed is left for `delete --force`, and a warning says so.
        """
        container = self.container
        try:
            if self.net_devices is not None:
                self.net_devices.give_back(self.log)
            if container.pid:
                container.cgroup.kill()  # processes that its hooks have started
            container.cgroup.remove()
            container.remove_rdt_group()
            container.directory.remove()
            if container.pid:
                container.poststop()
        except (PyruncError, OSError) as error:
            self.log.warning(f"cleaning up after the failure: {reason(error)}")

    def close(self) -> None:
        if self.net_devices is not None:
            self.net_devices.close()
        self.container.directory.unlock()


def _close_what_it_left(error: BaseException) -> None:
    """Close the descriptors that the functions which failed had open: the error's traceback keeps them. Undoing
    needs descriptors, and where there were none left it would fail as well.
    """
    at = error.__traceback__
    while at is not None:
        try:
            at.tb_frame.clear()
        except RuntimeError:
            pass  # a function that still runs: ours, or a caller's
        at = at.tb_next


def _net_devices(config: "Config", options: Options) -> "NetDevices | None":
    """The network devices that are to move into the container, as they are now. Few containers have any."""
    if not config["linux"].get("netDevices"):
        return None
    from pyrunc.container import net_devices

    return net_devices.NetDevices(config["linux"], _is_rootless(options))


def _rdt_group(config: "Config", container_id: str) -> "Group | None":
    """The container's class of service and monitoring group. An empty object asks for a class of its own."""
    wanted = config["linux"].get("intelRdt")
    if wanted is None:
        return None
    from pyrunc.cgroups import rdt

    return rdt.plan(wanted, container_id)


def _place(container_id: str, config: "Config", options: Options) -> "Cgroup":
    path = config["linux"].get("cgroupsPath")
    delegated = subgroup = ""
    named = False
    if config.get("annotations"):
        from pyrunc.container import annotations

        subgroup, delegated, named = annotations.of_cgroup(config["annotations"])
    if options.no_cgroup:
        if config["linux"].get("resources"):
            cause = "there are no limits, nor rules for devices, without a cgroup (--cgroup-manager disabled)"
            raise ConfigError("config.json", "/linux/resources", cause, "take them out, if that is meant")
        return cgroups.place_nowhere()
    if options.systemd:
        return cgroups.place_scope(path, container_id, _is_rootless(options), delegated, named, subgroup)
    return cgroups.place(path, container_id, delegated, named)


def _is_rootless(options: Options) -> bool:
    return options.rootless if options.rootless is not None else not is_root_of_host()


def _context(container: Recorded, config: "Config", options: Options) -> Context:
    context = Context()
    context.config = config
    context.process = config.get("process") or {"cwd": "/"}  # REQUIRED by start only (config.md#process)
    context.bundle = container.record["bundle"]
    context.rootfs = container.record["rootfs"]
    context.host_proc = prepare.open_proc()
    context.state = container.hook_state
    context.no_pivot = options.no_pivot
    context.keyring = "" if options.no_new_keyring else f"_ses.{container.id}"
    context.preserve_fds = options.preserve_fds
    context.listen_fds = listen_fds()
    context.listen_names = posix.environ.get(b"LISTEN_FDNAMES", b"").decode("utf-8", "surrogateescape")
    context.fifo = container.directory.make_fifo()
    context.take_channel = options.take_channel
    context.notify_socket = f"{notify.INSIDE}/{notify.SOCKET}" if container.record["notify"] else ""
    prepare.use_filter(context, container)
    if config.get("annotations"):
        from pyrunc.container import annotations

        context.hook_outputs = container.hook_outputs()
        context.confinement = annotations.confinement(config)
        context.first_step = annotations.first_step(config)
    labels.prepare(context, container.log)
    if maps_owners(config):
        from pyrunc.container import mapped_mounts

        mapped_mounts.prepare(context)
    return context


def maps_owners(config: "Config") -> bool:
    """Whether there are ID-mapped mounts. Few containers have any; the code for them is loaded for those."""
    return "org.pyrunc.rootfs.idmap" in (config.get("annotations") or {}) or any(
        m.get("uidMappings") or asks_for_mapping(m.get("options") or []) for m in config.get("mounts") or []
    )


def _delegate(cgroup: "Cgroup", config: "Config") -> None:
    """Give v2's directory to the container's user, where the container may arrange its own cgroup.

    That is where it has a cgroup namespace of its own and a writable view of it. config-linux.md#cgroup-ownership
    """
    linux = config["linux"]
    if (config.get("annotations") or {}).get(cgroup_mounts.FORCED):
        cgroup.give_named(*_root_on_the_host(config))
    new = {n["type"] for n in linux.get("namespaces") or [] if not n.get("path")}
    if "cgroup" not in new or cgroup.delegated:
        return
    writable = any(
        mount.get("type") in ("cgroup", "cgroup2") and "ro" not in (mount.get("options") or [])
        for mount in config.get("mounts") or []
    )
    process = config.get("process")
    uid = process["user"]["uid"] if process and process.get("user") else 0
    owner = ids.on_the_host(uid, linux.get("uidMappings") or []) if "user" in new else uid
    if writable and owner is not None:
        cgroup.give_to(owner)


def listen_fds() -> int:
    """Socket activation: how many descriptors from 3 on are the container's. LISTEN_PID says whether they are meant
    for us.
    """
    count, meant_for = posix.environ.get(b"LISTEN_FDS", b"0"), posix.environ.get(b"LISTEN_PID", b"0")
    if not (count.isdigit() and meant_for.isdigit() and len(count + meant_for) < 20):
        return 0  # a negative number would be one of the standard streams
    return int(count) if int(meant_for) in (0, posix.getpid()) else 0


def _root_on_the_host(config: "Config") -> "tuple[int, int]":
    """The user and group that the container's root is on the host."""
    linux = config["linux"]
    if not any(n["type"] == "user" for n in linux.get("namespaces") or []):
        return 0, 0
    uid, gid = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    return ids.on_the_host(0, uid) or 0, ids.on_the_host(0, gid) or 0

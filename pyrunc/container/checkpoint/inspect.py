"""A look at what was restored, before it runs: its images say what it is allowed, config.json says what it may.

CRIU does what the images say, with all rights of the host. It has no word for what they must not say: so the kernel is
asked what has come of it, while every process still stands still.
"""

import _stat
import posix

from pyrunc.container.checkpoint.external import BIND, CGROUP, kind_of
from pyrunc.container.checkpoint.mountinfo import Mounted, mount_of, mounts_of
from pyrunc.container.errand import Errand
from pyrunc.errors import PyruncError, reason
from pyrunc.init import dev, labels, namespaces
from pyrunc.init.capabilities import CAP_SYS_ADMIN, Sets, names_of
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at, read_file
from pyrunc.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_setattr,
)
from pyrunc.linux.mount_options import MountOptions
from pyrunc.linux.process import CLONE_NEWNS, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.spec.types import Config, IDMapping, Mount, Process

SECCOMP_FILTER = "2"
WORDS = {MOUNT_ATTR_RDONLY: "ro", MOUNT_ATTR_NOSUID: "nosuid", MOUNT_ATTR_NODEV: "nodev", MOUNT_ATTR_NOEXEC: "noexec"}
WITH_MASKS = ("proc", "sysfs")
OWN_KINDS = ("tmpfs", "devpts", "mqueue")  # each mount of them is a new one, or of the container's own namespace


def look_before_it_runs(pid: int, config: "Config", cgroup: "Cgroup", rootfs: str, bundle: str, profile: str) -> None:
    """Raises PyruncError when it could do more than its configuration lets a new container do.

    Args:
        profile: of --lsm-profile.
    """
    found = descendants(pid)
    process: Process = config.get("process") or {"cwd": "/"}
    bounding = Sets(process.get("capabilities") or {}).any()
    for each in found:
        _namespaces(each, config)
        _cgroups(each, cgroup)
        _rights(each, config, bounding)
        _labels(each, config, profile)
    _mappings(pid, config)
    own_mounts = any(n["type"] == "mount" and not n.get("path") for n in config["linux"].get("namespaces") or [])
    if own_mounts:
        with open_at(None, f"/proc/{pid}/root", posix.O_PATH | posix.O_DIRECTORY) as root:
            _root(root, rootfs)
            if not bounding & CAP_SYS_ADMIN:  # with it a container mounts what it likes
                _Mounts(pid, root, config, rootfs, bundle).look()


def refuse(what: str, cause: str) -> PyruncError:
    hint = "the checkpoint was made with another configuration, or changed: it is not let run"
    return PyruncError("restoring", what, cause, hint)


def descendants(pid: int) -> "list[int]":
    """A process and all that it has made. They stand still: nobody is missed. proc(5), CONFIG_PROC_CHILDREN"""
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        for thread in posix.listdir(f"/proc/{each}/task"):
            waiting += [int(child) for child in read_file(f"/proc/{each}/task/{thread}/children").split()]
    return found


def _namespaces(pid: int, config: "Config") -> None:
    for wanted in config["linux"].get("namespaces") or []:
        kind = wanted["type"]
        there = namespaces.identity(namespaces.own(kind, pid))
        if wanted.get("path"):
            if there != namespaces.identity(wanted["path"]):
                raise refuse(f"process {pid}", f"it is not in the {kind} namespace {wanted['path']}")
        elif there == namespaces.identity(namespaces.own(kind)):
            raise refuse(f"process {pid}", f"it is in the host's {kind} namespace")


def _cgroups(pid: int, cgroup: "Cgroup") -> None:
    there = {}
    for line in read_file(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, name, place = line.split(":", 2)
        there[name] = place
    for name, directory in cgroup.paths.items():
        place = directory[len(cgroup.mounts[name]) :] if name in cgroup.mounts else ""
        if place and not f"{there.get(name, '')}/".startswith(f"{place}/"):
            raise refuse(f"process {pid}", f"it is in the cgroup {there.get(name)}, and not in {place} ({name})")


def _rights(pid: int, config: "Config", bounding: int) -> None:
    """Of each thread: rights, no_new_privs and the filter are its own."""
    process = config.get("process")
    if process is None:
        return
    for thread in posix.listdir(f"/proc/{pid}/task"):
        lines = read_file(f"/proc/{pid}/task/{thread}/status").decode("utf-8", "replace").splitlines()
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        has = int(status["CapBnd"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16)
        if has & ~bounding:
            names = ", ".join(names_of(has & ~bounding)) or "capabilities"
            raise refuse(f"process {pid}", f"it has {names}, which config.json does not grant")
        if process.get("noNewPrivileges") and status["NoNewPrivs"] != "1":
            raise refuse(f"process {pid}", "it may get new privileges, and /process/noNewPrivileges is true")
        if config["linux"].get("seccomp") and status["Seccomp"] != SECCOMP_FILTER:
            raise refuse(f"process {pid}", "it has no seccomp filter, and /linux/seccomp asks for one")


def _labels(pid: int, config: "Config", profile: str) -> None:
    process = config.get("process")
    if process is None:
        return
    given = profile.partition(":")[2]
    for wanted, file, there in (
        (process.get("apparmorProfile"), "apparmor/current", labels.has_apparmor),
        (process.get("selinuxLabel"), "current", labels.has_selinux),
    ):
        if wanted and there():
            has = read_file(f"/proc/{pid}/attr/{file}").decode("utf-8", "replace").strip("\0\n").partition(" (")[0]
            if has not in (wanted, given):
                raise refuse(f"process {pid}", f"its label is {has}, and config.json has {wanted} (see --lsm-profile)")


def _mappings(pid: int, config: "Config") -> None:
    linux = config["linux"]
    if not any(n["type"] == "user" for n in linux.get("namespaces") or []):
        return
    for file, wanted in (("uid_map", linux.get("uidMappings")), ("gid_map", linux.get("gidMappings"))):
        has = sorted(
            tuple(int(word) for word in line.split()) for line in read_file(f"/proc/{pid}/{file}").splitlines()
        )
        if has != _rows(wanted or []):
            raise refuse(f"process {pid}", f"its {file} is not that of config.json")


def _rows(mappings: "list[IDMapping]") -> "list[tuple[int, ...]]":
    return sorted((each["containerID"], each["hostID"], each["size"]) for each in mappings)


def _root(root: Fd, rootfs: str) -> None:
    there, wanted = posix.fstat(root.number), posix.stat(rootfs)
    if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
        raise refuse("its root", f"it is not {rootfs}")


class _Mounts:
    """What is mounted in the container, beside what its configuration has."""

    __slots__ = ("bundle", "config", "host", "lacking", "mounted", "pid", "root", "rootfs")

    def __init__(self, pid: int, root: Fd, config: "Config", rootfs: str, bundle: str) -> None:
        self.pid = pid
        self.root = root
        self.config = config
        self.rootfs = rootfs
        self.bundle = bundle
        self.mounted = {mount.number: mount for mount in mounts_of(pid)}
        self.host = mounts_of("self")
        self.lacking: dict[str, int] = {}  # MOUNT_ATTR_* by place

    def look(self) -> None:
        if self.config["root"].get("readonly"):
            self._must("/", MOUNT_ATTR_RDONLY)
        for entry in self.config.get("mounts") or []:
            options = MountOptions(entry.get("options") or [])
            if kind_of(entry):
                self._must(entry["destination"], options.set | options.all_set)
        for place in self.config["linux"].get("readonlyPaths") or []:
            if self._at(place) is not None:
                self._must(place, MOUNT_ATTR_RDONLY)
        for place in self.config["linux"].get("maskedPaths") or []:
            self._masked(place)
        self._only_what_is_known()
        if self.lacking:
            self._complete()

    def _complete(self) -> None:
        """Give mounts the flags that they lack, as CRIU 4.1 leaves the second of two bind mounts of a file system
        writable."""
        own_namespace = open_at(None, namespaces.own("mount", self.pid), posix.O_RDONLY)

        def work() -> None:
            setns(own_namespace, CLONE_NEWNS)
            for place, flags in self.lacking.items():
                with path.resolve(self.root, place) as target:
                    mount_setattr(target, set=flags)

        with own_namespace:
            try:
                Errand(work).close()
            except OSError as error:
                raise refuse("mounts", f"the flags that they lack can't be set: {reason(error)}") from error

    def _at(self, place: str) -> "Mounted | None":
        """The mount that a path is on; None: there is nothing."""
        try:
            with path.resolve(self.root, normal(place)) as target:
                return self.mounted.get(mount_of(target))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _must(self, place: str, flags: int) -> None:
        """There is a mount at that path, and it has these flags, or gets them."""
        mounted = self._at(place)
        if mounted is None or not self._is_at(mounted, place):
            raise refuse(f"mount {place}", "it is not there")
        for flag, word in WORDS.items():
            if flags & flag and word not in mounted.flags:
                self.lacking[mounted.place] = self.lacking.get(mounted.place, 0) | flag

    def _is_at(self, mounted: Mounted, place: str) -> bool:
        """And not above."""
        with path.resolve(self.root, normal(place)) as target, path.resolve(self.root, mounted.place) as top:
            here, there = posix.fstat(target.number), posix.fstat(top.number)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _masked(self, place: str) -> None:
        """By a mount of its own: the null device, or an empty folder."""
        try:
            with path.resolve(self.root, normal(place)) as target:
                status, mounted = posix.fstat(target.number), self.mounted.get(mount_of(target))
                is_null = _stat.S_ISCHR(status.st_mode) and status.st_rdev == dev.NULL
                is_folder = _stat.S_ISDIR(status.st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return
        if mounted is None or not (is_null or (is_folder and mounted.kind == "tmpfs" and "ro" in mounted.flags)):
            raise refuse(f"path {place}", "it is not masked, as config.json has it")

    def _only_what_is_known(self) -> None:
        """Of the host's file systems those that the configuration has. proc and sysfs only where it has them: in
        another one nothing would be masked."""
        known = self._known_devices()
        entries = self.config.get("mounts") or []
        kinds = {entry.get("type") or "" for entry in entries} - {*WITH_MASKS}
        kinds |= {"cgroup", "cgroup2"} if any(kind_of(entry) == CGROUP for entry in entries) else set()
        nodes = {normal(device["path"]) for device in dev.wanted(self.config["linux"])}
        nodes |= {*(self.config["linux"].get("maskedPaths") or [])}
        masked = {kind: self._places_of(kind) for kind in WITH_MASKS}
        for mounted in self.mounted.values():
            if mounted.kind in WITH_MASKS and mounted.device not in known:
                below = "" if mounted.root == "/" else mounted.root
                fits = any(mounted.place == place + below for place in masked[mounted.kind])
            else:
                fits = (
                    mounted.device in known or mounted.kind in kinds or mounted.place in nodes or self._is_new(mounted)
                )
            if not fits:
                raise refuse(f"mount {mounted.place}", f"config.json has no such file system ({mounted.kind})")

    def _places_of(self, kind: str) -> "set[str]":
        """Where config.json has a file system of that kind."""
        found = {self._at(e["destination"]) for e in self.config.get("mounts") or [] if e.get("type") == kind}
        return {mounted.place for mounted in found if mounted is not None}

    def _is_new(self, mounted: Mounted) -> bool:
        return mounted.kind in OWN_KINDS and all(mounted.device != other.device for other in self.host)

    def _known_devices(self) -> "set[str]":
        """The root's, those of what is bound, and of all that is mounted below them."""
        places = [self.rootfs]
        for entry in self.config.get("mounts") or []:
            if kind_of(entry) == BIND:
                places.append(self._source(entry))
        by_number = {mounted.number: mounted for mounted in self.host}
        found = set()
        for place in places:
            try:
                with open_at(None, place, posix.O_PATH) as there:
                    own, real = by_number.get(mount_of(there)), posix.readlink(f"/proc/self/fd/{there.number}")
            except OSError as error:
                raise refuse(f"mount source {place}", reason(error)) from error
            found |= {own.device} if own is not None else set()
            found |= {each.device for each in self.host if each.place.startswith(real.rstrip("/") + "/")}
        return found

    def _source(self, entry: "Mount") -> str:
        source = entry.get("source") or ""
        return source if source.startswith("/") else f"{self.bundle}/{source}"

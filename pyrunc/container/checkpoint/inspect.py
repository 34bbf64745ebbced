"""Check restored processes before they run: they may have no more than config.json grants.

CRIU does what the images say, with all rights of the host, and there is no way to tell it what they must not say. So we
ask the kernel for the result, while all processes still stand still.
"""

import _stat
import posix

from pyrunc.container.checkpoint import held
from pyrunc.container.checkpoint.external import BIND, CGROUP, kind_of
from pyrunc.container.checkpoint.mountinfo import Mounted, mount_of, mounts_of
from pyrunc.container.checkpoint.rights import Rights, refuse
from pyrunc.container.errand import Errand
from pyrunc.errors import reason
from pyrunc.init import dev, namespaces
from pyrunc.init.capabilities import CAP_SYS_ADMIN
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
from pyrunc.linux.pid import state_of
from pyrunc.linux.process import CLONE_NEWNS, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.container.recorded import Recorded
    from pyrunc.spec.types import Config, Device, IDMapping, Mount

WORDS = {MOUNT_ATTR_RDONLY: "ro", MOUNT_ATTR_NOSUID: "nosuid", MOUNT_ATTR_NODEV: "nodev", MOUNT_ATTR_NOEXEC: "noexec"}
WITH_MASKS = ("proc", "sysfs")
ENDED = ("Z", "X")
CGROUPS = ("cgroup", "cgroup2")
# File systems with contents of the kernel's. Whoever has CAP_SYS_ADMIN can mount them.
VIRTUAL = (*WITH_MASKS, *CGROUPS, "bpf", "debugfs", "devpts", "hugetlbfs", "mqueue", "securityfs", "tracefs")


class Expected:
    """What the result has to be.

    Args:
        criu: the number of CRIU's process.
        profile: what --lsm-profile says.
        terminals: whether processes may have a terminal of the host's (--shell-job).
    """

    __slots__ = ("cgroup", "config", "container", "criu", "own_mounts", "rights", "terminals")

    def __init__(
        self, container: "Recorded", config: "Config", cgroup: "Cgroup", criu: int, profile: str, terminals: bool
    ) -> None:
        self.container = container
        self.config = config
        self.cgroup = cgroup
        self.criu = criu
        self.terminals = terminals
        self.rights = Rights(config, config.get("process") or {"cwd": "/"}, profile)
        wanted = config["linux"].get("namespaces") or []
        self.own_mounts = any(n["type"] == "mount" and not n.get("path") for n in wanted)

    def look(self, pid: int) -> None:
        """Check the container. Raises PyruncError when it could do more than a new container of this configuration."""
        found = [each for each in descendants(pid) if state_of(each) not in ENDED]
        for each in found:
            self._namespaces(each)
            _cgroups(each, self.cgroup)
            self.rights.look(each)
        _mappings(pid, self.config)
        if self.own_mounts:
            self._mounts(pid, found)

    def _namespaces(self, pid: int) -> None:
        for wanted in self.config["linux"].get("namespaces") or []:
            kind = wanted["type"]
            there = namespaces.identity(namespaces.own(kind, pid))
            if wanted.get("path"):
                if there != namespaces.identity(wanted["path"]):
                    raise refuse(f"process {pid}", f"it is not in the {kind} namespace {wanted['path']}")
            elif there == namespaces.identity(namespaces.own(kind)):
                raise refuse(f"process {pid}", f"it is in the host's {kind} namespace")
            elif kind == "mount" and there == namespaces.identity(namespaces.own(kind, self.criu)):
                raise refuse(f"process {pid}", "it is in CRIU's mount namespace, which has all of the host's")

    def _mounts(self, pid: int, found: "list[int]") -> None:
        """Check every mount namespace. Processes with CAP_SYS_ADMIN may make further ones, and mount what they like,
        but nothing of the host's."""
        may_mount = bool(self.rights.bounding & CAP_SYS_ADMIN)
        first = namespaces.identity(namespaces.own("mount", pid))
        there: dict[Any, set[int]] = {}
        for each in found:
            own = namespaces.identity(namespaces.own("mount", each))
            if own not in there:
                if own != first and not may_mount:
                    raise refuse(f"process {each}", "it has a mount namespace of its own, which it could not make")
                with open_at(None, f"/proc/{each}/root", posix.O_PATH | posix.O_DIRECTORY) as root:
                    if own == first:
                        _root(root, self.container.record["rootfs"])
                    mounts = _Mounts(each, root, self)
                    mounts.nothing_of_the_host()
                    if not may_mount:
                        mounts.look()
                there[own] = {*mounts.mounted}
            held.look(each, there[own], self.rights.bounding, self.terminals)


def descendants(pid: int) -> "list[int]":
    """A process and all its descendants. They stand still, so none is missed. proc(5), CONFIG_PROC_CHILDREN"""
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        for thread in posix.listdir(f"/proc/{each}/task"):
            waiting += [int(child) for child in read_file(f"/proc/{each}/task/{thread}/children").split()]
    return found


def _cgroups(pid: int, cgroup: "Cgroup") -> None:
    there = {}
    for line in read_file(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, name, place = line.split(":", 2)
        there[name] = place
    for name, directory in cgroup.paths.items():
        place = directory[len(cgroup.mounts[name]) :] if name in cgroup.mounts else ""
        if place and not f"{there.get(name, '')}/".startswith(f"{place}/"):
            raise refuse(f"process {pid}", f"it is in the cgroup {there.get(name)}, and not in {place} ({name})")


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
    """What is mounted in the container, compared with what its configuration has."""

    __slots__ = ("bundle", "cgroup", "config", "host", "known", "lacking", "mounted", "pid", "root", "rootfs")

    def __init__(self, pid: int, root: Fd, expected: Expected) -> None:
        self.pid = pid
        self.root = root
        self.config = expected.config
        self.cgroup = expected.cgroup
        self.rootfs: str = expected.container.record["rootfs"]
        self.bundle: str = expected.container.record["bundle"]
        self.mounted = {mount.number: mount for mount in mounts_of(pid)}
        self.host = mounts_of("self")
        self.known = self._known()
        self.lacking: dict[str, int] = {}  # place -> the MOUNT_ATTR_* that it lacks

    def nothing_of_the_host(self) -> None:
        """Refuse any part of the host's file systems that the configuration does not have."""
        host = {mounted.device for mounted in self.host}
        for mounted in self.mounted.values():
            is_hosts = mounted.device in host or not mounted.device.startswith("0:")
            if is_hosts and mounted.kind not in VIRTUAL and not (self._is_known(mounted) or self._is_node(mounted)):
                cause = f"it shows {mounted.root} of a file system of the host's ({mounted.kind}), and config.json does"
                raise refuse(f"mount {mounted.place}", f"{cause} not")

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
        """Give mounts the flags that they lack: CRIU 4.1 leaves the second of two bind mounts of one file system
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
        """The mount that a path is on; None: there is nothing at the path."""
        try:
            with path.resolve(self.root, normal(place)) as target:
                return self.mounted.get(mount_of(target))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _must(self, place: str, flags: int) -> None:
        """Refuse a path without a mount. Flags that the mount lacks are noted in `lacking`, to be set later."""
        mounted = self._at(place)
        if mounted is None or not self._is_at(mounted, place):
            raise refuse(f"mount {place}", "it is not there")
        for flag, word in WORDS.items():
            if flags & flag and word not in mounted.flags:
                self.lacking[mounted.place] = self.lacking.get(mounted.place, 0) | flag

    def _is_at(self, mounted: Mounted, place: str) -> bool:
        """Whether the mount begins at this path, and not above it."""
        with path.resolve(self.root, normal(place)) as target, path.resolve(self.root, mounted.place) as top:
            here, there = posix.fstat(target.number), posix.fstat(top.number)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _masked(self, place: str) -> None:
        """Refuse a path that is not masked by a mount of its own: the null device, or an empty folder."""
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
        """Refuse proc and sysfs where the configuration has none: nothing would be masked in them. Of the other kinds,
        refuse those that are not the container's own."""
        masked = {kind: self._places_of(kind) for kind in WITH_MASKS}
        covered = {*(self.config["linux"].get("maskedPaths") or [])}  # `_masked` has checked them
        for mounted in self.mounted.values():
            if self._is_known(mounted) or self._is_node(mounted):
                continue
            if mounted.kind in WITH_MASKS:
                below = "" if mounted.root == "/" else mounted.root
                fits = any(mounted.place == place + below for place in masked[mounted.kind])
            elif mounted.kind in CGROUPS:
                fits = self._is_own_cgroup(mounted)
            elif mounted.kind == "mqueue":
                fits = any(entry.get("type") == "mqueue" for entry in self.config.get("mounts") or [])
            else:
                fits = mounted.kind in ("tmpfs", "devpts") or mounted.place in covered
            if not fits:
                raise refuse(f"mount {mounted.place}", f"config.json has no such file system ({mounted.kind})")

    def _is_known(self, mounted: Mounted) -> bool:
        return any(mounted.device == device and _is_below(mounted.root, root) for device, root in self.known)

    def _is_node(self, mounted: Mounted) -> bool:
        """Whether this is the device that config.json has there, or the null device over a file to be masked."""
        wanted = {normal(each["path"]): (each.get("major", 0), each.get("minor", 0)) for each in self._devices()}
        wanted |= dict.fromkeys(self.config["linux"].get("maskedPaths") or [], (1, 3))
        if mounted.place not in wanted:
            return False
        try:
            with path.resolve(self.root, mounted.place) as target:
                status = posix.fstat(target.number)
        except OSError:
            return False
        is_device = _stat.S_ISCHR(status.st_mode) or _stat.S_ISBLK(status.st_mode)
        there = (posix.major(status.st_rdev), posix.minor(status.st_rdev)) if is_device else (0, 0)
        return (is_device or _stat.S_ISFIFO(status.st_mode)) and there == wanted[mounted.place]

    def _devices(self) -> "list[Device]":
        return dev.wanted(self.config["linux"])

    def _is_own_cgroup(self, mounted: Mounted) -> bool:
        own = [directory[len(self.cgroup.mounts.get(name, "")) :] for name, directory in self.cgroup.paths.items()]
        has = any(kind_of(entry) == CGROUP for entry in self.config.get("mounts") or [])
        return has and any(_is_below(mounted.root, each) for each in own)

    def _places_of(self, kind: str) -> "set[str]":
        """Where config.json has a file system of that kind."""
        found = {self._at(e["destination"]) for e in self.config.get("mounts") or [] if e.get("type") == kind}
        return {mounted.place for mounted in found if mounted is not None}

    def _known(self) -> "set[tuple[str, str]]":
        """(device, part of its file system) of the root, of each bind mount, and of all that is mounted below them."""
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
            if own is not None:
                found.add((own.device, _joined(own.root, real[len(own.place.rstrip("/")) :])))
            found |= {(each.device, each.root) for each in self.host if each.place.startswith(real.rstrip("/") + "/")}
        return found

    def _source(self, entry: "Mount") -> str:
        source = entry.get("source") or ""
        return source if source.startswith("/") else f"{self.bundle}/{source}"


def _joined(root: str, below: str) -> str:
    return root.rstrip("/") + below or "/"


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")

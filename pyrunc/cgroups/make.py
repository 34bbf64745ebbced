"""A container's cgroup: where it is to be, making it, limiting it. config-linux.md#cgroups-path"""

import posix

from pyrunc.cgroups import blkio, cpu, cpuset, devices, hugetlb, memory, network, pids, rdma, unified
from pyrunc.cgroups.cgroup import UNIFIED, Cgroup
from pyrunc.cgroups.hierarchy import Hierarchy, find, is_unified
from pyrunc.cgroups.limits import Limits, missing, read, write, write_all
from pyrunc.cgroups.tree import processes
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.limits import Write
    from pyrunc.spec.types import Resources

V1: "tuple[Limits, ...]" = (
    cpuset.V1, memory.V1, cpu.V1, pids.V1, blkio.V1, hugetlb.V1, network.CLASS, network.PRIORITY, rdma.V1,
)  # fmt: skip
V2: "tuple[Limits, ...]" = (
    cpuset.V2, memory.V2, cpu.V2, pids.V2, blkio.V2, hugetlb.V2, rdma.V2, unified.V2,
)  # fmt: skip
NOT_PERMITTED = (1, 13, 30)  # EPERM, EACCES, EROFS
INVALID = "domain invalid"
NAME_MAX = 255
MOST = 3072  # of PATH_MAX: the hierarchy's mount point and the name of a file come to it


def place(cgroups_path: "str | None", container_id: str) -> Cgroup:
    """Where cgroupsPath says: an absolute one from the hierarchy's root, a relative one, and the container's
    ID where there is none, from the cgroup of the caller; in v2 from its parent, since a cgroup with processes of
    its own passes no controllers on."""
    hierarchies = find()
    unified = is_unified(hierarchies)
    path = cgroups_path or container_id
    paths = {h.name: _directory(h, path, beside=unified) for h in hierarchies}
    return Cgroup(paths, unified, {h.name: h.mount for h in hierarchies})


def place_unit(cgroups_path: "str | None", container_id: str, user: bool) -> Cgroup:
    """The same for systemd's scope: its directories are known when systemd has made it."""
    from pyrunc.cgroups import systemd

    hierarchies = find()
    unit = systemd.unit_of(cgroups_path or "", container_id, user)
    systemd.version(user)  # whether it answers, before anything is made
    return Cgroup({}, is_unified(hierarchies), {h.name: h.mount for h in hierarchies}, unit)


def refuse_used(cgroup: Cgroup) -> None:
    """See `Cgroup.refuse_used`; systemd too would use a directory that is there."""
    if cgroup.unit is None:
        cgroup.refuse_used()
        return
    from pyrunc.cgroups import systemd

    path = systemd.control_group_to_be(cgroup.unit)
    Cgroup({name: mount + path for name, mount in cgroup.mounts.items()}, cgroup.unified).refuse_used()


def start_unit(
    cgroup: Cgroup, container_id: str, pid: int, resources: "Resources", annotations: "dict[str, str]"
) -> None:
    """Let systemd make the scope with the process in it, and put it where systemd does not: v1's other hierarchies."""
    from pyrunc.cgroups import systemd, systemd_properties

    assert cgroup.unit is not None
    limits = systemd_properties.properties(resources, cgroup.unified, cgroup.unit["user"])
    own = systemd_properties.of_annotations(annotations)
    try:
        control_group = systemd.start(cgroup.unit, container_id, pid, limits + own)
    except systemd.Taken:
        cgroup.unit = None  # it is somebody else's: not ours to stop
        raise
    for name, mount in cgroup.mounts.items():
        cgroup.paths[name] = mount + control_group
    create(cgroup)  # systemd passes on the controllers that it knows: hugetlb, rdma and misc are not among them
    if not cgroup.unified:
        for path in cgroup.paths.values():
            write(path, "cgroup.procs", str(pid))


def create(cgroup: Cgroup, tolerant: bool = False) -> None:
    """Make the directories, or use those that are there (see `Cgroup.refuse_used`).

    Args:
        tolerant: a hierarchy that we may not change is left alone, as rootless callers often have none of their own.
    """
    for name, path in [*cgroup.paths.items()]:
        try:
            if name == UNIFIED and cgroup.unified:
                _make_unified(path, cgroup.mounts[name])
            else:
                _make_directories(path)
                if "cpuset" in name.split(","):
                    _inherit_cpuset(path, cgroup.mounts[name])
        except OSError as error:
            hybrid = name == UNIFIED and not cgroup.unified  # nothing is limited there
            if error.errno not in NOT_PERMITTED or not (tolerant or hybrid):
                raise PyruncError("unable to apply cgroup configuration: creating", path, reason(error)) from error
            del cgroup.paths[name]


def set_limits(cgroup: Cgroup, resources: "Resources", may_set_devices: bool = True) -> None:
    """Apply linux.resources. What no controller of this host can hold is an error: nothing may be silently
    unlimited."""
    for directory, writes in plan(cgroup, resources):
        write_all(directory, writes)
    if may_set_devices:
        set_devices(cgroup, resources)


def set_devices(cgroup: Cgroup, resources: "Resources") -> None:
    """Without rules too: nothing that is not allowed may be used."""
    directory = cgroup.directory("devices")
    rules = resources.get("devices") or []
    if directory is None:
        cause = f"this host has no {'cgroup v2' if cgroup.unified else 'cgroup controller devices'} for us"
        raise PyruncError("linux.resources", "devices", f"{cause}, and all devices could be used")
    if cgroup.unified:
        from pyrunc.cgroups import device_filter

        device_filter.apply(directory, rules)
    else:
        devices.apply_v1(directory, rules)


def delegate(cgroup: Cgroup, uid: int) -> None:
    """Give v2's directory, and the files that are its owner's matter, to the container's user.
    config-linux.md#cgroup-ownership, cgroups(7)"""
    directory = cgroup.paths.get(UNIFIED)
    if not (cgroup.unified and directory) or posix.stat(directory).st_uid == uid:
        return
    try:
        names = read_file("/sys/kernel/cgroup/delegate").decode().split()
    except FileNotFoundError:
        names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]  # Linux before 4.15
    try:
        posix.chown(directory, uid, -1)
        for name in names:
            if posix.access(f"{directory}/{name}", posix.F_OK):
                posix.chown(f"{directory}/{name}", uid, -1)
    except OSError as error:
        raise PyruncError("giving cgroup to its user", directory, reason(error)) from error


def plan(cgroup: Cgroup, resources: "Resources") -> "list[tuple[str, list[Write]]]":
    """What linux.resources asks for, but for devices: the writes to each controller's directory."""
    properties: dict[str, Any] = {**resources}
    refuse_missing(properties, cgroup.unified)
    if cgroup.unit is not None:
        from pyrunc.cgroups import systemd_properties

        properties.update(systemd_properties.round_up(resources))
    found = []
    for limits in V2 if cgroup.unified else V1:
        values = properties.get(limits.name)
        directory = cgroup.directory(limits.controller)
        writes = limits.writes(directory or "", values) if values else []
        if writes and directory:
            found.append((directory, writes))
        elif writes:
            cause = f"this host has no cgroup controller {limits.controller} for us"
            if not cgroup.paths:
                cause = f"cannot set {limits.name} limit: container could not join or create cgroup"
            raise PyruncError("linux.resources", limits.name, cause)
    return found


def refuse_missing(properties: "dict[str, Any]", unified: bool) -> None:
    """What the other version of cgroups has something for, and this one has not."""
    here, there = (V2, V1) if unified else (V1, V2)
    for limits in there:
        values = properties.get(limits.name)
        if not values:
            continue
        known = [each for other in here if other.name == limits.name for each in other.properties]
        for each in limits.properties:
            if each not in known and (values.get(each) if each else values):
                raise missing(f"{limits.name}.{each}".rstrip("."), unified)


def _directory(hierarchy: Hierarchy, path: str, beside: bool) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise PyruncError("cgroupsPath", path, "the root cgroup can't be a container's")
    if len(path) > MOST or max(len(part.encode("utf-8", "surrogateescape")) for part in parts) > NAME_MAX:
        raise PyruncError("cgroupsPath", f"{path[:80]}…", "is longer than a path of the kernel's can be")
    inside = "/".join(parts)
    own = "" if path.startswith("/") else hierarchy.own.rstrip("/")
    if beside:
        own = own.rpartition("/")[0]
    return f"{hierarchy.mount}{own}/{inside}"


def _make_directories(path: str) -> None:
    """mkdir -p."""
    missing = []
    while not posix.access(path, posix.F_OK):
        missing.append(path)
        path = path.rpartition("/")[0]
    for directory in reversed(missing):
        try:
            posix.mkdir(directory, 0o755)
        except FileExistsError:
            continue  # another container of the same parent was quicker


def _inherit_cpuset(path: str, mount: str) -> None:
    """v1: a new cpuset is empty, and no process can join it before it has CPUs and nodes: those of its parent. A
    parent that somebody else has made may be empty too."""
    if path == mount:
        return
    parent = path.rpartition("/")[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read(path, file):
            _inherit_cpuset(parent, mount)
            write(path, file, read(parent, file))


def _make_threaded(path: str, mount: str) -> None:
    """Below a threaded cgroup all are threaded, the upper ones first, or of no use. cgroup-v2.rst, Threads"""
    current = mount
    for part in path[len(mount) :].strip("/").split("/"):
        current = f"{current}/{part}"
        if read(current, "cgroup.type") == INVALID:
            write(current, "cgroup.type", "threaded")


def _make_unified(path: str, mount: str) -> None:
    """v2: a controller is there when every ancestor passes it on. One that can't be (a threaded parent, realtime
    processes) is missed only when a limit asks for it, which is then an error. From a cgroup that has processes of
    its own, other than the root, nothing is passed on: the kernel would take some controllers, by making the cgroup
    a threaded one, below which there can be no container."""
    controllers = read_file(f"{mount}/cgroup.controllers").decode().split()
    current = mount
    for part in path[len(mount) :].strip("/").split("/"):
        used = posix.access(f"{current}/cgroup.type", posix.F_OK) and processes(current)
        for controller in () if used else controllers:
            try:
                write(current, "cgroup.subtree_control", f"+{controller}")
            except PyruncError:
                continue
        current = f"{current}/{part}"
        try:
            posix.mkdir(current, 0o755)
        except FileExistsError:
            continue
    if read(path, "cgroup.type") == INVALID:
        _make_threaded(path, mount)

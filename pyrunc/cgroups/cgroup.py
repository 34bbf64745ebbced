"""A container's cgroup: one directory in every hierarchy. config-linux.md#cgroups-path"""

import posix
import select
import time

from pyrunc.cgroups import cpu, cpuset, devices, memory, pids
from pyrunc.cgroups.hierarchy import UNIFIED, Hierarchy, find, is_unified, open_directory
from pyrunc.cgroups.limits import Limits, read, write
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.spec.types import Resources

V1: "tuple[Limits, ...]" = (cpuset.V1, memory.V1, cpu.V1, pids.V1)
V2: "tuple[Limits, ...]" = (cpuset.V2, memory.V2, cpu.V2, pids.V2)
LATER = ("blockIO", "hugepageLimits", "network", "rdma", "unified")
BUSY = 16
REMOVE_SECONDS = 10.0


class Cgroup:
    """The directories of a container's cgroup, by the name of their hierarchy ("" is v2's).

    Attributes:
        paths: name of the hierarchy -> directory.
        unified: whether v2 is the only hierarchy.
    """

    __slots__ = ("mounts", "paths", "unified")

    def __init__(self, paths: "dict[str, str]", unified: bool, mounts: "dict[str, str] | None" = None) -> None:
        self.paths = paths
        self.unified = unified
        self.mounts = mounts or {}

    @classmethod
    def at(cls, cgroups_path: "str | None", container_id: str) -> "Cgroup":
        """Where cgroupsPath says: an absolute one from the hierarchy's root, a relative one, and the container's
        ID where there is none, from the cgroup of the caller."""
        hierarchies = find()
        path = cgroups_path or container_id
        paths = {h.name: _directory(h, path) for h in hierarchies}
        return cls(paths, is_unified(hierarchies), {h.name: h.mount for h in hierarchies})

    @property
    def freezer(self) -> "str | None":
        """The directory with the freezer's files."""
        return self.paths.get(UNIFIED if self.unified else "freezer")

    def directory(self, controller: str) -> "str | None":
        if self.unified:
            return self.paths[UNIFIED]
        for name, path in self.paths.items():
            if controller in name.split(","):
                return path
        return None

    def create(self) -> None:
        """Make the directories, or use those that are there (see `refuse_used`)."""
        for name, path in self.paths.items():
            try:
                if name == UNIFIED and self.unified:
                    _make_unified(path, self.mounts[name])
                else:
                    made = _make_directories(path)
                    if "cpuset" in name.split(","):
                        _inherit_cpuset(path, self.mounts[name], made)
            except OSError as error:
                if error.errno in (30, 13, 1) and name in (UNIFIED,) and not self.unified:
                    continue  # hybrid: nothing is limited there
                raise PyruncError("creating cgroup", path, reason(error)) from error

    def refuse_used(self) -> None:
        """A directory that is there already must hold no process and not be frozen: whatever runs in it would
        else be ours to limit and to kill."""
        for path in self.paths.values():
            if processes(path):
                raise PyruncError("cgroup", path, "container's cgroup is not empty", "give the container another cgroupsPath")
        if self.is_frozen():
            raise PyruncError("cgroup", str(self.freezer), "container's cgroup unexpectedly frozen")

    def open_tasks(self) -> "list[Fd]":
        """v1's `tasks` files, for a process to move itself with: see init.namespaces.enter_cgroup."""
        found = []
        for name, path in self.paths.items():
            if name != UNIFIED:
                try:
                    found.append(open_at(None, f"{path}/tasks", posix.O_WRONLY))
                except FileNotFoundError:
                    continue  # deleted meanwhile under a running container: then it has no cgroup there to share
        return found

    def open_unified(self) -> "Fd | None":
        """v2's directory, for clone3's CLONE_INTO_CGROUP: a process is born in its cgroup, never moved."""
        path = self.paths.get(UNIFIED)
        try:
            return open_directory(path) if path else None
        except FileNotFoundError:
            return None

    def join_unified(self, pid: int) -> None:
        """Move a process into v2's directory, where clone3 could not put it."""
        if UNIFIED in self.paths:
            write(self.paths[UNIFIED], "cgroup.procs", str(pid))

    def set(self, resources: "Resources", may_set_devices: bool = True) -> None:
        """Apply linux.resources. What a controller of this host can't hold is an error, as nothing may be
        silently unlimited."""
        properties: dict[str, Any] = {**resources}
        for name in LATER:
            if _asks_for_something(properties.get(name)):
                raise PyruncError("linux.resources", name, "this version of pyrunc does not support it yet")
        for limits in V2 if self.unified else V1:
            values = properties.get(limits.name)
            directory = self.directory(limits.controller)
            if values and directory:
                limits.apply(directory, values)
        directory = self.directory("devices")
        if not self.unified and directory and may_set_devices:
            devices.apply_v1(directory, properties.get("devices") or [])

    def is_frozen(self) -> bool:
        directory = self.freezer
        if directory is None:
            return False
        try:
            if self.unified:
                return read_file(f"{directory}/cgroup.freeze").strip() == b"1"
            return read_file(f"{directory}/freezer.state").strip() in (b"FROZEN", b"FREEZING")
        except OSError:
            return False  # gone, or a kernel without it: then nothing is frozen

    def thaw(self) -> None:
        directory = self.freezer
        if directory is not None and self.is_frozen():
            if self.unified:
                write(directory, "cgroup.freeze", "0")
            else:
                write(directory, "freezer.state", "THAWED")

    def processes(self) -> "list[int]":
        """Every process in it and below, of the hierarchy that a process can't leave by itself."""
        path = self.freezer or next(iter(self.paths.values()), "")
        return all_processes(path) if path else []

    def kill(self, signal: int = 9) -> None:
        """Signal every process in it and below. One that forks meanwhile is found by asking again."""
        directory = self.paths.get(UNIFIED)
        if signal == 9 and directory:
            try:
                write(directory, "cgroup.kill", "1")  # Linux 5.14: all at once
                if self.unified:
                    return
            except PyruncError:
                pass  # an older kernel: one by one
        for _ in range(64):
            found = self.processes()
            for pid in found:
                try:
                    posix.kill(pid, signal)
                except ProcessLookupError:
                    continue
            if signal != 9:
                return
            self.thaw()  # a frozen process dies when it thaws (v1)
            if not found:
                return

    def remove(self) -> None:
        """Remove it with all cgroups below. Its processes must be dead; the kernel may take a moment to see it."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for path in self.paths.values():
            while True:
                try:
                    _remove_tree(path)
                    break
                except OSError as error:
                    if error.errno != BUSY or time.monotonic() > deadline:
                        raise PyruncError("removing cgroup", path, reason(error)) from error
                select.select([], [], [], 0.005)


def _asks_for_something(value: "Any") -> bool:
    """Engines write empty objects and zeros for what they leave alone."""
    if isinstance(value, dict):
        return any(_asks_for_something(v) for v in value.values())
    return bool(value)


def _directory(hierarchy: Hierarchy, path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise PyruncError("cgroupsPath", path, "the root cgroup can't be a container's")
    inside = "/".join(parts)
    base = hierarchy.mount if path.startswith("/") else hierarchy.mount + hierarchy.own.rstrip("/")
    return f"{base}/{inside}"


def _make_directories(path: str) -> "list[str]":
    """mkdir -p. Returns those that were made, the outermost first."""
    missing = []
    while not posix.access(path, posix.F_OK):
        missing.append(path)
        path = path.rpartition("/")[0]
    missing.reverse()
    for directory in missing:
        try:
            posix.mkdir(directory, 0o755)
        except FileExistsError:
            continue  # another container of the same parent was quicker
    return missing


def _inherit_cpuset(path: str, mount: str, made: "list[str]") -> None:
    """v1: a new cpuset is empty, and no process can join it before it has CPUs and nodes: those of its parent."""
    for directory in made or [path]:
        parent = directory.rpartition("/")[0]
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not read(directory, file) and len(parent) >= len(mount):
                write(directory, file, read(parent, file))


def _make_unified(path: str, mount: str) -> None:
    """v2: a controller is there when every ancestor passes it on. One that can't be (a threaded parent, realtime
    processes) is missed only when a limit asks for it, which is then an error."""
    controllers = read_file(f"{mount}/cgroup.controllers").decode().split()
    current = mount
    for part in path[len(mount) :].strip("/").split("/"):
        for controller in controllers:
            try:
                write(current, "cgroup.subtree_control", f"+{controller}")
            except PyruncError:
                continue
        current = f"{current}/{part}"
        try:
            posix.mkdir(current, 0o755)
        except FileExistsError:
            continue


def processes(path: str) -> "list[int]":
    try:
        return [int(pid) for pid in read_file(f"{path}/cgroup.procs").split()]
    except (FileNotFoundError, OSError):
        return []


def all_processes(path: str) -> "list[int]":
    found = processes(path)
    for name in _sub_cgroups(path):
        found.extend(all_processes(f"{path}/{name}"))
    return found


def _sub_cgroups(path: str) -> "list[str]":
    try:
        with posix.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_tree(path: str) -> None:
    try:
        return posix.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != BUSY:
            raise
    for name in _sub_cgroups(path):
        _remove_tree(f"{path}/{name}")
    posix.rmdir(path)

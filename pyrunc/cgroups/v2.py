"""cgroup v2: one hierarchy for all controllers. Documentation/admin-guide/cgroup-v2.rst"""

import posix

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.cgroups.files import NAMED, UNIFIED, read, write
from pyrunc.cgroups.tree import processes
from pyrunc.errors import PyruncError, StateError, reason
from pyrunc.linux.fd import make_directories, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from pyrunc.cgroups.oom import Watch
    from pyrunc.spec.types import DeviceRule, Resources

INVALID = "domain invalid"


class CgroupV2(Cgroup):
    __slots__ = ()

    unified = True
    dispensable = (NAMED,)
    may_enter_late = True
    freezer = UNIFIED
    freeze_file, freeze_value, thaw_value = "cgroup.freeze", "1", "0"
    frozen_values = (b"1",)
    asked_file = "cgroup.freeze"
    oom_file = "memory.events"

    def directory(self, controller: str) -> "str | None":
        return self.paths.get(UNIFIED)

    def _make_directory(self, name: str, path: str) -> None:
        """Make the directory and those above it, and have each pass its controllers on.

        A controller that can't be passed on (a threaded parent, realtime processes) is missed only when a limit asks
        for it, which is an error then. A cgroup with processes of its own, other than the root, is left as it is: the
        kernel would let it pass some controllers on by making it threaded, and below that there can be no container.
        """
        mount = self.mounts[name]
        if name != UNIFIED:
            make_directories(path, 0o755)
            return
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

    def give_to(self, uid: int) -> None:
        """Give the directory, and the files that its owner may write to, to a user. cgroups(7)"""
        directory = self.paths.get(UNIFIED)
        if directory:
            _give(directory, uid, -1)

    def delegate(self, pid: int, uid: int, gid: int) -> None:
        """Move a process to the cgroup below. The limits stay above it. It gets controllers once the process is in it:
        a cgroup with processes of its own passes none on."""
        place = f"{self.paths[UNIFIED]}/{self.delegated}"
        try:
            self._make_directory(UNIFIED, place)
        except OSError as error:
            raise PyruncError("making delegated cgroup", place, reason(error)) from error
        write(place, "cgroup.procs", str(pid))
        self._make_directory(UNIFIED, place)
        _give(place, uid, gid)

    def _change_devices(self, directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
        from pyrunc.cgroups import device_filter

        device_filter.replace(directory, old, new)

    def _set_devices(self, directory: str, resources: "Resources") -> None:
        from pyrunc.cgroups import device_filter

        device_filter.apply(directory, resources.get("devices") or [])

    def watch_oom(self) -> "Watch":
        from pyrunc.cgroups.oom import WatchV2

        return WatchV2(self.paths[UNIFIED])

    def for_exec(self, pid: int, container_id: str) -> "Self":
        """The cgroup for a new process: that of the container's first process, if it is below.

        The container may have moved its processes. Then no process can enter where they were ("no internal processes",
        cgroups(7)). The same holds where the container has a cgroup to manage.

        If the first process is elsewhere, this is refused: there the new process would have no limits, and would not be
        killed with the container.
        """
        directory = self.paths.get(UNIFIED)
        if not directory:
            return self
        try:
            full = self.delegated or read_file(f"{directory}/cgroup.subtree_control").strip()
            line = read_file(f"/proc/{pid}/cgroup") if full else b""
        except OSError as error:
            raise PyruncError("error adding a process to cgroups", "", reason(error)) from error
        if not full:
            return self
        own = line.decode("utf-8", "surrogateescape").splitlines()[-1].partition("::")[2]
        place = self.mounts[UNIFIED] + own
        if not f"{place}/".startswith(f"{directory}/"):
            raise StateError("cannot exec in container", container_id, f"its process has left its cgroup for {own}")
        return self.at({**self.paths, UNIFIED: place})

    def _stands_still(self, directory: str) -> bool:
        return b"frozen 1" in read_file(f"{directory}/cgroup.events")


def _give(directory: str, uid: int, gid: int) -> None:
    found = posix.stat(directory)
    if found.st_uid == uid and gid in (found.st_gid, -1):
        return
    try:
        names = read_file("/sys/kernel/cgroup/delegate").decode().split()
    except FileNotFoundError:
        names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]  # Linux before 4.15
    try:
        posix.chown(directory, uid, gid)
        for name in names:
            if posix.access(f"{directory}/{name}", posix.F_OK):
                posix.chown(f"{directory}/{name}", uid, gid)
    except OSError as error:
        raise PyruncError("giving cgroup to its user", directory, reason(error)) from error


def _make_threaded(path: str, mount: str) -> None:
    """Make a cgroup threaded, after those above it that are not. Below a threaded cgroup all others must be threaded,
    or no process can join them. cgroup-v2.rst, Threads"""
    current = mount
    for part in path[len(mount) :].strip("/").split("/"):
        current = f"{current}/{part}"
        if read(current, "cgroup.type") == INVALID:
            write(current, "cgroup.type", "threaded")

"""A container's cgroup, as it is: one directory in every hierarchy. Making and limiting it: make.py"""

import posix
import select
import time

from pyrunc.cgroups.limits import write
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, write_file
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Unit(TypedDict):
        """A scope of systemd's, and whether of the user's own instance."""

        name: str
        slice: str
        user: bool

UNIFIED = ""  # the name of the v2 hierarchy, as in /proc/PID/cgroup
BUSY = 16
EOPNOTSUPP = 95
NOT_PERMITTED = (1, 13)  # EPERM, EACCES
NOT_THERE = (2, 20, 36)  # ENOENT, ENOTDIR, ENAMETOOLONG: of a cgroupsPath that could never be made
REMOVE_SECONDS = 10.0
FREEZE_SECONDS = 2.0
AT_ONCE = 64  # processes that are signalled together: each takes a descriptor


class Cgroup:
    """The directories of a container's cgroup, by the name of their hierarchy ("" is v2's).

    Attributes:
        paths: name of the hierarchy -> directory.
        unified: whether v2 is the only hierarchy.
        unit: what systemd made it for; None: we did.
    """

    __slots__ = ("mounts", "paths", "unified", "unit")

    def __init__(
        self,
        paths: "dict[str, str]",
        unified: bool,
        mounts: "dict[str, str] | None" = None,
        unit: "Unit | None" = None,
    ) -> None:
        self.paths = paths
        self.unified = unified
        self.mounts = mounts or {}
        self.unit = unit

    @property
    def freezer(self) -> "str | None":
        """The directory with the freezer's files."""
        return self.paths.get(UNIFIED if self.unified else "freezer")

    def directory(self, controller: str) -> "str | None":
        if self.unified:
            return self.paths.get(UNIFIED)
        for name, path in self.paths.items():
            if controller in name.split(","):
                return path
        return None

    def refuse_used(self) -> None:
        """A directory that is there already must hold no process and not be frozen: whatever runs in it would
        else be ours to limit and to kill."""
        for path in self.paths.values():
            if processes(path):
                raise PyruncError(
                    "cgroup", path, "container's cgroup is not empty", "give the container another cgroupsPath"
                )
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
            return open_at(None, path, posix.O_PATH | posix.O_DIRECTORY) if path else None
        except FileNotFoundError:
            return None

    def join_unified(self, pid: int) -> None:
        """Move a process into v2's directory, where clone3 could not put it."""
        if UNIFIED not in self.paths:
            return
        try:
            write_file(f"{self.paths[UNIFIED]}/cgroup.procs", str(pid).encode())
        except OSError as error:
            if self.unit is None or error.errno not in NOT_PERMITTED:
                raise PyruncError(f"adding pid {pid} to cgroups", self.paths[UNIFIED], reason(error)) from error
            from pyrunc.cgroups import systemd

            systemd.attach(self.unit, pid)

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

    def freeze(self) -> None:
        """Stop every process in it, and wait until they stand still. cgroups(7), freezer

        v1 may stay FREEZING while a process is being forked or traced: it is asked again, and thawed when it won't.
        """
        directory = self.freezer
        if directory is None:
            raise PyruncError("freezing", "", "this host has no freezer for us")
        deadline = time.monotonic() + FREEZE_SECONDS
        while True:
            if self.unified:
                write(directory, "cgroup.freeze", "1")
                still = b"frozen 1" in read_file(f"{directory}/cgroup.events")
            else:
                write(directory, "freezer.state", "FROZEN")
                still = read_file(f"{directory}/freezer.state").strip() == b"FROZEN"
            if still:
                return
            if time.monotonic() > deadline:
                self.thaw()
                raise PyruncError(
                    "freezing", directory, f"its processes do not stand still within {FREEZE_SECONDS:.0f} s"
                )
            select.select([], [], [], 0.001)

    def thaw(self) -> None:
        directory = self.freezer
        if directory is not None and self.is_frozen():
            if self.unified:
                write(directory, "cgroup.freeze", "0")
            else:
                write(directory, "freezer.state", "THAWED")

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        directory = self.directory("memory")
        file = "memory.events" if self.unified else "memory.oom_control"
        try:
            lines = read_file(f"{directory}/{file}").decode().splitlines()
        except OSError:
            return 0
        return next((int(line.partition(" ")[2]) for line in lines if line.startswith("oom_kill ")), 0)

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
            for first in range(0, len(found), AT_ONCE):
                self._signal(found[first : first + AT_ONCE], signal)
            if signal != 9:
                return
            self.thaw()  # a frozen process dies when it thaws (v1)
            if not found:
                return

    def _signal(self, pids: "list[int]", signal: int) -> None:
        """By pidfd, and only who is still listed when his is open: a number may be another process's by then."""
        opened = {}
        for pid in filter(None, pids):  # 0 is one whom our PID namespace doesn't have
            try:
                opened[pid] = pidfd_open(pid)
            except ProcessLookupError:
                continue
        still = {*self.processes()}
        for pid, pidfd in opened.items():
            if pid in still:
                try:
                    pidfd_send_signal(pidfd, signal)
                except ProcessLookupError:
                    continue

    def remove(self) -> None:
        """Remove it with all cgroups below. Its processes must be dead; the kernel may take a moment to see it."""
        if self.unit is not None:
            from pyrunc.cgroups import systemd

            systemd.stop(self.unit)
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


def processes(path: str) -> "list[int]":
    try:
        return [int(pid) for pid in read_file(f"{path}/cgroup.procs").split()]
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            return []
    return [int(thread) for thread in read_file(f"{path}/cgroup.threads").split()]  # a threaded cgroup has only these


def all_processes(path: str) -> "list[int]":
    found = processes(path)
    for name in _sub_cgroups(path):
        found.extend(all_processes(f"{path}/{name}"))
    return found


def _sub_cgroups(path: str) -> "list[str]":
    try:
        with posix.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in NOT_THERE:
            return []
        raise


def _remove_tree(path: str) -> None:
    try:
        return posix.rmdir(path)
    except OSError as error:
        if error.errno in NOT_THERE:
            return
        if error.errno != BUSY:
            raise
    for name in _sub_cgroups(path):
        _remove_tree(f"{path}/{name}")
    posix.rmdir(path)

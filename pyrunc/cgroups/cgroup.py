"""A container's cgroup, as it is: one directory in every hierarchy. Making and limiting it: make.py"""

import posix
import select
import time

from pyrunc.cgroups import tree
from pyrunc.cgroups.limits import write
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, write_file
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    class Unit(TypedDict):
        """A scope of systemd's, and whether of the user's own instance."""

        name: str
        slice: str
        user: bool


UNIFIED = ""  # the name of the v2 hierarchy, as in /proc/PID/cgroup
NOT_PERMITTED = (1, 13)  # EPERM, EACCES
SIGKILL = 9
REMOVE_SECONDS = 10.0
FREEZE_SECONDS = 2.0
KILL_SECONDS = 2.0
THAW_V1 = ("freezer.self_freezing", "freezer.state", b"THAWED")  # what says that it must be, and what does it
THAW_V2 = ("cgroup.freeze", "cgroup.freeze", b"0")
AT_A_TIME = 64  # processes that are signalled together: each takes a descriptor


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

    def record(self) -> "dict[str, Any]":
        """For state.json."""
        return {"paths": self.paths, "unified": self.unified, "mounts": self.mounts, "unit": self.unit}

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
        """A directory that is there already must hold no process, nor may one below it, and it must not be frozen:
        whatever runs in there would else be ours to limit and to kill."""
        for path in self.paths.values():
            if tree.all_processes(path):
                raise PyruncError(
                    "cgroup", path, "container's cgroup is not empty", "give the container another cgroupsPath"
                )
        if self.is_frozen():
            raise PyruncError("cgroup", str(self.freezer), "container's cgroup unexpectedly frozen")

    def open_tasks(self) -> "list[Fd]":
        """v1's `tasks` files, for a process to move itself with: see init.namespaces.enter_cgroup."""
        return [_open(f"{path}/tasks", posix.O_WRONLY) for name, path in self.paths.items() if name != UNIFIED]

    def open_unified(self) -> "Fd | None":
        """v2's directory, for clone3's CLONE_INTO_CGROUP: a process is born in its cgroup, never moved."""
        path = self.paths.get(UNIFIED)
        return _open(path, posix.O_PATH | posix.O_DIRECTORY) if path else None

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
        except OSError as error:
            if error.errno in tree.NOT_THERE:
                return False  # gone, or a kernel without it: then nothing is frozen
            raise PyruncError("asking the freezer of cgroup", directory, reason(error)) from error

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

    def thaw_all(self) -> None:
        """With those below that the container has frozen itself: v1 keeps even SIGKILL from them until then."""
        directory = self.freezer
        asked, file, value = THAW_V2 if self.unified else THAW_V1
        for parent, cgroup in tree.every(directory, tree.TO_REMOVE) if directory else ():
            try:
                if read_file(f"{cgroup}/{asked}", parent).strip() == b"1":
                    write_file(f"{cgroup}/{file}", value, parent)
            except OSError as error:
                if error.errno not in tree.GONE:
                    raise PyruncError("thawing cgroup", str(directory), reason(error)) from error

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        directory = self.directory("memory")
        file = "memory.events" if self.unified else "memory.oom_control"
        try:
            lines = read_file(f"{directory}/{file}").decode().splitlines()
        except OSError:
            return 0
        return next((int(line.partition(" ")[2]) for line in lines if line.startswith("oom_kill ")), 0)

    @property
    def _of_processes(self) -> "str | None":
        """The directory that tells which processes are the container's: one that they can't leave by themselves."""
        return self.freezer or next(iter(self.paths.values()), None)

    def processes(self) -> "list[int]":
        """Every process in it and below."""
        path = self._of_processes
        return tree.all_processes(path) if path else []

    def kill(self, signal: int = SIGKILL) -> None:
        """Signal every process in it and below. SIGKILL: until there is none, or none that dies at once."""
        if signal != SIGKILL:
            self._signal_all(signal)
            return
        if posix.getpid() in self.processes():
            cause = "this process is one of its own, and would be held or killed before it is done"
            raise PyruncError("killing all in cgroup", self._of_processes or "", cause, "call from outside")
        if self._kill_at_once() and self.unified:
            return
        deadline = time.monotonic() + KILL_SECONDS
        while True:
            self._hold()
            try:
                found = self._signal_all(SIGKILL)
            finally:
                self.thaw_all()
            if not found or time.monotonic() > deadline:
                return
            select.select([], [], [], 0.001)

    def _kill_at_once(self) -> bool:
        """cgroup.kill, Linux 5.14. Not of a threaded cgroup (EOPNOTSUPP)."""
        directory = self.paths.get(UNIFIED)
        try:
            if directory:
                write_file(f"{directory}/cgroup.kill", b"1")
            return bool(directory)
        except OSError:
            return False  # an older kernel: one by one

    def _hold(self) -> None:
        """Who is frozen makes no process, and no cgroup, while we go through them. Without it we try all the same."""
        directory = self.freezer
        try:
            if directory is not None:
                write(directory, *(("cgroup.freeze", "1") if self.unified else ("freezer.state", "FROZEN")))
        except PyruncError:
            pass

    def _signal_all(self, signal: int) -> bool:
        """Whether there was one."""
        path, found = self._of_processes, False
        for parent, cgroup in tree.every(path, tree.TO_REMOVE) if path else ():
            waiting = [pid for pid in tree.processes(cgroup, parent) if pid]  # 0: not of our PID namespace, or gone
            while waiting:
                some, waiting, found = waiting[:AT_A_TIME], waiting[AT_A_TIME:], True
                self._signal_some(some, signal, parent, cgroup)
        return found

    @staticmethod
    def _signal_some(pids: "list[int]", signal: int, parent: Fd, cgroup: str) -> None:
        """By descriptor, and only who is named once more when it is open: a number may be another process's by then."""
        opened = []
        for pid in pids:
            try:
                opened.append((pid, pidfd_open(pid)))
            except ProcessLookupError:
                continue
        still = {*tree.processes(cgroup, parent)}
        for pid, pidfd in opened:
            with pidfd:
                try:
                    if pid in still:
                        pidfd_send_signal(pidfd, signal)
                except ProcessLookupError:
                    continue

    def remove(self) -> None:
        """Remove it with all cgroups below. Its processes must be dead; the kernel may take a moment to see it."""
        if self.unit is not None:
            from pyrunc.cgroups import systemd

            try:
                systemd.stop(self.unit)
            except systemd.NotThere:
                pass  # it finds the cgroup empty, and then gone, when it is back
        deadline = time.monotonic() + REMOVE_SECONDS
        for path in self.paths.values():
            while True:
                try:
                    tree.remove(path)
                    break
                except OSError as error:
                    if error.errno != tree.BUSY or time.monotonic() > deadline:
                        raise PyruncError("removing cgroup", path, reason(error)) from error
                self.thaw_all()  # who was killed while frozen dies now
                select.select([], [], [], 0.005)

    def remove_at_once(self) -> bool:
        """Remove it if there is nothing in it: whether that was so. If not, `remove` does what is left."""
        for path in self.paths.values():
            try:
                posix.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != tree.BUSY:
                    raise PyruncError("removing cgroup", path, reason(error)) from error
                return False
        return True


def _open(path: str, flags: int) -> Fd:
    """Of a running container none is missing. Without one its process would stay in the caller's cgroup."""
    try:
        return open_at(None, path, flags)
    except OSError as error:
        raise PyruncError("error adding a process to cgroups", "", reason(error)) from error

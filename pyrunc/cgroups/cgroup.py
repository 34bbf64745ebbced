"""A container's cgroup: what can be done with it, whichever kind it is. The kinds are v1.py, v2.py and scope.py."""

import errno
import posix
import select
import time
from _signal import SIGKILL

from pyrunc.cgroups import tree
from pyrunc.cgroups.files import NAMED, UNIFIED, write, write_all
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from pyrunc.cgroups.files import Write
    from pyrunc.cgroups.oom import Watch
    from pyrunc.spec.types import DeviceRule, Resources

NOT_PERMITTED = (errno.EPERM, errno.EACCES, errno.EROFS)
REMOVE_SECONDS = 10.0
FREEZE_SECONDS = 2.0
KILL_SECONDS = 2.0
NO_CHILDREN = 2  # links of a directory: its name, and its "."
FEW = 256  # processes


class Cgroup:
    """One directory in every hierarchy.

    Each kind has to override what raises NotImplementedError here. If such a method did nothing instead, a container
    would have no limits. The abc and typing modules are not used: each verb would have to load them.

    Attributes:
        paths: name of the hierarchy ("" is v2's) -> directory.
        mounts: name of the hierarchy -> where it is mounted.
        delegated: of v2: the path below it of the cgroup that the container manages itself; "": there is none.

    What the kinds differ in:
        unified: whether v2 is the only hierarchy.
        needs_process: whether it can only be made for a process that exists already: see `start`.
        may_enter_late: whether a process may be made outside of it and enter it at the end: see late.py.
        dispensable: hierarchies in which nothing is limited. The cgroup may be missing there.
        freezer: the name of the hierarchy with the freezer.
        freeze_file, freeze_value, thaw_value: the file that freezes and thaws, and what is written to it.
        frozen_values: what that file says of a cgroup that is frozen, or being frozen.
        asked_file: says 1 when the cgroup itself has been asked to freeze, and not only one above it.
        oom_file: has a line with the number of processes killed for want of memory.
    """

    __slots__ = ("delegated", "mounts", "paths")

    unified: bool
    needs_process = False
    may_enter_late = False
    dispensable: "tuple[str, ...]" = ()
    freezer: str
    freeze_file: str
    freeze_value: str
    thaw_value: str
    frozen_values: "tuple[bytes, ...]"
    asked_file: str
    oom_file: str

    def __init__(self, paths: "dict[str, str]", mounts: "dict[str, str] | None" = None, delegated: str = "") -> None:
        self.paths = paths
        self.mounts = mounts or {}
        self.delegated = delegated

    def record(self) -> "dict[str, Any]":
        """For state.json. See `load` in __init__.py."""
        found = {"paths": self.paths, "unified": self.unified, "mounts": self.mounts, "unit": None}
        return {**found, "delegated": self.delegated} if self.delegated else found

    def at(self, paths: "dict[str, str]") -> "Self":
        """The same kind of cgroup in other directories."""
        return type(self)(paths, self.mounts, self.delegated)

    def directory(self, controller: str) -> "str | None":
        """Where a controller's files are. None: it is not there for us."""
        raise NotImplementedError

    # --- making it

    def refuse_used(self) -> None:
        """Refuse existing directories that are frozen, or have a process in or below them: whatever runs in there would
        be limited and killed as if it were ours."""
        for path in self.paths.values():
            if tree.all_processes(path):
                raise PyruncError(
                    "cgroup", path, "container's cgroup is not empty", "give the container another cgroupsPath"
                )
        if self.is_frozen():
            raise PyruncError("cgroup", str(self._freezer()), "container's cgroup unexpectedly frozen")

    def make(self, tolerant: bool = False) -> None:
        """Make the directories, or use those that are there: see `refuse_used`.

        Args:
            tolerant: leave out a hierarchy that we may not change. Rootless callers often have none of their own.
        """
        for name, path in [*self.paths.items()]:
            try:
                self._make_directory(name, path)
            except OSError as error:
                if error.errno not in NOT_PERMITTED or not (tolerant or name in self.dispensable):
                    raise PyruncError("unable to apply cgroup configuration: creating", path, reason(error)) from error
                del self.paths[name]

    def _make_directory(self, name: str, path: str) -> None:
        raise NotImplementedError

    def start(self, container_id: str, pid: int, resources: "Resources", annotations: "dict[str, str]") -> None:
        """Make it for a process that exists, and put the process into it. Only for a kind that `needs_process`."""
        raise NotImplementedError

    def learn(self, own: str) -> None:
        """Learn its directories from /proc/self/cgroup, in a process that existed before it. For kinds that
        `needs_process`."""

    def give_to(self, uid: int) -> None:
        """Let a user arrange what is below it. config-linux.md#cgroup-ownership"""

    def give_named(self, uid: int, gid: int) -> None:
        """Give the container's root its cgroup in name=systemd. It has no limits there, but systemd in a container
        makes cgroups below it."""
        directory = self.paths.get(NAMED)
        if not directory or posix.stat(directory).st_uid == uid:
            return
        try:
            for name in (".", "cgroup.procs", "tasks"):
                posix.chown(f"{directory}/{name}", uid, gid)
        except OSError as error:
            raise PyruncError("giving cgroup to its user", directory, reason(error)) from error

    def delegate(self, pid: int, uid: int, gid: int) -> None:
        """Move a process to the cgroup below it that is the container's to manage, and give that to its root."""
        raise NotImplementedError

    # --- limits

    def limit(self, resources: "Resources", may_set_devices: bool = True) -> None:
        """Apply linux.resources. A limit that no controller of this host can enforce is an error: nothing may silently
        stay without a limit."""
        for directory, writes in self.plan(resources):
            write_all(directory, writes)
        if may_set_devices:
            self.set_devices(resources)

    def update(self, resources: "Resources") -> None:
        """Change the limits that are given, except for the rules for devices. When the kernel refuses one, those before
        it are put back as they were."""
        from pyrunc.cgroups import undo

        plan = self.plan(resources)
        before = undo.of(plan)
        take_back = self.announce(resources)
        try:
            for directory, writes in plan:
                write_all(directory, writes)
        except PyruncError as error:
            failures = undo.all_of((take_back, *before))
            if failures:
                error.hint = f"and not all that was written before it could be put back: {'; '.join(failures)}"
            raise

    def announce(self, resources: "Resources") -> "Callable[[], None]":
        """Tell whoever else manages the cgroup of new limits. Returns a function that takes that back."""
        return lambda: None

    def plan(self, resources: "Resources") -> "list[tuple[str, list[Write]]]":
        """What linux.resources asks for, but for devices: the writes to each controller's directory."""
        from pyrunc.cgroups.controllers import CONTROLLERS

        members: dict[str, Any] = {**resources}
        found = []
        for controller in CONTROLLERS:
            values, name = members.get(controller.member), controller.names[self.unified]
            directory = self.directory(name)
            writes = controller.writes(self.unified, directory or "", values) if values else []
            if writes and directory:
                found.append((directory, writes))
            elif writes:
                cause = f"this host has no cgroup controller {name} for us"
                if not self.paths:
                    cause = f"cannot set {controller.member} limit: container could not join or create cgroup"
                raise PyruncError("linux.resources", controller.member, cause)
        return found

    def set_devices(self, resources: "Resources") -> None:
        """Allow the devices that the rules allow, and no other, even if there are no rules."""
        directory = self.directory("devices")
        if directory is None:
            cause = f"this host has no {'cgroup v2' if self.unified else 'cgroup controller devices'} for us"
            raise PyruncError("linux.resources", "devices", f"{cause}, and all devices could be used")
        self._set_devices(directory, resources)

    def change_devices(self, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
        """Replace one list of rules by another, while the container runs."""
        directory = self.directory("devices")
        if not directory:
            raise PyruncError("linux.resources", "devices", "the container has no cgroup whose rules could be changed")
        self._change_devices(directory, old, new)

    def _change_devices(self, directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
        raise NotImplementedError

    def _set_devices(self, directory: str, resources: "Resources") -> None:
        raise NotImplementedError

    # --- statistics

    def statistics(self, but: "tuple[str, ...]" = ()) -> "dict[str, Any]":
        """What it has used, as `events` prints it: the members and their order are those of runc's JSON. A controller
        that is not there counts nothing.

        Args:
            but: members to leave out.
        """
        from pyrunc.cgroups.controllers import CONTROLLERS

        found: dict[str, Any] = {}
        for controller in CONTROLLERS:
            name = controller.names[0]
            if controller.statistics and name not in but:
                counted_by = controller.counted_by[:1] if self.unified else controller.counted_by
                directories = [self.directory(each) or "" for each in counted_by]
                found[name] = controller.statistics[self.unified](*directories)
        return {**found, "intel_rdt": {}, "network_interfaces": None}

    def watch_oom(self) -> "Watch":
        """What to poll, to learn of kills for want of memory."""
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        try:
            lines = read_file(f"{self.directory('memory') or ''}/{self.oom_file}").decode().splitlines()
        except OSError:
            return 0
        return next((int(line.partition(" ")[2]) for line in lines if line.startswith("oom_kill ")), 0)

    # --- processes

    def open_tasks(self) -> "list[Fd]":
        """v1's `tasks` files, with which a process moves itself: see init.namespaces.enter_cgroup."""
        return [_open(f"{path}/tasks", posix.O_WRONLY) for name, path in self.paths.items() if name != UNIFIED]

    def open_unified(self) -> "Fd | None":
        """v2's directory, for clone3's CLONE_INTO_CGROUP: a process is born in its cgroup, and never moved."""
        path = self.paths.get(UNIFIED)
        return _open(path, posix.O_PATH | posix.O_DIRECTORY) if path else None

    def join_unified(self, pid: int) -> None:
        """Move a process into v2's directory, where clone3 could not put it."""
        if UNIFIED not in self.paths:
            return
        try:
            write_file(f"{self.paths[UNIFIED]}/cgroup.procs", str(pid).encode())
        except OSError as error:
            raise PyruncError(f"adding pid {pid} to cgroups", self.paths[UNIFIED], reason(error)) from error

    def for_exec(self, pid: int, container_id: str) -> "Self":
        """The cgroup for one more process of a container whose first process has this pid."""
        return self

    def join(self, pid: int) -> None:
        """Move a process into every hierarchy. On v1 this takes milliseconds: see `open_tasks`."""
        for path in self.paths.values():
            write(path, "cgroup.procs", str(pid))

    def _of_processes(self) -> "str | None":
        """The directory that lists the container's processes: one that they can't leave by themselves."""
        return self._freezer() or next(iter(self.paths.values()), None)

    def processes(self) -> "list[int]":
        """Every process in it and below."""
        path = self._of_processes()
        return tree.all_processes(path) if path else []

    def is_small(self) -> bool:
        """Whether going through it takes no time: nothing is below it, and it has few processes. A container can make
        as many of both as it likes."""
        path = self._of_processes()
        try:
            return path is None or (posix.stat(path).st_nlink == NO_CHILDREN and len(tree.processes(path)) <= FEW)
        except OSError as error:
            return error.errno in tree.NOT_THERE

    # --- freezing

    def _freezer(self) -> "str | None":
        """The directory with the freezer's files."""
        return self.paths.get(self.freezer)

    def is_frozen(self) -> bool:
        directory = self._freezer()
        if directory is None:
            return False
        try:
            return read_file(f"{directory}/{self.freeze_file}").strip() in self.frozen_values
        except OSError as error:
            if error.errno in tree.NOT_THERE:
                return False  # the cgroup is gone, or the kernel has no freezer: so nothing is frozen
            raise PyruncError("asking the freezer of cgroup", directory, reason(error)) from error

    def freeze(self) -> None:
        """Stop every process in it, and wait until they stand still. cgroups(7), freezer

        v1 may stay FREEZING while a process is being forked or traced. So it is asked again, and thawed when that does
        not help.
        """
        directory = self._freezer()
        if directory is None:
            raise PyruncError("freezing", "", "this host has no freezer for us")
        deadline = time.monotonic() + FREEZE_SECONDS
        while True:
            write(directory, self.freeze_file, self.freeze_value)
            if self._stands_still(directory):
                return
            if time.monotonic() > deadline:
                self.thaw()
                raise PyruncError(
                    "freezing", directory, f"its processes do not stand still within {FREEZE_SECONDS:.0f} s"
                )
            select.select([], [], [], 0.001)

    def _stands_still(self, directory: str) -> bool:
        raise NotImplementedError

    def thaw(self) -> None:
        directory = self._freezer()
        if directory is not None and self.is_frozen():
            write(directory, self.freeze_file, self.thaw_value)

    def thaw_all(self) -> None:
        """Thaw it, and the cgroups below that the container has frozen itself. On v1 frozen processes do not even get
        SIGKILL."""
        directory = self._freezer()
        for parent, cgroup in tree.every(directory, tree.TO_REMOVE) if directory else ():
            try:
                if read_file(f"{cgroup}/{self.asked_file}", parent).strip() == b"1":
                    write_file(f"{cgroup}/{self.freeze_file}", self.thaw_value.encode(), parent)
            except OSError as error:
                if error.errno not in tree.GONE:
                    raise PyruncError("thawing cgroup", str(directory), reason(error)) from error

    # --- its end

    def kill(self, signal: int = SIGKILL) -> None:
        """Signal every process in it and below. SIGKILL is repeated until there is none, or none that dies at once."""
        if signal != SIGKILL:
            self._signal(signal)
            return
        if posix.getpid() in self.processes():
            cause = "this process is one of its own, and would be held or killed before it is done"
            raise PyruncError("killing all in cgroup", self._of_processes() or "", cause, "call from outside")
        if self._kill_at_once():
            return
        deadline = time.monotonic() + KILL_SECONDS
        while True:
            try:
                self._hold()
                found = self._signal(SIGKILL)
            finally:
                self.thaw_all()
            if not found or time.monotonic() > deadline:
                return
            select.select([], [], [], 0.001)

    def _kill_at_once(self) -> bool:
        """Kill all with one write: cgroup.kill, Linux 5.14. Returns whether that was all there is to do.

        A threaded cgroup refuses it (EOPNOTSUPP), and an older kernel has no such file. Then each is killed by itself.
        """
        directory = self.paths.get(UNIFIED)
        try:
            if directory:
                write_file(f"{directory}/cgroup.kill", b"1")
            return bool(directory)
        except OSError:
            return False

    def _hold(self) -> None:
        """Freeze it, so that no process makes processes or cgroups while we go through them. A failure is ignored: we
        go through them all the same."""
        directory = self._freezer()
        try:
            if directory is not None:
                write(directory, self.freeze_file, self.freeze_value)
        except PyruncError:
            pass

    def _signal(self, signal: int) -> bool:
        """Signal every process. Returns whether there was one."""
        path = self._of_processes()
        return tree.signal(path, signal) if path else False

    def remove(self) -> None:
        """Remove it with all cgroups below. Its processes must be dead. The kernel may take a moment to see it."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for path in self.paths.values():
            while True:
                try:
                    tree.remove(path)
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise PyruncError("removing cgroup", path, reason(error)) from error
                self.thaw_all()  # processes that were killed while frozen die now
                select.select([], [], [], 0.005)

    def remove_at_once(self) -> bool:
        """Remove it, if that is possible without waiting. Returns whether it was. If not, `remove` does the rest."""
        for path in self.paths.values():
            try:
                posix.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise PyruncError("removing cgroup", path, reason(error)) from error
                return False
        return True


def _open(path: str, flags: int) -> Fd:
    """Open a file of a cgroup that a process is to enter. A missing file is an error: the process would stay in the
    caller's cgroup."""
    try:
        return open_at(None, path, flags)
    except OSError as error:
        raise PyruncError("error adding a process to cgroups", "", reason(error)) from error

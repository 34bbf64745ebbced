"""delete --force, for containers that are damaged or that another verb holds."""

import posix
import time
from _signal import SIGKILL

from pyrunc import cgroups
from pyrunc.container.patience import FORCED_SECONDS, POLITE_SECONDS
from pyrunc.container.recorded import Recorded
from pyrunc.container.state import CONFIG, StateDirectory
from pyrunc.errors import PyruncError
from pyrunc.linux.pid import kill_group, pidfd_open, pidfd_send_signal, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.linux.fd import Fd
    from pyrunc.log import Log


def interrupt(directory: StateDirectory, log: "Log | None") -> None:
    """Take the lock from a verb that may hang.

    What that verb waits for is ended: the container's first process and its hook. Then the verb fails and gives up the
    lock. If it does not, its process is killed, but only a process that lives for that verb alone. We ourselves and
    programs that use the library, such as a shim with other containers, are never killed.
    """
    deadline = time.monotonic() + POLITE_SECONDS
    while time.monotonic() < deadline:
        _end_what_it_waits_for(directory, log)
        if directory.try_lock("delete", 0.05):
            return
    if not directory.try_lock("delete", FORCED_SECONDS if _end_holder(directory) else 0.0):
        raise PyruncError("deleting container", directory.id, directory.why_locked(), "it is not ours to end")


def _end_what_it_waits_for(directory: StateDirectory, log: "Log | None") -> None:
    try:
        record = directory.load_record()
    except PyruncError:
        record = None  # its record is damaged
    if record is not None and record["pid"]:
        Recorded(directory, record, log).kill_quietly()
    hook = directory.hook()
    leader = _opened(*hook) if hook else None
    if hook and leader:
        with leader:
            kill_group(leader, hook[0])


def _end_holder(directory: StateDirectory) -> bool:
    """Kill who holds the lock, if that is allowed. Returns whether it is."""
    holder = directory.holder()
    if holder is None or holder.pid == posix.getpid() or not holder.may_be_ended:
        return False
    process = _opened(holder.pid, holder.start)
    if process:
        with process:
            try:
                pidfd_send_signal(process, SIGKILL)
            except ProcessLookupError:
                pass
    return True


def _opened(pid: int, start: int) -> "Fd | None":
    """A descriptor of the process that has this pid and this start time."""
    try:
        process = pidfd_open(pid)
        return process if start_time(pid) == start else None
    except ProcessLookupError:
        return None


def record(directory: StateDirectory, log: "Log | None") -> "dict[str, Any]":
    """What is known without a readable state.json: the cgroup, and by that the processes."""
    try:
        config = directory.load(CONFIG) or {}
    except PyruncError:
        config = {}
    linux = config.get("linux")
    linux = linux if isinstance(linux, dict) else {}
    found: dict[str, Any] = {
        "id": directory.id, "pid": 0, "start": 0, "hooks": [], "own_pids": False, "notify": False, "annotations": {},
        "cgroup": directory.noted_cgroup() or _cgroup_by_name(directory.id, config, linux, log),
    }  # fmt: skip
    if isinstance(linux.get("intelRdt"), dict):
        from pyrunc.cgroups import rdt

        found["rdt"] = rdt.named(linux["intelRdt"], directory.id)
    return found


def _cgroup_by_name(
    container_id: str, config: "dict[str, Any]", linux: "dict[str, Any]", log: "Log | None"
) -> "dict[str, Any]":
    path = linux.get("cgroupsPath")
    if not isinstance(path, str) or "\0" in path:
        path = None
    if log is not None and not config:
        words = "neither its record nor its configuration can be read"
        log.warning(f"container {container_id}: {words}: only a cgroup of its own name is looked for")
    return _place(path, container_id).record()


def _place(path: "str | None", container_id: str) -> "Cgroup":
    """Where the cgroup is. A path of the form slice:prefix:name is a scope of systemd's, unless there is a folder
    of that name.
    """
    cgroup = cgroups.place(path, container_id)
    if path is None or path.count(":") != 2 or any(posix.access(place, posix.F_OK) for place in cgroup.paths.values()):
        return cgroup
    return cgroups.place_scope(path, container_id, user=bool(posix.geteuid())).expected()


def disown_what_is_anothers(directory: StateDirectory, record: "dict[str, Any]") -> None:
    """Leave a cgroup alone that belongs to another container.

    A container that never had a process has none in its cgroup, nor has one whose place `create` gave to a later one:
    it was empty then. So what is in it or below it is the other's. It is not killed, and no cgroup is removed.
    """
    ours = {*record["cgroup"]["paths"].values()}
    for container_id in directory.root.ids():
        if container_id == directory.id:
            continue
        try:
            other = Recorded.load(directory.root, container_id)
            theirs = other.cgroup.paths.values() if other.is_alive() else ()
            if any(f"{path}/".startswith(f"{own}/") for own in ours for path in theirs):
                record["cgroup"] = {**cgroups.NONE}
        except (PyruncError, OSError):
            continue

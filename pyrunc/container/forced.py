"""delete --force, where things are not as they should be."""

import posix

from pyrunc.cgroups import make
from pyrunc.container.container import SIGKILL, Container
from pyrunc.container.state import CONFIG, StateDirectory
from pyrunc.errors import PyruncError
from pyrunc.linux.pid import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.log import Log

POLITE_SECONDS = 1.0
STILL_SECONDS = 10.0


def interrupt(directory: StateDirectory, log: "Log | None") -> None:
    """Get the lock from a verb that may hang, in a hook of the engine's, say. Its container is killed, with which it
    fails and lets go."""
    record = directory.load_record()
    if record is not None:
        if record["pid"]:
            Container(directory, record, log).kill_quietly()
        if directory.lock(POLITE_SECONDS):
            return
        creator, started = record["creator"]
        try:
            if start_time(creator) == started:
                posix.kill(creator, SIGKILL)  # its hook dies with it
        except ProcessLookupError:
            pass
    if not directory.lock(STILL_SECONDS):
        raise PyruncError("deleting container", directory.id, "another command holds its lock", "is a hook hanging?")


def record(directory: StateDirectory) -> "dict[str, Any]":
    """What can be told without a state.json that can be read: the cgroup, and so the processes, which end here."""
    config = directory.load(CONFIG) or {}
    linux = config.get("linux") or {}
    cgroup = make.place(linux.get("cgroupsPath"), directory.id)
    cgroup.kill()
    paths = {"paths": cgroup.paths, "unified": cgroup.unified, "mounts": cgroup.mounts}
    found = {"pid": 0, "hooks": [], "own_pids": False, "notify": False, "annotations": {}, "cgroup": paths}
    if linux.get("intelRdt") is not None:
        from pyrunc.cgroups import rdt

        found["rdt"] = rdt.named(linux["intelRdt"], directory.id)
    return found

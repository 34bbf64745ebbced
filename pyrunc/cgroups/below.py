"""exec --cgroup: a process in a cgroup that the container has made in its own."""

import posix

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.errors import PyruncError, UsageError


def choose(cgroup: Cgroup, wanted: "list[str]") -> Cgroup:
    """The cgroup that --cgroup names: `PATH` in every hierarchy, or `CONTROLLER[,CONTROLLER]:PATH` in some of v1's.
    It must be there already."""
    paths = {**cgroup.paths}
    for controller, path in _parse(wanted).items():
        names = [name for name in paths if not controller or controller in name.split(",")]
        if controller and (cgroup.unified or not names):
            raise UsageError("--cgroup", controller, f"unknown controller {controller}")
        for name in names:
            if name not in cgroup.dispensable:
                paths[name] = _inside(cgroup.paths[name], path)
    return cgroup.at(paths)


def _parse(wanted: "list[str]") -> "dict[str, str]":
    """Controller ("" for all of them) -> path."""
    found: dict[str, str] = {}
    for word in wanted:
        before, colon, path = word.rpartition(":")
        if not colon and len(wanted) > 1:
            raise UsageError("--cgroup", word, "missing <controller>: prefix")
        for controller in before.split(",") if colon else ("",):
            if colon and not controller:
                raise UsageError("--cgroup", word, "empty <controller> prefix")
            if controller in found:
                raise UsageError("--cgroup", word, f"controller {controller} specified multiple times")
            found[controller] = path
    return found


def _inside(directory: str, path: str) -> str:
    """The directory of a path below another one. A path that would lead out of it is refused: above or beside it, a
    process would have no limits, and would not be killed with the container."""
    parts = path.strip("/").split("/") if path.strip("/") else []
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError("--cgroup", path, "bad sub cgroup path")
    place = "/".join([directory, *parts])
    if not posix.access(place, posix.F_OK):
        raise PyruncError("error adding pid to its cgroup", place, "no such file or directory")
    return place

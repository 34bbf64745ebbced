"""Which hierarchies this host has, where this process is in them, and where a container's cgroup is to be."""

import posix

from pyrunc.cgroups.files import NAMED, UNIFIED
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import open_at, read_file
from pyrunc.linux.mount import CGROUP2_SUPER_MAGIC, filesystem_type, mount_table

CGROUP_SUPER_MAGIC = 0x27E0EB
ROOT = "/sys/fs/cgroup"
NAME_MAX = 255
# Name -> mount point of each hierarchy that was looked for. None: they are looked for each time. If one is unmounted
# later, its files are gone, and using them is an error.
known: "dict[str, str] | None" = None
MOST = 3072  # the rest of PATH_MAX is for the hierarchy's mount point and the name of a file


class Hierarchy:
    """One cgroup hierarchy.

    Attributes:
        name: as in /proc/PID/cgroup: "cpu,cpuacct", "name=systemd", "" for v2.
        mount: where it is mounted.
        own: the path of this process's cgroup in it.
    """

    __slots__ = ("mount", "name", "own")

    def __init__(self, name: str, mount: str, own: str) -> None:
        self.name = name
        self.mount = mount
        self.own = own

    @property
    def controllers(self) -> "list[str]":
        return self.name.split(",")


def find(named: bool = False) -> "list[Hierarchy]":
    """Every mounted hierarchy: on a unified host v2's alone, on others those of v1, and perhaps v2's.

    Args:
        named: whether name=systemd of v1 is wanted on a unified host too.
    """
    found = []
    for line in read_file("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, name, own = line.split(":", 2)
        mount = _mount_of(name)
        if mount:
            found.append(Hierarchy(name, mount, own))
    return [h for h in found if is_unified([h]) or (named and h.name == NAMED)] if is_unified(found) else found


def is_unified(hierarchies: "list[Hierarchy]") -> bool:
    """Whether v2 has the controllers. On a hybrid host v1 has them, and v2 is mounted for its tree of processes."""
    return any(h.name == UNIFIED and h.mount == ROOT for h in hierarchies)


def directories(hierarchies: "list[Hierarchy]", path: str) -> "dict[str, str]":
    """Hierarchy's name -> the directory that a cgroupsPath names in it.

    An absolute path starts at the hierarchy's root. A relative one starts at the caller's cgroup; on v2 at the parent
    of that, as a cgroup with processes of its own passes no controllers on.
    """
    beside = is_unified(hierarchies)
    return {each.name: _directory(each, path, beside) for each in hierarchies}


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


def _mount_of(name: str) -> str:
    if known is None:
        return _look_for(name)
    if name not in known:
        known[name] = _look_for(name)
    return known[name]


def _look_for(name: str) -> str:
    """Where a hierarchy is mounted: at the usual place, if the file system there is a cgroup's; else where mountinfo
    says, which costs more. "": nowhere."""
    if name == UNIFIED:
        for place in (ROOT, f"{ROOT}/unified"):
            if _type_of(place) == CGROUP2_SUPER_MAGIC:
                return place
        return ""
    place = f"{ROOT}/{name.removeprefix('name=')}"
    return place if _type_of(place) == CGROUP_SUPER_MAGIC else _mounted_elsewhere(name)


def _type_of(place: str) -> int:
    """The type of a file system; 0 when there is nothing. Any other failure is an error: if it counted as "nothing is
    mounted", a container would have no limits."""
    try:
        with open_at(None, place, posix.O_PATH | posix.O_DIRECTORY) as directory:
            return filesystem_type(directory)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise PyruncError("looking for cgroups at", place, reason(error)) from error


def _mounted_elsewhere(name: str) -> str:
    wanted = set(name.split(","))
    for _, place, kind, options in mount_table():
        if kind == "cgroup" and wanted <= set(options.split(",")):
            return place
    return ""

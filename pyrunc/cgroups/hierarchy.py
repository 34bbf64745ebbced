"""Which hierarchies this host has, where they are mounted, and where in them this process is."""

import posix

from pyrunc.cgroups.cgroup import UNIFIED
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import open_at, read_file
from pyrunc.linux.mount import CGROUP2_SUPER_MAGIC, filesystem_type

CGROUP_SUPER_MAGIC = 0x27E0EB
ROOT = "/sys/fs/cgroup"


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


def find() -> "list[Hierarchy]":
    """Every mounted hierarchy. v2's alone on a unified host; those of v1, and perhaps v2's, on others."""
    found = []
    for line in read_file("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, name, own = line.split(":", 2)
        mount = _mount_of(name)
        if mount:
            found.append(Hierarchy(name, mount, own))
    return [h for h in found if is_unified([h])] or found


def is_unified(hierarchies: "list[Hierarchy]") -> bool:
    """Whether v2 is all there is: its controllers are in use then, and not only its tree of processes (hybrid)."""
    return any(h.name == UNIFIED and h.mount == ROOT for h in hierarchies)


def _mount_of(name: str) -> str:
    """By convention first, which is cheap and verified by the file system's type; else by mountinfo."""
    if name == UNIFIED:
        for place in (ROOT, f"{ROOT}/unified"):
            if _type_of(place) == CGROUP2_SUPER_MAGIC:
                return place
        return ""
    place = f"{ROOT}/{name.removeprefix('name=')}"
    return place if _type_of(place) == CGROUP_SUPER_MAGIC else _mounted_elsewhere(name)


def _type_of(place: str) -> int:
    """0: there is nothing. Any other failure says nothing about what is mounted: taken for "no", it would give a
    container without limits."""
    try:
        with open_at(None, place, posix.O_PATH | posix.O_DIRECTORY) as directory:
            return filesystem_type(directory)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise PyruncError("looking for cgroups at", place, reason(error)) from error


def _mounted_elsewhere(name: str) -> str:
    wanted = set(name.split(","))
    for line in read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup" and wanted <= set(options.split(",")):
            return fields.split(" ")[4]
    return ""

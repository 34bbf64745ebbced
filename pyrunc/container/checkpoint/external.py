"""Mounts and namespaces that come from outside: they are there before the container, and again before its restore."""

import posix

from pyrunc.cgroups.files import NAMED, UNIFIED
from pyrunc.container.checkpoint.mountinfo import Mounted, mount_of, mounts_of
from pyrunc.errors import PyruncError
from pyrunc.init import dev
from pyrunc.init.cgroup_mounts import FORCED
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import open_at
from pyrunc.linux.mount_options import MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.recorded import Recorded
    from pyrunc.spec.types import Config, Mount

# Namespaces that CRIU leaves alone when they have a path, with CRIU's names for them. What is in them stays there.
EXTERNAL_NAMESPACES = {"network": "net", "pid": "pid"}
# Namespaces that CRIU writes to the images all the same. At restore it joins the path.
JOINED_NAMESPACES = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "user": "user"}
BIND, CGROUP = "bind", "cgroup"
MASK = "/dev/null"  # what masked files are covered with


def key_of(name: str) -> str:
    """The key by which CRIU knows a namespace that is not the container's. runc uses the same."""
    return f"extRoot{name[0].upper()}{name[1:]}NS"


def kind_of(entry: "Mount") -> str:
    """What an entry of `mounts` makes: bind, cgroup, or the file system of its type. "" stands for a remount."""
    options = MountOptions(entry.get("options") or [])
    if options.remount or (options.copy_link and entry.get("source")):
        return ""
    if options.bind or entry.get("type") == "bind":
        return BIND
    kind = entry.get("type") or ""
    return CGROUP if kind in ("cgroup", "cgroup2") else kind


NOT_RESTORED = {
    "org.pyrunc.rootfs.idmap": "the root file system has mapped IDs, which CRIU can't restore",
    "run.oci.delegate-cgroup": "it manages a cgroup, and CRIU would put its processes above that",
    FORCED: "it has a cgroup of v1 beside those of the host, which CRIU can't restore",
}


def refuse_what_is_lost(config: "Config") -> None:
    """Refuse ID-mapped mounts. CRIU does not know of the mapping: without it the files would belong to others."""
    from pyrunc.linux.mount_options import asks_for_mapping

    for name, value in (config.get("annotations") or {}).items():
        if name in NOT_RESTORED and value:
            raise PyruncError("checkpoint", "", NOT_RESTORED[name], f"that is the annotation {name}")
    for entry in config.get("mounts") or []:
        if entry.get("uidMappings") or asks_for_mapping(entry.get("options") or []):
            raise PyruncError("checkpoint", entry["destination"], "the mount has mapped IDs, which CRIU can't restore")


class Mounts:
    """The mounts of a running container that come from outside, each by the path at which the container sees it."""

    __slots__ = ("config", "container", "mounted", "root")

    def __init__(self, container: "Recorded") -> None:
        self.container = container
        self.config = container.config
        refuse_what_is_lost(self.config)
        self.root = open_at(None, f"/proc/{container.pid}/root", posix.O_PATH | posix.O_DIRECTORY)
        self.mounted = {mount.number: mount for mount in mounts_of(container.pid)}

    def names(self) -> "dict[str, str]":
        """Place -> the name by which CRIU asks for the mount at restore. The name is the place itself, or MASK."""
        found: dict[str, str] = {}
        for entry in self.config.get("mounts") or []:
            kind = kind_of(entry)
            if kind == BIND:
                self._add_tree(found, entry["destination"])
            elif kind == CGROUP:
                self._add_cgroups(found, entry["destination"])
        for device in dev.wanted(self.config["linux"]):
            self._add(found, device["path"])
        for place in self.config["linux"].get("maskedPaths") or []:
            mounted = self._mounted_at(place)
            if mounted is not None and mounted.root != "/" and not self._is_own(mounted):
                found[mounted.place] = MASK
        return found

    def _mounted_at(self, place: str) -> "Mounted | None":
        """The mount that a path of config.json leads to. Symlinks in the image may lead it elsewhere."""
        try:
            with path.resolve(self.root, normal(place)) as target:
                return self.mounted.get(mount_of(target))
        except OSError:
            return None

    def _add(self, found: "dict[str, str]", place: str) -> "Mounted | None":
        mounted = self._mounted_at(place)
        if mounted is None or mounted.place == "/" or not self._is_at(mounted, place):
            return None
        found[mounted.place] = mounted.place
        return mounted

    def _is_at(self, mounted: Mounted, place: str) -> bool:
        """Whether the mount begins at this path, and not above it."""
        with path.resolve(self.root, normal(place)) as target:
            here = posix.fstat(target.number)
        with path.resolve(self.root, mounted.place) as whole:
            top = posix.fstat(whole.number)
        return (top.st_dev, top.st_ino) == (here.st_dev, here.st_ino)

    def _add_tree(self, found: "dict[str, str]", place: str) -> None:
        """Add a mount, and the mounts below that came along with it (rbind). Those that have an entry of their own in
        config.json are left to that entry."""
        top = self._add(found, place)
        entries = {normal(entry["destination"]) for entry in self.config.get("mounts") or []}
        parents = {top.number} if top is not None else set()
        for mounted in self.mounted.values():
            if mounted.parent in parents and mounted.place not in entries:
                parents.add(mounted.number)
                found[mounted.place] = mounted.place

    def _add_cgroups(self, found: "dict[str, str]", place: str) -> None:
        """Add the mounts of cgroup hierarchies, unless the container has a cgroup namespace.

        Without one they are bind mounts from the host. A mount that shows a whole hierarchy is not among them.
        """
        top = self._mounted_at(place)
        own_namespace = any(n["type"] == "cgroup" for n in self.config["linux"].get("namespaces") or [])
        if top is None or own_namespace:
            return
        for mounted in self.mounted.values():
            inside = (mounted.place + "/").startswith(top.place + "/")
            if inside and mounted.kind in ("cgroup", "cgroup2") and mounted.root != "/":
                found[mounted.place] = mounted.place

    def _is_own(self, mounted: Mounted) -> bool:
        """Whether the container also has a mount of the whole file system that this one shows a part of."""
        return any(other.device == mounted.device and other.root == "/" for other in self.mounted.values())


def cgroup_sources(container: "Recorded", place: str) -> "dict[str, str]":
    """Path in the container -> directory on the host: the counterpart of `_add_cgroups`, at restore."""
    cgroup = container.cgroup
    if cgroup.unified:
        return {place: cgroup.paths[UNIFIED]}
    return {
        f"{place}/{'systemd' if name == NAMED else cgroup.mounts[name].rpartition('/')[2]}": directory
        for name, directory in cgroup.paths.items()
        if name != UNIFIED
    }


def submounts(source: str) -> "list[str]":
    """The host's mounts below a folder, each as a path from there."""
    with open_at(None, source, posix.O_PATH) as top:
        real = posix.readlink(f"/proc/self/fd/{top.number}")
    start = real.rstrip("/") + "/"
    return sorted({mounted.place[len(start) - 1 :] for mounted in mounts_of("self") if mounted.place.startswith(start)})

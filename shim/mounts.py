"""The mounts that containerd gives with a container: its root file system. They are made as containerd's own package
core/mount makes them: on each other, or on a folder in the one before."""

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.mount_options import PROPAGATION, MountOptions
from pyrunc.shim.place import MAPS, Place, finish, mount_plain
from pyrunc.shim.unmount import unmount_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONTAINERDS_OWN = "X-containerd."  # for its mount manager: if one comes here, the mounts are not what was meant


def mount_all(mounts: "list[dict[str, Any]]", root: str) -> None:
    """Make all mounts, in order. When this raises PyruncError, none is left."""
    made = False
    try:
        for each in mounts:
            place = Place(root, each["target"].strip("/"))
            if place.target and not made:
                raise PyruncError("mounting", str(place), "nothing is mounted that it could be in")
            mount_one(each["type"], each["source"], place, each["options"])
            made = True
    except BaseException:
        if made:
            unmount_all(root)
        raise


def mount_one(kind: str, source: str, place: Place, words: "list[str]") -> None:
    """Make one mount. If that fails, nothing is mounted."""
    words = [word for word in words if word]
    for word in words:
        if word.startswith(CONTAINERDS_OWN):
            raise PyruncError("mounting the root file system", word, "it is for containerd itself")
    try:
        if kind.startswith(("fuse.", "fuse3.")):
            from pyrunc.shim import fuse

            fuse.mount(kind, source, place, [word for word in words if word not in PROPAGATION])
            finish(place, MountOptions([word for word in words if word in PROPAGATION]), None)
        elif any(word.startswith(MAPS) for word in words):
            from pyrunc.shim import idmap

            idmap.mount_mapped(kind, source, place, words)
        else:
            mount_plain(kind, source, place, words)
    except OSError as error:
        raise PyruncError("mounting the root file system", str(place), f"{kind} {source}: {reason(error)}") from error

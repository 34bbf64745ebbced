"""A root file system whose mounts have the options uidmap and gidmap. containerd 2 gives it to a pod with a user
namespace, so that all pods can share the layers of an image. Linux 5.12; for overlay's layers 5.19."""

import posix

from pyrunc.container.mapped_mounts import namespace_of
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY, MS_PRIVATE, mount_setattr, move_mount, open_tree
from pyrunc.shim.place import MAPS, Place, common_folder, lower_folder, mount_plain
from pyrunc.shim.unmount import unmount_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping

NEEDS = "ID-mapped mounts need a file system that has them, and overlay's layers Linux 5.19"


def mount_mapped(kind: str, source: str, place: Place, options: "list[str]") -> None:
    rest = [option for option in options if not option.startswith(MAPS)]
    try:
        with namespace_of(_mappings(options, "uidmap="), _mappings(options, "gidmap=")) as namespace:
            if kind == "overlay":
                _mount_overlay(source, place, rest, namespace)
            else:
                mount_plain(kind, source, place, rest, namespace)
    except OSError as error:
        raise PyruncError("mapping the owners of files below", str(place), f"{kind}: {reason(error)}", NEEDS) from error


def _mount_overlay(source: str, place: Place, options: "list[str]", namespace: Fd) -> None:
    """Mount an overlay of mapped layers, as an overlay itself can't be mapped. The layers are mounted read-only, so
    that whoever removes the bundle does not remove an image."""
    index, layers = next(
        (index, option.removeprefix("lowerdir=").split(":"))
        for index, option in enumerate([*options, "lowerdir="])
        if option.startswith("lowerdir=")
    )
    folder = common_folder(layers)
    if not folder:
        raise PyruncError("mounting the root file system", str(place), "its layers are not in one folder")
    lower = lower_folder(place)
    posix.mkdir(lower, 0o700)
    try:
        with open_tree(folder, recursive=True) as tree:
            attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_IDMAP
            mount_setattr(tree, set=attributes, propagation=MS_PRIVATE, recursive=True, userns=namespace.number)
            with open_at(None, lower, posix.O_PATH | posix.O_NOFOLLOW) as there:
                move_mount(tree, there)
        moved = ":".join(f"{lower}/{layer.removeprefix(f'{folder}/')}" for layer in layers)
        mount_plain("overlay", source, place, [*options[:index], f"lowerdir={moved}", *options[index + 1 :]])
    finally:
        unmount_all(lower)
        posix.rmdir(lower)


def _mappings(options: "list[str]", name: str) -> "list[IDMapping]":
    """The mappings of an option: CONTAINER:HOST:SIZE, separated by commas. Each part must be there."""
    text = next((option.removeprefix(name) for option in options if option.startswith(name)), "")
    found: list[IDMapping] = []
    for item in text.split(","):
        words = item.split(":")
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            raise PyruncError("mounting the root file system", f"{name}{text}", "expected CONTAINER:HOST:SIZE")
        container, host, size = map(int, words)
        found.append({"containerID": container, "hostID": host, "size": size})
    return found

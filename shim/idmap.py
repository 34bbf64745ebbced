"""A root file system whose mounts have the options uidmap and gidmap: containerd 2 gives it to a pod with a user
namespace, and has the layers of an image once for all of them. Linux 5.12, overlay's layers 5.19."""

import posix

from pyrunc.container.idmap import namespace_of
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import (
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    mount_setattr,
    move_mount,
    open_tree,
    umount,
)
from shim.mounts import common_folder, mount_one, unmount_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping

NEEDS = "ID-mapped mounts need a file system that has them, and overlay's layers Linux 5.19"


def mount_mapped(kind: str, source: str, target: str, options: "list[str]", lower: str) -> None:
    """`lower`: a folder to make, where the layers are for as long as it takes to mount them."""
    rest = [option for option in options if not option.startswith(("uidmap=", "gidmap="))]
    try:
        with namespace_of(_mappings(options, "uidmap="), _mappings(options, "gidmap=")) as namespace:
            if kind == "overlay":
                _mount_overlay(source, target, rest, lower, namespace)
            else:
                mount_one(kind, source, target, rest, lower)
                tree = _mapped(target, namespace, 0)
                umount(target, MNT_DETACH)
                _attach(tree, target)
    except OSError as error:
        raise PyruncError("mapping the owners of files below", target, f"{kind}: {reason(error)}", NEEDS) from error


def _mount_overlay(source: str, target: str, options: "list[str]", lower: str, namespace: Fd) -> None:
    """Overlay has no mapping itself: its layers do. Read-only: whoever removes the bundle does not remove an image."""
    index, layers = next(
        (index, option.removeprefix("lowerdir=").split(":"))
        for index, option in enumerate([*options, "lowerdir="])
        if option.startswith("lowerdir=")
    )
    folder = common_folder(layers)
    if not folder:
        raise PyruncError("mounting the root file system", target, "its layers are not in one folder")
    tree = _mapped(folder, namespace, MOUNT_ATTR_RDONLY)
    posix.mkdir(lower, 0o700)
    try:
        _attach(tree, lower)
        moved = ":".join(f"{lower}/{layer.removeprefix(f'{folder}/')}" for layer in layers)
        mount_one("overlay", source, target, [*options[:index], f"lowerdir={moved}", *options[index + 1 :]], lower)
    finally:
        unmount_all(lower)
        posix.rmdir(lower)


def _mapped(path: str, namespace: Fd, attributes: int) -> Fd:
    tree = open_tree(path, recursive=True)
    attributes |= MOUNT_ATTR_IDMAP
    mount_setattr(tree, set=attributes, propagation=MS_PRIVATE, recursive=True, userns=namespace.number)
    return tree


def _attach(tree: Fd, path: str) -> None:
    with tree, open_at(None, path, posix.O_PATH | posix.O_NOFOLLOW) as place:
        move_mount(tree, place)


def _mappings(options: "list[str]", name: str) -> "list[IDMapping]":
    """CONTAINER:HOST:SIZE, of which there may be several with commas between them. Each has to be there."""
    text = next((option.removeprefix(name) for option in options if option.startswith(name)), "")
    found: list[IDMapping] = []
    for item in text.split(","):
        words = item.split(":")
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            raise PyruncError("mounting the root file system", f"{name}{text}", "expected CONTAINER:HOST:SIZE")
        container, host, size = map(int, words)
        found.append({"containerID": container, "hostID": host, "size": size})
    return found

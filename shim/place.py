"""One mount of a root file system, of a kind that the kernel makes by itself, and the place where it goes."""

import posix

from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import (
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_OF,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    page_size,
    propagate_as,
    umount,
)
from pyrunc.linux.mount_options import MountOptions
from pyrunc.shim.unmount import LOWER

MS_REMOUNT = 32
MS_OF_ATTRIBUTE = {
    MOUNT_ATTR_RDONLY: 1, MOUNT_ATTR_NOSUID: 2, MOUNT_ATTR_NODEV: 4, MOUNT_ATTR_NOEXEC: 8, MOUNT_ATTR_NOSYMFOLLOW: 256,
    MOUNT_ATTR_NOATIME: 1024, MOUNT_ATTR_NODIRATIME: 2048, MOUNT_ATTR_STRICTATIME: 1 << 24,
}  # fmt: skip
MAPS = ("uidmap=", "gidmap=")


class Place:
    """A folder that is mounted on: `target` inside `root`. What is mounted there is found by `top`."""

    __slots__ = ("root", "target")

    def __init__(self, root: str, target: str) -> None:
        self.root = root
        self.target = target

    def __str__(self) -> str:
        return f"{self.root}/{self.target}" if self.target else self.root

    def top(self) -> Fd:
        """What is on top at the place. It is looked up below the root by descriptor, as an image's folder may be a link
        to one of the host's."""
        top = open_at(None, self.root, posix.O_PATH | posix.O_DIRECTORY)
        return path.resolve(top, self.target) if self.target else top


def mount_plain(kind: str, source: str, place: Place, words: "list[str]", userns: "Fd | None" = None) -> None:
    """Make a mount. `userns`: maps the owners of files, but not for overlay, whose layers have the mapping."""
    if "loop" not in words:
        return _mount(kind, source, place, MountOptions(words), userns)
    from pyrunc.shim import loop_device

    rest = [word for word in words if word not in ("loop", "direct-io")]
    with loop_device.attached(source, "ro" in rest, "direct-io" in words) as device:  # until the mount holds it
        _mount(kind, device.name, place, MountOptions(rest), userns)


def _mount(kind: str, source: str, place: Place, options: MountOptions, userns: "Fd | None") -> None:
    if options.bind:
        _bind(source, place, options, userns)
    else:
        _mount_new(kind, source, place, options)
        finish(place, options, userns)


def _bind(source: str, place: Place, options: MountOptions, userns: "Fd | None") -> None:
    with open_tree(source, recursive=options.recursive) as tree:
        attach(tree, place, options, userns)


def attach(tree: Fd, place: Place, options: MountOptions, userns: "Fd | None" = None) -> None:
    """Attach a copy of a tree at a place."""
    with place.top() as target:
        mount_setattr(tree, set=options.set, clear=options.clear)
        _set_all(tree, options, userns)
        move_mount(tree, target)
        propagate_as(tree, options.propagation)


def _mount_new(kind: str, source: str, place: Place, options: MountOptions) -> None:
    folder, flags, data = arguments_of_mount(kind, options)
    here = posix.open(".", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        if folder:
            posix.chdir(folder)
        with place.top() as target:
            mount(source, f"/proc/self/fd/{target.number}", kind, flags, data)
    finally:
        posix.fchdir(here)
        posix.close(here)


def arguments_of_mount(kind: str, options: MountOptions) -> "tuple[str, int, str]":
    """What mount(2) needs: the folder to call it from ("" for any), its flags, its options."""
    flags = MS_REMOUNT if options.remount else 0
    for attribute, flag in MS_OF_ATTRIBUTE.items():
        flags |= flag if options.set & attribute else 0
    for word in options.superblock:
        flags |= MS_OF[word]
    data = [key if value is None else f"{key}={value}" for key, value in options.data]
    folder = ""
    if kind == "overlay" and len(",".join(data)) >= page_size():
        folder, data = _relative(data)
    return folder, flags, ",".join(data)


def finish(place: Place, options: MountOptions, userns: "Fd | None") -> None:
    """Set what mount(2) can't set on what it has mounted. If that fails, the mount is taken away again."""
    if not (userns or options.propagation or options.all_set or options.all_clear):
        return
    with place.top() as top:
        try:
            if userns is not None:
                _replace(top, place, options, userns)
            else:
                _set_all(top, options, None)
                propagate_as(top, options.propagation)
        except BaseException:
            umount(f"/proc/self/fd/{top.number}", MNT_DETACH)
            raise


def _replace(top: Fd, place: Place, options: MountOptions, userns: Fd) -> None:
    """Replace a mount by a mapped copy. Owners can be mapped only before a tree is mounted anywhere."""
    with open_tree(top) as tree:
        _set_all(tree, options, userns)
        umount(f"/proc/self/fd/{top.number}", MNT_DETACH)
        with place.top() as below:
            move_mount(tree, below)
        propagate_as(tree, options.propagation)


def _set_all(tree: Fd, options: MountOptions, userns: "Fd | None") -> None:
    if options.all_set or options.all_clear:
        mount_setattr(tree, set=options.all_set, clear=options.all_clear, recursive=True)
    if userns is not None:
        mount_setattr(tree, set=MOUNT_ATTR_IDMAP, recursive=True, userns=userns.number)


def _relative(data: "list[str]") -> "tuple[str, list[str]]":
    """Name the layers relative to the folder that has all of them. With many layers the options would be longer than
    mount(2) takes."""
    for index, option in enumerate(data):
        if option.startswith("lowerdir="):
            layers = option.removeprefix("lowerdir=").split(":")
            folder = common_folder(layers)
            if folder:
                short = ":".join(layer.removeprefix(f"{folder}/") for layer in layers)
                return folder, [*data[:index], f"lowerdir={short}", *data[index + 1 :]]
    return "", data


def common_folder(layers: "list[str]") -> str:
    folder = layers[0].rpartition("/")[0]
    while folder and not all(layer.startswith(f"{folder}/") for layer in layers):
        folder = folder.rpartition("/")[0]
    return folder


def lower_folder(place: Place) -> str:
    return f"{place.root}{LOWER}"

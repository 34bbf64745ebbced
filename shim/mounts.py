"""The mounts that containerd gives with a container are its root file system. They are made here, and taken away."""

import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.mount import MNT_DETACH, mount, umount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
FLAGS = {
    "ro": MS_RDONLY, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "mand": 64, "dirsync": 128, "noatime": 1024,
    "nodiratime": 2048, "bind": MS_BIND, "rbind": MS_BIND | MS_REC, "relatime": 1 << 21, "strictatime": 1 << 24,
}  # fmt: skip
DEFAULTS = {
    "defaults", "rw", "suid", "dev", "exec", "async", "nomand", "atime", "diratime", "norelatime", "nostrictatime",
}  # fmt: skip
PAGE = 4096  # what mount(2) takes of options, with the zero at their end
UMOUNT_NOFOLLOW = 8
LOWER = ".lower"  # beside the root file system: the layers, for as long as it takes to mount them


def mount_all(mounts: "list[dict[str, Any]]", root: str) -> None:
    """On each other, in order, on the bundle's rootfs. None is left when this raises PyruncError."""
    made = False
    try:
        for each in mounts:
            target = each["target"].lstrip("/")
            place = f"{root}/{target}" if target else root
            if ".." in place.split("/"):
                raise PyruncError("mounting", place, "the target is not below the root file system")
            mount_one(each["type"], each["source"], place, each["options"], f"{root}{LOWER}")
            made = True
    except BaseException:
        if made:
            unmount_all(root)
        raise


def mount_one(kind: str, source: str, target: str, options: "list[str]", lower: str) -> None:
    """`lower`: a folder to make where one is needed."""
    if any(option.startswith(("uidmap=", "gidmap=")) for option in options):
        from shim.idmap import mount_mapped

        mount_mapped(kind, source, target, options, lower)
        return
    flags, data = 0, []
    for option in options:
        if option in FLAGS:
            flags |= FLAGS[option]
        elif option not in DEFAULTS:
            data.append(option)
    here = posix.open(".", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        if kind == "overlay" and len(",".join(data)) >= PAGE:
            data = _relative(data)
        _mount(source, target, kind, flags & ~MS_RDONLY if flags & MS_BIND else flags, ",".join(data))
        if flags & MS_BIND and flags & ~(MS_BIND | MS_REC):
            _mount("", target, "", flags | MS_REMOUNT, "")  # a bind mount takes its flags only so
    finally:
        posix.fchdir(here)
        posix.close(here)


def _relative(data: "list[str]") -> "list[str]":
    """With many layers the options are longer than mount(2) takes: said from the folder that has all of them."""
    for index, option in enumerate(data):
        if option.startswith("lowerdir="):
            layers = option.removeprefix("lowerdir=").split(":")
            folder = common_folder(layers)
            if folder:
                posix.chdir(folder)
                short = ":".join(layer.removeprefix(f"{folder}/") for layer in layers)
                return [*data[:index], f"lowerdir={short}", *data[index + 1 :]]
    return data


def common_folder(layers: "list[str]") -> str:
    folder = layers[0].rpartition("/")[0]
    while folder and not all(layer.startswith(f"{folder}/") for layer in layers):
        folder = folder.rpartition("/")[0]
    return folder


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    try:
        mount(source, target, kind, flags, data)
    except OSError as error:
        raise PyruncError("mounting the root file system", target, f"{kind} {source}: {reason(error)}") from error


def unmount_all(root: str) -> None:
    """All that is mounted there, of which there may be several; a root file system that is none is no error."""
    for _ in range(64):
        try:
            umount(root, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (2, 22):  # not there, or no mount
                return
            raise PyruncError("unmounting the root file system", root, reason(error)) from error

"""The folders of images and of logs. Each is opened once, and guarded against what a hostile archive has put there."""

import errno
import posix
import stat

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, make_directories, open_at
from pyrunc.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    mount_setattr,
    open_tree,
)

DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY
PARENT = "parent"  # CRIU's link to the images of an earlier checkpoint
SOCKET = "lazy-pages.socket"  # of CRIU's daemon, where that works in the same folder
INVENTORY = "inventory.img"  # in every image that is complete
WRITTEN = ("stats-dump", "stats-restore", "irmap-cache")  # what CRIU writes beside the log
DESCRIPTORS = "descriptors.json"  # what the standard streams were; runc has the same file


def make(path: str, what: str, bundle: str = "") -> Fd:
    """Open a folder, and make it where it is missing.

    Its last component may not be a symlink: whoever can plant one would decide where logs are written. In the bundle it
    may: the bundle is the engine's, and has the configuration anyway. containerd's `work` is a symlink.
    """
    try:
        make_directories(path, 0o700)
        is_bundles = bundle and _is_same(path.rpartition("/")[0] or "/", bundle)
        return open_at(None, path, DIRECTORY | (0 if is_bundles else posix.O_NOFOLLOW))
    except OSError as error:
        raise PyruncError(what, path, reason(error)) from error


def _is_same(one: str, other: str) -> bool:
    a, b = posix.stat(one), posix.stat(other)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def open_images(path: str) -> Fd:
    """Open the folder of an existing checkpoint."""
    try:
        return open_at(None, path, DIRECTORY)
    except OSError as error:
        raise PyruncError("--image-path", path, reason(error)) from error


def guarded(folder: Fd, links: bool = False) -> Fd:
    """The same folder as a mount of its own, in which no symlink is followed and no device opened.

    So a symlink that is planted later does no harm either. MOUNT_ATTR_NOSYMFOLLOW, Linux 5.14. Before that there is
    only what `verify` has looked at.

    Args:
        links: whether the folder has a link to the images of an earlier checkpoint, which CRIU has to follow.
    """
    tree = open_tree(folder)
    flags = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID
    try:
        mount_setattr(tree, set=flags | (0 if links else MOUNT_ATTR_NOSYMFOLLOW))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount_setattr(tree, set=flags)
    return tree


def make_way(folder: Fd, log: str) -> None:
    """Remove the files that CRIU will write: through a hard link it would write to somebody else's file, and at a fifo
    it would wait. A file that can't be removed is left: CRIU can't open it either."""
    for name in (log, *WRITTEN):
        try:
            posix.unlink(name, dir_fd=folder.number)
        except OSError:
            pass


def verify_target(folder: Fd, path: str) -> None:
    """Look at the folder that a checkpoint is written to. Images in it will be overwritten. Nothing is removed: this
    might not be the folder that was meant."""
    for name in posix.listdir(folder.number):
        status = posix.stat(name, dir_fd=folder.number, follow_symlinks=False)
        if name.endswith(".img") and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
            what = "has other names" if stat.S_ISREG(status.st_mode) else "is no file"
            raise PyruncError("--image-path", f"{path}/{name}", f"it {what}, and would be written to")


def files_of(folder: Fd) -> "dict[str, Fd]":
    """Name -> a detached mount of the file."""
    found = {}
    for name in posix.listdir(folder.number):
        if stat.S_ISREG(posix.stat(name, dir_fd=folder.number, follow_symlinks=False).st_mode):
            with open_at(folder, name, posix.O_PATH | posix.O_NOFOLLOW) as file:
                found[name] = open_tree(file)
    return found


def verify(folder: Fd, path: str) -> "dict[str, Fd]":
    """Refuse images that are anything but files: somebody else may have made them. CVE-2026-53489

    CRIU would follow a symlink: it truncates its log, for one, and pages can hold any bytes. It would wait at a fifo.

    Returns name -> folder of the earlier checkpoints that these images refer to. All of them lie beside this one.
    """
    if INVENTORY not in posix.listdir(folder.number):
        raise PyruncError("restoring", path, f"it is no checkpoint, or not a whole one: it has no {INVENTORY}")
    parents: dict[str, Fd] = {}
    current, place = folder, path
    while (link := _verify_one(current, place)) is not None:
        name, parent = _follow(current, place, link)
        if name in parents:
            raise PyruncError("restoring", f"{place}/{PARENT}", "its parents go in a circle")
        current, place, parents[name] = parent, f"{path}/../{name}", parent
    return parents


def _verify_one(folder: Fd, path: str) -> "str | None":
    """Look at one folder. Returns its link to an earlier checkpoint, if it has one."""
    link = None
    for name in posix.listdir(folder.number):
        mode = posix.stat(name, dir_fd=folder.number, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode) and name == PARENT:
            link = posix.readlink(name, dir_fd=folder.number)
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISSOCK(mode) and name == SOCKET)):
            what = "a symlink" if stat.S_ISLNK(mode) else "no file"
            raise PyruncError("restoring", f"{path}/{name}", f"it is {what}, which no checkpoint of CRIU's has")
    return link


def _follow(folder: Fd, path: str, link: str) -> "tuple[str, Fd]":
    """The name and the folder of the parent: a real folder beside this one. Only we may be able to change either of
    them meanwhile. Through anything else CRIU would read the memory of somebody else's container."""
    parts = [part for part in link.split("/") if part not in ("", ".")]
    if link.startswith("/") or len(parts) != 2 or parts[0] != ".." or parts[1] == "..":
        cause = f"it leads to {link}, and not to a folder beside this one"
        raise PyruncError("restoring", f"{path}/{PARENT}", cause, "move the earlier checkpoint there")
    try:
        parent = open_at(folder, link, DIRECTORY | posix.O_NOFOLLOW)
    except OSError as error:
        raise PyruncError("restoring", f"{path}/{PARENT}", f"{link}: {error.strerror}") from error
    for each, name in ((folder, path), (parent, f"{path}/{link}")):
        status = posix.fstat(each.number)
        if status.st_uid != posix.geteuid() or status.st_mode & 0o022:
            raise PyruncError("restoring", name, "others than its owner, or another user, can change what it links to")
    return parts[1], parent


def verify_parent(folder: Fd, parent: str) -> None:
    """Check --parent-path when a checkpoint is made: by runc's rules, and by those of `verify` at restore."""
    if parent.startswith("/"):
        raise PyruncError("--parent-path", parent, "must be relative", "it is looked up from --image-path")
    try:
        open_at(folder, parent, DIRECTORY).close()
    except OSError as error:
        raise PyruncError("invalid --parent-path:", parent, reason(error)) from error
    try:
        _follow(folder, "--image-path", parent)
    except PyruncError as error:
        raise PyruncError("invalid --parent-path:", parent, error.cause, "restore wants it so") from error

"""What can be opened without waiting for a server: by who must not wait, such as the shim's loop."""

import errno
import posix

from pyrunc.linux.fd import Fd, read_file
from pyrunc.linux.mount import AT_FDCWD
from pyrunc.linux.path import RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

# Of a server's, such as NFS and FUSE, even fstat(2) may wait.
WITHOUT_SERVER = {
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "nsfs", "overlay", "proc", "ramfs", "rootfs",
    "squashfs", "sysfs", "tmpfs", "xfs", "zfs",
}  # fmt: skip
_kinds: "dict[int, str]" = {}  # by the kernel's number for a mount: of those that were asked for and stay


def folder(path: str) -> "Fd | None":
    """An O_PATH descriptor; None: to open it may mean to wait, or fail. What the kernel has looked up before it looks
    up without asking (RESOLVE_CACHED, Linux 5.12)."""
    return _opened(Fd(AT_FDCWD), path, RESOLVE_CACHED)


def is_in(parent: Fd, name: str) -> bool:
    """The same, of what is in such a folder itself."""
    found = _opened(parent, name, RESOLVE_CACHED | RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    if found is None:
        return False
    found.close()
    return True


def step(parent: Fd, name: str) -> "Fd | None":
    """An O_PATH descriptor of what is in a folder that is nobody's server's, of a link itself. A mount on it is that
    which the kernel knows without asking."""
    within = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    for resolve in (within | RESOLVE_NO_XDEV, within | RESOLVE_CACHED):
        try:
            found = openat2(parent, name, posix.O_PATH | posix.O_NOFOLLOW, resolve=resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:
                continue
            return None
        return found if kind(found) in WITHOUT_SERVER else None
    return None


def _opened(parent: Fd, path: str, resolve: int) -> "Fd | None":
    try:
        found = openat2(parent, path, posix.O_PATH, resolve=resolve)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    if kind(found) in WITHOUT_SERVER:
        return found
    found.close()
    return None


def kind(fd: Fd) -> str:
    """Of its file system: asked of /proc, as fstatfs(2) would ask the server."""
    lines = read_file(f"/proc/self/fdinfo/{fd.number}").decode().splitlines()
    number = int(next(line for line in lines if line.startswith("mnt_id:"))[7:])
    if number in _kinds:
        return _kinds[number]
    found = _kind_of_mount(number)
    if found not in ("", "nsfs"):
        _kinds[number] = found
    return found


def _kind_of_mount(number: int) -> str:
    """The kernel gives a number again once its mount is gone. So no more is kept than the mounts that bundles are on,
    and no namespace's, which comes and goes with its pod: the next with its number could be a server's."""
    for line in read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        first, _, rest = line.partition(" - ")
        if int(first.partition(" ")[0]) == number:
            return rest.partition(" ")[0]
    return ""

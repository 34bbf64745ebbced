"""tmpcopyup: a new tmpfs starts with what the image has in its place. config.md#linux-mount-options"""

import errno
import posix
from _stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

from pyrunc.linux.fd import FLAGS, Fd

READ = posix.O_RDONLY | posix.O_NOFOLLOW | FLAGS
CHUNK = 1 << 20


class Level:
    """A folder that is being copied: its name, what it is by stat(2), so that the way back is known, and which
    entries are left.
    """

    __slots__ = ("left", "name", "status")

    def __init__(self, name: str, folder: Fd) -> None:
        self.name = name
        self.status = posix.fstat(folder.number)
        self.left = posix.listdir(folder.number)


def copy(source: Fd, target: Fd) -> None:
    """Copy what is in a directory, by descriptors only: no symlink leads out of either side.

    The tree may be deeper than a path may be long, and than we may have descriptors or nested calls. So one descriptor
    on each side goes down, and up again by `..`. When it goes up it must arrive where it came from: a folder that was
    moved meanwhile could lead to the host.
    """
    old, new = _enter(source, "."), _enter(target, ".")
    levels = [Level(".", old)]
    while levels:
        level = levels[-1]
        if level.left:
            name = level.left.pop()
            if _copy_one(name, old, new):
                old, new = _enter(old, name), _enter(new, name)
                levels.append(Level(name, old))
            continue
        levels.pop()
        if levels:
            _take_over(level.status, new)
            old, new = _back(old, level.name, levels[-1].status), _enter(new, "..")


def _enter(folder: Fd, name: str) -> Fd:
    return Fd(posix.open(name, READ | posix.O_DIRECTORY, dir_fd=folder.number), name)


def _back(folder: Fd, name: str, expected: "posix.stat_result") -> Fd:
    parent = _enter(folder, "..")
    status = posix.fstat(parent.number)
    if (status.st_dev, status.st_ino) != (expected.st_dev, expected.st_ino):
        raise OSError(errno.ELOOP, "the folder was moved while it was copied", name)
    return parent


def _copy_one(name: str, source: Fd, target: Fd) -> bool:
    """Copy one entry. Returns whether it is a folder, which is made and still to be filled."""
    status = posix.stat(name, dir_fd=source.number, follow_symlinks=False)
    kind = S_IFMT(status.st_mode)
    if kind == S_IFDIR:
        posix.mkdir(name, 0o700, dir_fd=target.number)
        return True
    if kind == S_IFLNK:
        posix.symlink(posix.readlink(name, dir_fd=source.number), name, dir_fd=target.number)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=target.number, follow_symlinks=False)
    elif kind == S_IFREG:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | FLAGS
        with (
            Fd(posix.open(name, READ | posix.O_NONBLOCK, dir_fd=source.number), name) as old,
            Fd(posix.open(name, flags, 0o600, dir_fd=target.number), name) as new,
        ):
            while posix.sendfile(new.number, old.number, None, CHUNK):
                pass
            _take_over(posix.fstat(old.number), new)
    else:
        posix.mknod(name, status.st_mode, status.st_rdev, dir_fd=target.number)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=target.number, follow_symlinks=False)
        posix.chmod(name, status.st_mode & 0o7777, dir_fd=target.number)  # the umask applies to mknod(2)
    return False


def _take_over(status: "posix.stat_result", made: Fd) -> None:
    posix.chown(made.number, status.st_uid, status.st_gid)
    posix.chmod(made.number, status.st_mode & 0o7777)  # after chown(2), which clears set-id bits

"""tmpcopyup: a new tmpfs starts with what the image has in its place. config.md#linux-mount-options"""

import posix

from pyrunc.linux.fd import FLAGS, Fd
from pyrunc.linux.path import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG

READ = posix.O_RDONLY | posix.O_NOFOLLOW | FLAGS
CHUNK = 1 << 20


def copy(source: Fd, target: Fd) -> None:
    """Copy a tree between two directories, by descriptors only: neither side is left by a symlink."""
    with (
        Fd(posix.open(".", READ | posix.O_DIRECTORY, dir_fd=source.number), source.name) as old,
        Fd(posix.open(".", READ | posix.O_DIRECTORY, dir_fd=target.number), target.name) as new,
    ):
        for name in posix.listdir(old.number):
            _copy_one(name, old, new)
        _copy_owner(old.number, new.number)


def _copy_one(name: str, source: Fd, target: Fd) -> None:
    status = posix.stat(name, dir_fd=source.number, follow_symlinks=False)
    kind = status.st_mode & S_IFMT
    if kind == S_IFLNK:
        posix.symlink(posix.readlink(name, dir_fd=source.number), name, dir_fd=target.number)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=target.number, follow_symlinks=False)
    elif kind == S_IFDIR:
        posix.mkdir(name, 0o700, dir_fd=target.number)
        with (
            Fd(posix.open(name, READ | posix.O_DIRECTORY, dir_fd=source.number), name) as below,
            Fd(posix.open(name, READ | posix.O_DIRECTORY, dir_fd=target.number), name) as made,
        ):
            copy(below, made)
    elif kind == S_IFREG:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | FLAGS
        with (
            Fd(posix.open(name, READ | posix.O_NONBLOCK, dir_fd=source.number), name) as old,
            Fd(posix.open(name, flags, 0o600, dir_fd=target.number), name) as new,
        ):
            while posix.sendfile(new.number, old.number, None, CHUNK):
                pass
            _copy_owner(old.number, new.number)
    else:
        posix.mknod(name, status.st_mode, status.st_rdev, dir_fd=target.number)
        posix.chown(name, status.st_uid, status.st_gid, dir_fd=target.number, follow_symlinks=False)


def _copy_owner(source: int, target: int) -> None:
    status = posix.fstat(source)
    posix.chown(target, status.st_uid, status.st_gid)
    posix.chmod(target, status.st_mode & 0o7777)  # after chown(2), which clears set-id bits

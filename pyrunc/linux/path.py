"""Paths inside a root file system: resolved once, by the kernel, and from then on a file descriptor.

openat2(2), Linux 5.6. There is no fallback for older kernels: a walk in user space can be raced.
"""

import errno
import posix
from _stat import S_IFMT

from pyrunc.linux import encoded, kernel_error
from pyrunc.linux._kernel import lib
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import PROC_SUPER_MAGIC, filesystem_type

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
SAME_FILE_SYSTEM = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
MAX_SYMLINKS = 40


def openat2(directory: Fd, path: str, flags: int, mode: int = 0, resolve: int = IN_ROOT) -> Fd:
    """Open `path` inside `directory`. No `..`, symlink or magic link leads out of it."""
    flags |= (
        posix.O_CLOEXEC if flags & posix.O_PATH else posix.O_CLOEXEC | posix.O_NOCTTY
    )  # openat2 refuses flags that O_PATH ignores
    number = lib.sys_openat2(directory.number, encoded(path), flags, mode, resolve)
    if number < 0:
        raise kernel_error("openat2", path)
    return Fd(number, path)


def resolve(root: Fd, path: str, *, symlinks: bool = True, directory: bool = False) -> Fd:
    """An O_PATH descriptor of `path` inside `root`. `symlinks=False`: none in any component (ELOOP)."""
    flags = posix.O_PATH | (posix.O_DIRECTORY if directory else 0) | (0 if symlinks else posix.O_NOFOLLOW)
    return openat2(root, path or ".", flags, resolve=IN_ROOT | (0 if symlinks else RESOLVE_NO_SYMLINKS))


def ensure_directory(root: Fd, path: str, mode: int = 0o755) -> Fd:
    """`resolve`, with the missing directories made. See `ensure`."""
    return _ensure(root, path, mode, file=False)


def ensure_file(root: Fd, path: str, mode: int = 0o644) -> Fd:
    """`resolve`, with an empty file made when nothing is there, and directories for it."""
    return _ensure(root, path, mode, file=True)


def _ensure(root: Fd, path: str, mode: int, file: bool) -> Fd:
    """Resolve `path`. What is missing at its end is made, component by component, each by the fd of its parent.

    A dangling symlink is followed inside the root, as other runtimes do. mkdirat(2) and O_EXCL never follow one, so
    nothing can be made outside the root, however the tree is moved meanwhile (CVE-2024-45310).
    """
    try:
        return resolve(root, path)
    except FileNotFoundError:
        pass
    done: list[str] = []
    todo = [part for part in path.split("/") if part not in ("", ".")]
    links = 0
    while todo:
        name = todo.pop(0)
        if name == "..":
            done = done[:-1]
            continue
        try:
            resolve(root, "/".join([*done, name]), directory=bool(todo)).close()
        except FileNotFoundError:
            with resolve(root, "/".join(done), directory=True) as parent:
                if filesystem_type(parent) == PROC_SUPER_MAGIC:
                    raise  # nothing can be made there, and a link there may be one of our own descriptors
                target = symlink_target(parent, name)
                if target is not None:
                    links += 1
                    if links > MAX_SYMLINKS:
                        raise OSError(errno.ELOOP, posix.strerror(errno.ELOOP), path) from None
                    done = [] if target.startswith("/") else done
                    todo = [part for part in target.split("/") if part not in ("", ".")] + todo
                    continue
                _make(parent, name, mode if not todo else 0o755, file and not todo)
        done.append(name)
    return resolve(root, "/".join(done))


def folder_below(top: Fd, path: str, *, make: bool) -> Fd:
    """A folder below `top`, by no symlink and on the same mount: what somebody else can write to is never reached."""
    here = Fd(posix.dup(top.number), top.name)
    posix.set_inheritable(here.number, False)
    for name in path.split("/"):
        if not name:
            continue
        if make:
            _make(here, name, 0o755, file=False)
        try:
            here = openat2(here, name, posix.O_PATH | posix.O_DIRECTORY, resolve=SAME_FILE_SYSTEM)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise OSError(error.errno, "a symlink or another mount is in the way", path) from error
            raise
    return here


def symlink_target(parent: Fd, name: str) -> "str | None":
    try:
        return posix.readlink(name, dir_fd=parent.number)
    except OSError:
        return None  # not there, or not a symlink


def _make(parent: Fd, name: str, mode: int, file: bool) -> None:
    try:
        if file:
            flags = posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC | posix.O_WRONLY
            posix.close(posix.open(name, flags, mode, dir_fd=parent.number))
        else:
            posix.mkdir(name, mode, dir_fd=parent.number)
    except FileExistsError:
        pass  # somebody else has made it; the next resolve finds out what it is


def file_type(fd: Fd) -> int:
    """S_IFDIR, S_IFREG, … of an open file."""
    return S_IFMT(posix.fstat(fd.number).st_mode)

"""Compiled filters, by content, under the state root: to read one saves 25 ms of libseccomp.

The name of an entry is a hash of what the program depends on: the profile, the machine, the version of our compiler.
The entry also names the libseccomp that made it, by path, size, time and inode. Another libseccomp compiles it anew.
Only the owner of the state root can write there. An entry that is not his, not whole or not private is ignored and
replaced. There are at most MOST entries: a new one takes the place of the oldest.
"""

import marshal
import posix
from _blake2 import blake2s

from pyrunc.linux.fd import Fd, open_at, read_all, replace_file, unlink_quietly
from pyrunc.linux.process import SECCOMP_FILTER_FLAG_NEW_LISTENER
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Seccomp

DIRECTORY = ":seccomp"  # no container's: an ID has no colon
MOST = 64  # some kilobytes each. A host has few profiles, but somebody may make one for each container
VERSION = 2  # to be raised when profile.compile makes something else of a profile
FILTER = ("defaultAction", "defaultErrnoRet", "architectures", "syscalls")
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # for all threads of the process: it has one
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
DEFAULT_FLAGS = ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]  # where the member is absent, as runc and crun have it


def program(profile: "Seccomp", root: Fd) -> "tuple[bytes, int]":
    """The BPF program of a profile, and the flags for seccomp(2).

    Args:
        root: the directory of the state root.
    """
    flags = 0
    names = profile.get("flags")
    for name in DEFAULT_FLAGS if names is None else names:
        flags |= FLAGS[name]
    if any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or []):
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
    else:
        flags &= ~FLAGS[
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
        ]  # it is about waiting for a listener: without one, EINVAL
    key = key_of(profile)
    code = _load(root, key)
    if code is None:
        from pyrunc.seccomp import profile as compiler

        code = compiler.compile(profile)
        _save(root, key, code, compiler.library())
    return code, flags


def key_of(profile: "Seccomp") -> str:
    relevant = {name: profile.get(name) for name in FILTER}
    text = dumps([VERSION, posix.uname().machine, relevant])
    digest: str = blake2s(text.encode()).hexdigest()
    return digest


def identity(library: str) -> "tuple[str, int, int, int, int]":
    """What tells one libseccomp from another: of a file its path, size, time, device and inode; of one that is part of
    the program its name (profile.library)."""
    if not library.startswith("/"):
        return (library, 0, 0, 0, 0)
    status = posix.stat(library)
    return (library, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


def _load(root: Fd, key: str) -> "bytes | None":
    try:
        with _open_directory(root) as directory:
            flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK  # a fifo of that name must not hold us
            with open_at(directory, key, flags) as file:
                if not _is_ours(file, 0o100600):
                    return None
                data = read_all(file)
        if data[:32] != _checksum(key, data[32:]):
            return None
        made_by, code = marshal.loads(data[32:])
        return code if identity(made_by[0]) == made_by else None
    except (OSError, ValueError, EOFError, TypeError, IndexError):
        return None  # there is none, or it is cut short, or its library is gone


def _open_directory(root: Fd) -> Fd:
    directory = open_at(root, DIRECTORY, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW)
    if not _is_ours(directory, 0o040700):
        raise PermissionError(1, "is not a private folder of ours", DIRECTORY)
    return directory


def _is_ours(file: Fd, mode: int) -> bool:
    """Whether nobody else can have written there: it is ours, of the right kind, and closed to others."""
    status = posix.fstat(file.number)
    return status.st_uid == posix.geteuid() and status.st_mode & 0o177777 == mode


def _checksum(key: str, data: bytes) -> bytes:
    """The key is part of it: so an entry under another entry's name is found to be wrong, as one that is cut short."""
    digest: bytes = blake2s(key.encode() + data).digest()
    return digest


def _save(root: Fd, key: str, code: bytes, library: str) -> None:
    """Keep a program. Failures are ignored: without the entry the next container takes longer, and that is all."""
    try:
        data = marshal.dumps((identity(library), code))  # it may have been replaced since it was loaded
        try:
            posix.mkdir(DIRECTORY, 0o700, dir_fd=root.number)
        except FileExistsError:
            pass
        with _open_directory(root) as directory:
            replace_file(directory, key, _checksum(key, data) + data)
            _prune(directory)
    except OSError:
        pass


def _prune(directory: Fd) -> None:
    """Remove all but the newest. This also removes the files of writers that were killed before they renamed them."""
    names = posix.listdir(directory.number)
    if len(names) > MOST:
        names.sort(key=lambda name: posix.stat(name, dir_fd=directory.number, follow_symlinks=False).st_mtime_ns)
        for name in names[:-MOST]:
            unlink_quietly(directory, name)

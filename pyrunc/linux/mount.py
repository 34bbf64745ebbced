"""Mounts made detached and attached by file descriptor: the mount API of Linux 5.2, mount_setattr of 5.12."""

import errno
import posix
from _stat import S_ISDIR

from pyrunc.linux import encoded, kernel_error
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.fd import Fd, read_file

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
MOVE_MOUNT_EMPTY_BOTH = 0x04 | 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

MS_REC = 1 << 14
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

FSCONFIG_MOST = 255  # bytes of a name or a value

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP2_SUPER_MAGIC = 0x63677270
PIPEFS_MAGIC = 0x50495045


def open_tree(source: "Fd | str", recursive: bool = False, clone: bool = True, follow: bool = True) -> Fd:
    """A detached copy of the mount at `source` (a path of the host, or an fd). open_tree(2), Linux 5.2."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive else 0)
    flags |= 0 if follow else AT_SYMLINK_NOFOLLOW
    if isinstance(source, Fd):
        number = lib.sys_open_tree(source.number, b"", flags | AT_EMPTY_PATH)
        name = source.name
    else:
        number = lib.sys_open_tree(AT_FDCWD, encoded(source), flags)
        name = source
    if number < 0:
        raise kernel_error("open_tree", name)
    return Fd(number, name)


def move_mount(mount: Fd, target: Fd) -> None:
    """Attach a detached mount on top of `target`. move_mount(2), Linux 5.2.

    Both ends are file descriptors: no path is looked up, so nothing can be swapped under us (CVE-2021-30465).

    The kernel answers EINVAL when a directory is attached to a file, or a file to a directory. mount(2) answers
    ENOTDIR, and so does this.
    """
    if lib.sys_move_mount(mount.number, b"", target.number, b"", MOVE_MOUNT_EMPTY_BOTH) < 0:
        error = kernel_error("move_mount", target.name)
        if error.errno == errno.EINVAL and _is_directory(mount) != _is_directory(target):
            error = kernel_error("move_mount", target.name, errno.ENOTDIR)
        raise error


def _is_directory(fd: Fd) -> bool:
    return S_ISDIR(posix.fstat(fd.number).st_mode)


def mount_setattr(
    mount: Fd,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns: int = -1,
) -> None:
    """Change the attributes of a mount, or of a whole tree. mount_setattr(2), Linux 5.12."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    if lib.sys_mount_setattr(mount.number, b"", flags, set, clear, propagation, userns) < 0:
        raise kernel_error("mount_setattr", mount.name)


def new_filesystem(
    kind: str, source: str, options: "list[tuple[str, str | None]]", attributes: int = 0, name: str = ""
) -> Fd:
    """A new, detached mount of the file system `kind`. fsopen, fsconfig, fsmount(2), Linux 5.2.

    Args:
        options: (key, value) for `key=value`, (key, None) for a flag.
        attributes: MOUNT_ATTR_* of the mount.
        name: what errors call it.
    """
    name = name or kind
    number = lib.sys_fsopen(kind.encode(), FSOPEN_CLOEXEC)
    if number < 0:
        raise kernel_error(f"fsopen {kind}", name)
    with Fd(number, name) as context:
        if source:
            fsconfig(context, FSCONFIG_SET_STRING, "source", source)
        for key, value in options:
            fsconfig(context, FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING, key, value)
        fsconfig(context, FSCONFIG_CMD_CREATE)
        mount = lib.sys_fsmount(context.number, FSMOUNT_CLOEXEC, attributes)
        if mount < 0:
            raise kernel_error(f"fsmount {kind}", name)
        return Fd(mount, name)


# Flags of a file system: as mount(2) has them. fsconfig(2) has a word for all but the last two.
MS_OF = {
    "ro": 1, "sync": 16, "mand": 64, "dirsync": 128, "async": 0, "nomand": 0, "lazytime": 1 << 25, "nolazytime": 0,
    "silent": 1 << 15, "iversion": 1 << 23,
}  # fmt: skip
ONLY_MOUNT_KNOWS = ("silent", "iversion")
SCRATCH = "/proc"  # any directory of the host's that everyone may enter


def new_filesystem_by_mount(
    kind: str, source: str, flags: "list[str]", options: "list[tuple[str, str | None]]", attributes: int, name: str
) -> Fd:
    """The same as new_filesystem(), for flags that only mount(2) knows.

    It is mounted on a directory of the host's, cloned, and unmounted again. This happens in our own mount namespace,
    where nobody else is. That directory is made private first: with a shared root (rootfsPropagation) the host's own
    would be covered too.
    """
    data = _joined(options, name)
    bits = 0
    for flag in flags:
        bits |= MS_OF[flag]
    set_propagation(MS_PRIVATE, SCRATCH)
    if lib.sys_mount(encoded(source) or ffi.NULL, SCRATCH.encode(), encoded(kind), bits, data) < 0:
        raise kernel_error(f"mount {kind}", name)
    try:
        mount = open_tree(SCRATCH)
    finally:
        umount_detach(SCRATCH)
    mount_setattr(mount, set=attributes)
    return mount


def fits_fsconfig(source: str, options: "list[tuple[str, str | None]]") -> bool:
    """Whether fsconfig(2) takes these: an overlay of many layers has longer ones."""
    words = [source, *(word for option in options for word in option if word)]
    return all(len(encoded(word)) <= FSCONFIG_MOST for word in words)


def page_size() -> int:
    """How much of its options mount(2) reads, with the zero at their end. It ignores the rest silently."""
    return posix.sysconf("SC_PAGESIZE")


def _joined(options: "list[tuple[str, str | None]]", name: str) -> bytes:
    """Options as mount(2) takes them: with commas between them. The labels of SELinux may have commas of their own,
    in quotes.
    """
    words = []
    for key, value in options:
        quoted = value and "," in value and key.endswith("context") and not value.startswith('"')
        words.append(key if value is None else f'{key}="{value}"' if quoted else f"{key}={value}")
    return in_a_page(",".join(words), name)


def in_a_page(options: str, name: str) -> bytes:
    data = encoded(options)
    if len(data) >= page_size():
        raise OSError(errno.E2BIG, f"the options have {len(data)} bytes, and mount(2) takes {page_size() - 1}", name)
    return data


def reconfigure(mount: Fd, options: "list[tuple[str, str | None]]") -> None:
    """Change the options of a mounted file system. fspick(2), Linux 5.2."""
    number = lib.sys_fspick(mount.number, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    if number < 0:
        raise kernel_error("fspick", mount.name)
    with Fd(number, mount.name) as context:
        for key, value in options:
            fsconfig(context, FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING, key, value)
        fsconfig(context, FSCONFIG_CMD_RECONFIGURE)


def fsconfig(context: Fd, command: int, key: "str | None" = None, value: "str | None" = None) -> None:
    key_bytes = ffi.NULL if key is None else encoded(key)
    value_bytes = ffi.NULL if value is None else encoded(value)
    if lib.sys_fsconfig(context.number, command, key_bytes, value_bytes, 0) < 0:
        option = f"{key or 'create'}{'' if value is None else '=' + value}"
        error = kernel_error(f"fsconfig {option}", context.name)
        raise _with_message_of(context, error)


def _with_message_of(context: Fd, error: OSError) -> OSError:
    """The kernel explains some refusals in the context's own log: 'e tmpfs: Bad value for 'size''."""
    try:
        text = posix.read(context.number, 512).decode("utf-8", "replace").strip()
    except OSError:
        return error
    return OSError(error.errno, f"{error.strerror} ({text[2:]})", error.filename)


def set_propagation(flags: int, path: str = "/") -> None:
    """mount(2) with only MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, and MS_REC."""
    if lib.sys_mount(ffi.NULL, path.encode(), ffi.NULL, flags, ffi.NULL) < 0:
        raise kernel_error("mount", path)


def propagate_as(mount: Fd, propagation: "list[int]") -> None:
    """The same for one mount by its descriptor, one flag after the other. mount_setattr(2), Linux 5.12."""
    for flags in propagation:
        mount_setattr(mount, propagation=flags & ~MS_REC, recursive=bool(flags & MS_REC))


def pivot_root_here() -> None:
    """pivot_root(".", "."): the old root ends up on top of the new one, with no directory for it needed."""
    if lib.sys_pivot_root(b".", b".") < 0:
        raise kernel_error("pivot_root", ".")


def umount_detach(path: str) -> None:
    umount(path, MNT_DETACH)


def umount(path: str, flags: int) -> None:
    if lib.sys_umount2(encoded(path), flags) < 0:
        raise kernel_error("umount2", path)


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2) by paths of the host, for what an engine asks for there. The options are as the engine writes them."""
    options = in_a_page(data, target)
    if lib.sys_mount(encoded(source), encoded(target), encoded(kind), flags, options) < 0:
        raise kernel_error(f"mount {kind}", target)


def mount_table() -> "list[tuple[str, str, str, str]]":
    """The mounts of our mount namespace. Of each: its root in its file system, its place, its type, and its file
    system's options. proc_pid_mountinfo(5)
    """
    found = []
    for line in read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        root, place = fields.split(" ")[3:5]
        kind, _, options = rest.split(" ", 2)
        found.append((unescaped(root), unescaped(place), kind, options))
    return found


def unescaped(text: str) -> str:
    """A field of mountinfo, where \\040 is a space. By hand: a codec would be looked up, perhaps in a container."""
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def filesystem_type(fd: Fd) -> int:
    """The magic number of the file system that `fd` is on. fstatfs(2)."""
    kind: int = lib.sys_fstatfs_type(fd.number)
    if kind < 0:
        raise kernel_error("fstatfs", fd.name)
    return kind

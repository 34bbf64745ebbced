"""The entries of `mounts`, each made detached, complete with its options, and only then attached. config.md#mounts"""

import _stat
import errno
import posix

from pyrunc.errors import StepError, reason
from pyrunc.init import cgroup_mounts, copy_up, labels
from pyrunc.init.context import Context, step
from pyrunc.init.placing import propagate, put
from pyrunc.linux import path
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import (
    DEVPTS_SUPER_MAGIC,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    ONLY_MOUNT_KNOWS,
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    filesystem_type,
    fits_fsconfig,
    mount_setattr,
    new_filesystem,
    new_filesystem_by_mount,
    open_tree,
    reconfigure,
)
from pyrunc.linux.mount_options import MOUNT_8, NOT_FOR_BINDS, SAFER_WRITES, MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Mount

PROC_ROOT_INODE = 1
NOBODY = "65534"  # in a user namespace: an owner that has no number there
NOT_MAPPED = ("proc", "sysfs", "cgroup", "cgroup2")
BIND_FLAGS = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW
ATIME_FLAGS = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME
# Files in /proc that may be mounted over: lxcfs and CRIU need it. No label or sysctl is written to any of them
# (CVE-2019-16884). The list is runc's.
PROC_OVERMOUNTS = (
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
    "/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
)  # fmt: skip


@step("mounting")
def mount_all(context: Context) -> None:
    """In the order of config.json: a source may lie in an earlier mount, and a later mount may cover an earlier
    one.
    """
    for index, entry in enumerate(context.config.get("mounts", ())):
        try:
            _mount_one(context, index, entry)
        except StepError:
            raise
        except (OSError, ValueError, OverflowError) as error:
            subject = f'"{entry.get("source") or ""}" to rootfs at "{entry["destination"]}"'
            raise StepError("error mounting", subject, reason(error)) from error


def _mount_one(context: Context, index: int, entry: "Mount") -> None:
    options = MountOptions(entry.get("options") or [])
    kind = entry.get("type") or ""
    if entry["destination"].startswith(
        context.rootfs + "/"
    ):  # a path of the host's that leads into the root: runc accepts it
        entry = {**entry, "destination": entry["destination"][len(context.rootfs) :]}
    bound = options.bind or kind == "bind"
    if options.copy_up and (bound or options.remount or kind != "tmpfs"):
        raise ValueError("tmpcopyup is for a new tmpfs alone")
    if index in context.idmaps and (options.remount or (not bound and kind in NOT_MAPPED)):
        raise ValueError(f"a mount of type {kind}{', or a remount,' if options.remount else ''} has no mapped IDs")
    if options.remount:
        _remount(context, entry, options)
    elif bound:
        _bind(context, index, entry, options)
    elif kind in ("cgroup", "cgroup2"):
        forced = (context.config.get("annotations") or {}).get(cgroup_mounts.FORCED, "")
        named = bool(forced) and normal(forced) == normal(entry["destination"])
        cgroup_mounts.mount_cgroups(context, entry, options, named)
    elif kind in ("proc", "sysfs"):
        _kernel_filesystem(context, entry, options)
    else:
        _filesystem(context, index, entry, options)


def _bind(context: Context, index: int, entry: "Mount", options: MountOptions) -> None:
    _refuse_or_say(context, entry, options)
    source = entry.get("source") or ""
    if not source:
        raise ValueError("a bind mount needs a source")
    if not source.startswith("/"):
        source = f"{context.bundle}/{source}"
    if options.copy_link and _copy_link(context, source, entry["destination"]):
        return
    tree = _open_source(context, index, source, options)
    _verify_mode(tree, options)
    _set_bind_flags(tree, options)
    if options.target_link:
        target = _target_itself(context, entry["destination"])
    else:
        target = _target(context, entry, directory=path.file_type(tree) == _stat.S_IFDIR, source=tree)
    put(context, tree, target, options, normal(entry["destination"]))


def _refuse_or_say(context: Context, entry: "Mount", options: MountOptions) -> None:
    """A bind mount has the file system of its source, with that one's options.

    An option that asks for another owner, or to show less, is refused: the container would otherwise get what it
    should not. Other options that have no effect are told in a warning.
    """
    for key, _ in options.data:
        if key in NOT_FOR_BINDS or key.startswith(MOUNT_8):
            raise ValueError(f"a bind mount has no option {key}: its owners are those of its source, idmap maps them")
        if "," in key:
            raise ValueError(f'"{key}" is one option, and none that is known: each is a text of its own')
    for option in entry.get("options") or []:
        if option in ("rsync", "rdirsync", "rmand"):
            raise ValueError(f"{option}: this is of file systems, and a bind mount has those of its source")
    if options.copy_link and (options.source_link or options.target_link):
        raise ValueError("copy-symlink makes a symlink: there is nothing to mount by src-nofollow and dest-nofollow")
    ignored = [key if value is None else f"{key}={value}" for key, value in options.data]
    ignored += [flag for flag in options.superblock if flag in SAFER_WRITES]
    if ignored:
        words = ", ".join(ignored)
        context.warn(f"mount {entry['destination']}: ignored, as a bind mount has no options of a file system: {words}")


def _verify_mode(tree: Fd, options: MountOptions) -> None:
    """A bind mount can't have `mode=`. It is refused where the source allows more than is asked for."""
    for key, value in options.data:
        if key == "mode":
            if not value or value.strip("01234567"):
                raise ValueError(f"mode={value}: it is an octal number, as chmod(1) takes it")
            has = posix.fstat(tree.number).st_mode & 0o7777
            if has & ~int(value, 8):
                raise ValueError(f"a bind mount has no option mode: its source has {has:o}, which is more than {value}")


def _copy_link(context: Context, source: str, destination: str) -> bool:
    """crun's copy-symlink: a source that is a symlink is copied and not followed. Returns whether it was a symlink."""
    root = context.root
    assert root is not None
    try:
        content = posix.readlink(source)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is: no symlink
            raise
        return False
    parent, _, name = normal(destination).rpartition("/")
    with path.ensure_directory(root, parent) as folder:
        if filesystem_type(folder) == PROC_SUPER_MAGIC:
            raise ValueError("nothing can be made inside /proc")
        try:
            posix.symlink(content, name, dir_fd=folder.number)
        except FileExistsError:
            if path.symlink_target(folder, name) != content:
                raise ValueError(f"something is there already, and it is no symlink to {content}") from None
    return True


def _target_itself(context: Context, destination: str) -> Fd:
    """crun's dest-nofollow: the target is what is there, even a symlink."""
    root = context.root
    assert root is not None
    target = path.openat2(root, destination, posix.O_PATH | posix.O_NOFOLLOW)
    if filesystem_type(target) in (PROC_SUPER_MAGIC, SYSFS_MAGIC, DEVPTS_SUPER_MAGIC):
        raise ValueError("nothing is mounted on a file of the kernel's without following it")
    return target


def _set_bind_flags(tree: Fd, options: MountOptions) -> None:
    """A bind without flags keeps those of its source. With any flag it has exactly those that are given, as with
    mount(8) and runc. How atime is kept stays as it is unless a way is named.

    The kernel refuses to clear flags that an outer user namespace has locked (EPERM). They stay, unless config.json
    asks to clear one of them. Symlinks are never locked.
    """
    if not (options.set or options.clear):
        return
    clear = options.clear | ATIME_FLAGS & ~options.set if options.atime else options.clear & ~ATIME_FLAGS
    if options.atime:
        clear |= MOUNT_ATTR__ATIME  # one field, of which a part can't be set
    try:
        mount_setattr(tree, set=options.set, clear=clear | BIND_FLAGS & ~options.set)
    except PermissionError:
        mount_setattr(tree, set=options.set, clear=clear | MOUNT_ATTR_NOSYMFOLLOW & ~options.set)
    options.set = options.clear = 0


def _open_source(context: Context, index: int, source: str, options: MountOptions) -> Fd:
    """The tree of the source, with its IDs mapped where that is asked for.

    Root of a user namespace may have too few rights to look the source up, or to map what the host owns. Then the
    runtime does it, in our mount namespace but with its own rights.
    """
    if not (context.userns and index in context.idmaps):
        try:
            tree = open_tree(source, recursive=options.recursive, follow=not options.source_link)
            if index in context.idmaps:
                map_ids(tree, context.idmaps[index], options)
            return tree
        except PermissionError:
            if not context.userns:
                raise
    return context.ask_for_mount(index)


def map_ids(mount: Fd, namespace: Fd, options: MountOptions) -> None:
    """Map a detached mount to the IDs of a user namespace; `ridmap` maps all below it too. Linux 5.12"""
    mount_setattr(mount, set=MOUNT_ATTR_IDMAP, recursive=options.idmap == "ridmap", userns=namespace.number)


def _remount(context: Context, entry: "Mount", options: MountOptions) -> None:
    """Set other options on what is mounted there already. With `bind` only those of this mount, not those of its
    file system.
    """
    root = context.root
    assert root is not None
    mount = path.resolve(root, entry["destination"])
    data = [(flag, None) for flag in options.superblock] + options.data
    if data and not options.bind:
        reconfigure(mount, data)
    mount_setattr(mount, set=options.set, clear=options.clear)
    if options.all_set or options.all_clear:
        mount_setattr(mount, set=options.all_set, clear=options.all_clear, recursive=True)
    propagate(context, mount, options)


def _kernel_filesystem(context: Context, entry: "Mount", options: MountOptions) -> None:
    """proc and sysfs are mounted only on a real directory. Through a symlink in the image they would be somewhere
    else, and what must be masked would not be (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
    """
    root = context.root
    assert root is not None
    destination = entry["destination"]
    try:
        target = path.resolve(root, destination, symlinks=False, directory=True)
    except FileNotFoundError:
        path.ensure_directory(root, destination).close()
        target = _real_directory(root, destination)
    except OSError as error:
        raise StepError(f"mounting {entry['type']} on", destination, _not_a_directory(error)) from error
    put(context, _new_or_bound(context, entry, options), target, options, normal(destination))


def _new_or_bound(context: Context, entry: "Mount", options: MountOptions) -> Fd:
    """A new file system, or the host's /sys.

    A sysfs shows a network namespace, and only the owner of that may mount it. So a user namespace that shares the
    host's network gets the host's /sys, with everything that is mounted below it, and the options apply to all of
    that. crun does the same.
    """
    try:
        return _new(context, entry, options)
    except PermissionError:
        if entry["type"] != "sysfs" or not context.userns or context.new_network:
            raise
    options.all_set, options.set, options.clear = options.set & BIND_FLAGS, 0, 0  # how atime is kept is locked there
    return open_tree("/sys", recursive=True)


def _real_directory(root: Fd, destination: str) -> Fd:
    try:
        return path.resolve(root, destination, symlinks=False, directory=True)
    except OSError as error:
        raise StepError("mounting on", destination, _not_a_directory(error)) from error


def _not_a_directory(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "the destination is a symlink or no directory; it must be mounted on ordinary directory"
    return reason(error)


def _filesystem(context: Context, index: int, entry: "Mount", options: MountOptions) -> None:
    kind = entry.get("type") or ""
    if not kind:
        raise ValueError("neither a type nor the option bind says what to mount")
    root = context.root
    assert root is not None
    read_only = options.set & MOUNT_ATTR_RDONLY
    there = None
    if kind == "tmpfs":
        if read_only:
            options.set &= ~MOUNT_ATTR_RDONLY  # places for later mounts are made in it
        there = _folder_below(root, entry["destination"])
        if there is not None:
            _inherit(context, there, options)
    target = _target(context, entry, directory=True)
    mount = _new(context, entry, options)
    if kind == "mqueue":
        labels.for_message_queues(context, mount)
    if options.copy_up and there is not None:
        copy_up.copy(target, mount)
    if index in context.idmaps:
        map_ids(mount, context.idmaps[index], options)
    put(context, mount, target, options, normal(entry["destination"]))
    if kind == "tmpfs" and read_only:
        context.read_only_later.append(mount)


def _folder_below(root: Fd, destination: str) -> "posix.stat_result | None":
    try:
        with path.resolve(root, destination, directory=True) as there:
            return posix.fstat(there.number)
    except FileNotFoundError:
        return None


def _inherit(context: Context, there: "posix.stat_result", options: MountOptions) -> None:
    """A tmpfs over a directory of the image gets the mode of that, and with its content also its owner, unless
    config.json says otherwise.
    """
    own = {"mode": f"{there.st_mode & 0o7777:o}"}
    if options.copy_up:
        own |= {"uid": str(there.st_uid), "gid": str(there.st_gid)}
    said = {key for key, _ in options.data}
    for key, value in own.items():
        if key not in said and not (context.userns and value == NOBODY):
            options.data.append((key, value))


def _new(context: Context, entry: "Mount", options: MountOptions) -> Fd:
    kind, source, name = entry["type"], entry.get("source") or "", entry["destination"]
    flags = options.superblock + (["ro"] if options.set & MOUNT_ATTR_RDONLY else [])
    data = options.data + labels.for_mount(context, kind)
    if {*flags} & {*ONLY_MOUNT_KNOWS} or not fits_fsconfig(source, data):
        return new_filesystem_by_mount(kind, source, flags, data, options.set, name)
    return new_filesystem(kind, source, [(flag, None) for flag in flags] + data, options.set, name)


def _target(context: Context, entry: "Mount", directory: bool, source: "Fd | None" = None) -> Fd:
    """The place to mount on: resolved inside the root, made where it is missing, and not inside /proc."""
    root = context.root
    assert root is not None
    destination = entry["destination"]
    target = path.ensure_directory(root, destination) if directory else path.ensure_file(root, destination)
    plain = normal(destination)
    if filesystem_type(target) != PROC_SUPER_MAGIC and plain != "/proc":
        return target
    if plain in PROC_OVERMOUNTS:
        return target
    if plain == "/proc" and source is not None and _is_procfs_root(source):
        return target  # it is another procfs as a whole
    raise StepError(
        "mounting on", destination, "it is inside /proc; only a procfs and single files of it may be replaced"
    )


def _is_procfs_root(source: Fd) -> bool:
    return filesystem_type(source) == PROC_SUPER_MAGIC and posix.fstat(source.number).st_ino == PROC_ROOT_INODE


def normal(destination: str) -> str:
    """The absolute path without `.`, `..` and doubled slashes."""
    parts: list[str] = []
    for part in destination.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


@step("making read-only what had to be writable until now")
def make_read_only(context: Context) -> None:
    for mount in context.read_only_later:
        mount_setattr(mount, set=MOUNT_ATTR_RDONLY)

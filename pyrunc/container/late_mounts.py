"""pyrunc mounts: give mounts to a running container, and take them away again.

The runtime opens what is mounted in its own mount namespace, detached and with its options. A child enters the
container's mount namespace and attaches it. The place is resolved inside the container's root.

Only what was given is taken away. So a mount is known by the kernel's number for it, and not by its path: the container
can make a path lead elsewhere, for example to the masks in /proc.
"""

import _stat
import posix

from pyrunc.container.container import Container
from pyrunc.container.errand import Errand
from pyrunc.container.prepare import open_proc
from pyrunc.errors import NotRunning, PyruncError, StateError, reason
from pyrunc.init.mounts import PROC_OVERMOUNTS, normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at, read_file
from pyrunc.linux.mount import (
    MNT_DETACH,
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    filesystem_type,
    mount_setattr,
    move_mount,
    new_filesystem,
    open_tree,
    propagate_as,
    umount,
)
from pyrunc.linux.mount_options import MountOptions
from pyrunc.linux.pid import pidfd_open
from pyrunc.linux.process import CLONE_NEWNS, set_dumpable, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Made = TypeVar("Made")

    from pyrunc.spec.types import Mount

ADDED = "addedMounts"  # in state.json: {destination: the kernel's number of the mount}


class Inside:
    """A container's root and mount namespace, opened by the runtime, so that the container can't replace them."""

    def __init__(self, container: Container) -> None:
        self.container = container
        pid = container.pid
        with pidfd_open(pid):  # as long as this is open, no other process gets the number
            self.namespace = open_at(None, f"/proc/{pid}/ns/mnt", posix.O_RDONLY)
            self.root = open_at(None, f"/proc/{pid}/root", posix.O_PATH | posix.O_DIRECTORY)
            self.proc = open_proc()
            self.owner = _root_of(f"/proc/{pid}/uid_map"), _root_of(f"/proc/{pid}/gid_map")
            if not container.is_alive():
                raise NotRunning(container.id)

    def do(self, work: "Callable[[], None]") -> None:
        """Have a child do `work` in the container's mount namespace. The child enters no other namespace, so the
        container can't see it."""

        def enter() -> None:
            setns(self.namespace, CLONE_NEWNS)
            work()

        set_dumpable(False)
        with Errand(enter):
            pass

    def as_its_root(self, work: "Callable[[], Made]") -> "Made":
        """Do `work` as the container's root, which then owns what is made. On a file system of the container's user
        namespace nobody else can make anything."""
        uid, gid = self.owner
        posix.setegid(gid)
        posix.seteuid(uid)
        try:
            return work()
        finally:
            posix.seteuid(0)
            posix.setegid(0)

    def number(self, mount: Fd) -> int:
        lines = read_file(f"self/fdinfo/{mount.number}", self.proc).splitlines()
        return int(next(line for line in lines if line.startswith(b"mnt_id:")).partition(b":")[2])

    def mounts(self) -> "dict[int, bool]":
        """Number -> whether it is shared, for every mount of the container. Only for the child. proc(5), mountinfo"""
        lines = [line.split(b" - ")[0].split() for line in read_file("self/mountinfo", self.proc).splitlines()]
        return {int(words[0]): any(word.startswith(b"shared:") for word in words[6:]) for words in lines}


def _root_of(file: str) -> int:
    """The host's ID of the container's ID 0. user_namespaces(7)"""
    for line in read_file(file).splitlines():
        inside, outside, _ = map(int, line.split())
        if inside == 0:
            return outside
    raise PyruncError("reading", file, "the container has no user 0")


def add(container: Container, entries: "list[Mount]") -> None:
    """Give all of these mounts, or none. Raises PyruncError."""
    container.directory.lock("mounts")
    try:
        refuse_foreign(container)
        inside = inside_of(container)
        added = {**container.record.get(ADDED, {})}
        prepared = []
        for entry in entries:
            place = normal(entry["destination"])
            if place in added:
                raise StateError("mounting on", place, "something was added there before", "remove it first")
            tree = _attempt(entry, lambda entry=entry: _prepare(container, entry))  # type: ignore[misc]
            added[place] = inside.number(tree)
            prepared.append((entry, tree))
        before = container.record.get(ADDED, {})
        _note(container, added)  # first: nobody could take away again what is not on record
        try:
            run_inside(inside, lambda: _attach_all(inside, prepared))
        except BaseException:
            new = [(place, number) for place, number in added.items() if place not in before]
            try:
                run_inside(inside, lambda: detach_all(inside, new))
                _note(container, before)
            except PyruncError:
                pass  # it is on record, and `remove` can be asked for it
            raise
        container.config["mounts"] = [*(container.config.get("mounts") or []), *entries]
        container.directory.save_config(container.config)
    finally:
        container.directory.unlock()


def remove(container: Container, entries: "list[Mount]") -> None:
    """Take away what `add` has given. Only the destinations of the entries count."""
    container.directory.lock("mounts")
    try:
        refuse_foreign(container)
        added = {**container.record.get(ADDED, {})}
        places = [normal(entry["destination"]) for entry in entries]
        for place in places:
            if place not in added:
                raise StateError("unmounting", place, "it was not added by `pyrunc mounts add`")
        inside = inside_of(container)
        run_inside(inside, lambda: detach_all(inside, [(place, added[place]) for place in places]))
        for place in places:
            del added[place]
        mounts = container.config.get("mounts") or []
        container.config["mounts"] = [each for each in mounts if normal(each["destination"]) not in places]
        container.directory.save_config(container.config)
        _note(container, added)
    finally:
        container.directory.unlock()


def inside_of(container: Container) -> Inside:
    try:
        return Inside(container)
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(container.id) from None


def refuse_foreign(container: Container) -> None:
    namespaces = container.config["linux"].get("namespaces") or []
    if not any(n["type"] == "mount" and not n.get("path") for n in namespaces):
        raise StateError("container", f'"{container.id}"', "it has no mount namespace of its own making")


def _note(container: Container, added: "dict[str, int]") -> None:
    container.record[ADDED] = added
    container.directory.save(container.record)


def _attempt(entry: "Mount", work: "Callable[[], Fd]") -> Fd:
    try:
        return work()
    except (OSError, ValueError) as error:
        raise PyruncError("mounting", entry["destination"], reason(error)) from error


class Lost(PyruncError):
    """The child has died. Its work may be done, or not."""


def run_inside(inside: Inside, work: "Callable[[], None]") -> None:
    """Have a child do `work` inside. Raises Lost, or PyruncError when the work itself reports a failure."""
    try:
        inside.do(work)
    except (ChildProcessError, TimeoutError) as error:
        raise Lost("mounts of container", inside.container.id, reason(error)) from error
    except OSError as error:
        raise PyruncError("mounts of container", inside.container.id, reason(error)) from error


def _prepare(container: Container, entry: "Mount") -> Fd:
    """Make a detached mount with all its attributes."""
    options = MountOptions(entry.get("options") or [])
    kind = entry.get("type") or ""
    unfit = options.remount or options.copy_up or options.copy_link or options.target_link or options.idmap
    if unfit or entry.get("uidMappings") or entry.get("gidMappings"):
        raise ValueError("remount, tmpcopyup, copy-symlink, dest-nofollow and mapped IDs are for create alone")
    if options.bind or kind == "bind":
        if options.data or options.superblock:
            raise ValueError("a bind mount has no options of a file system")
        source = entry.get("source") or ""
        source = source if source.startswith("/") else f"{container.record['bundle']}/{source}"
        # A child opens it, not we: if a file server does not answer, only SIGKILL ends the wait.
        with Errand(lambda: open_tree(source, options.recursive, follow=not options.source_link)) as opened:
            assert opened.brought is not None
            tree = opened.brought
        if options.set or options.clear:
            mount_setattr(tree, set=options.set, clear=options.clear)
    elif kind == "tmpfs":
        data: list[tuple[str, str | None]] = [*options.data, *((flag, None) for flag in options.superblock)]
        tree = new_filesystem("tmpfs", entry.get("source") or "tmpfs", data, options.set)
    else:
        raise ValueError(f'a running container can be given bind mounts and tmpfs, not "{kind}"')
    if options.all_set or options.all_clear:
        mount_setattr(tree, set=options.all_set, clear=options.all_clear, recursive=True)
    if any(n["type"] == "user" for n in container.config["linux"].get("namespaces") or []):
        from pyrunc.container.locked import locked

        tree = locked(tree)
    propagate_as(tree, options.propagation)
    return tree


# In the child


def _attach_all(inside: Inside, prepared: "list[tuple[Mount, Fd]]") -> None:
    for entry, tree in prepared:
        with _target(inside, normal(entry["destination"]), path.file_type(tree) == _stat.S_IFDIR) as target:
            move_mount(tree, target)


def _target(inside: Inside, place: str, directory: bool) -> Fd:
    """Open the mount point, and make it where it is missing, as create does. In /proc and /sys only those are allowed
    that create allows."""
    ensure = path.ensure_directory if directory else path.ensure_file
    target = inside.as_its_root(lambda: ensure(inside.root, place))
    if filesystem_type(target) in (PROC_SUPER_MAGIC, SYSFS_MAGIC) and place not in PROC_OVERMOUNTS:
        raise PermissionError(1, "nothing is mounted on what is the kernel's", place)
    if inside.mounts().get(inside.number(target), False):  # others would see the new mount too
        try:
            return path.openat2(inside.root, place, posix.O_PATH, resolve=path.IN_ROOT | path.RESOLVE_NO_SYMLINKS)
        except OSError as error:
            words = "a symlink leads to a mount that the container shares with others"
            raise PermissionError(1, words, place) from error
    return target


def detach_all(inside: Inside, places: "list[tuple[str, int]]") -> None:
    """Unmount what is still mounted. Others are passed over: the container has unmounted them, or `add` was killed
    before it had mounted them."""
    there = inside.mounts()
    for place, number in places:
        if number not in there:
            continue
        with path.openat2(inside.root, place, posix.O_PATH | posix.O_NOFOLLOW) as mounted:
            if inside.number(mounted) != number:
                raise OSError(22, "what is there is not what was added", place)
            posix.fchdir(inside.proc.number)
            umount(f"self/fd/{mounted.number}", MNT_DETACH)  # not by its path, which may lead elsewhere by now

"""The last thing that happens to a mount: its attributes, and its place in the tree."""

import posix

from pyrunc.init.context import Context
from pyrunc.linux.fd import Fd, read_file
from pyrunc.linux.mount import mount_setattr, move_mount, propagate_as
from pyrunc.linux.mount_options import MountOptions

PINNED = ("/proc", "/sys")


def put(context: Context, mount: Fd, target: Fd, options: MountOptions, place: str) -> None:
    """Give the detached mount its attributes and attach it: nobody ever sees it without them.

    What is mounted on /proc and /sys is remembered: what is masked there is looked up in it (see protection.py).
    """
    if options.set or options.clear:
        mount_setattr(mount, set=options.set, clear=options.clear)
    if options.all_set or options.all_clear:
        mount_setattr(mount, set=options.all_set, clear=options.all_clear, recursive=True)
    root = context.root
    assert root is not None
    over_root = _is_same(context, target, root)
    move_mount(mount, target)
    propagate(context, mount, options)
    if over_root:
        context.root = mount  # a mount on /: what follows is resolved in it
        context.pinned.clear()
    if place in PINNED:
        context.pinned[place] = mount


def propagate(context: Context, mount: Fd, options: MountOptions) -> None:
    """How mounts below it propagate. It is kept, for where the root's propagation is set on all mounts at the end."""
    propagate_as(mount, options.propagation)
    if options.propagation and context.config["linux"].get("rootfsPropagation"):
        context.own_propagation.append((mount, options.propagation))


def _is_same(context: Context, one: Fd, other: Fd) -> bool:
    """Whether both are one place: the same file by the same mount. The root may be bound elsewhere in itself."""
    a, b = posix.fstat(one.number), posix.fstat(other.number)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) and _mount_id(context, one) == _mount_id(context, other)


def _mount_id(context: Context, fd: Fd) -> bytes:
    lines = read_file(f"self/fdinfo/{fd.number}", context.host_proc).splitlines()
    return next(line for line in lines if line.startswith(b"mnt_id:"))

"""Mounts of type cgroup: the container's own cgroups, in the version that the host has. config-linux.md#mounts"""

import errno
import posix

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.cgroups.files import NAMED, UNIFIED
from pyrunc.init.context import Context
from pyrunc.init.placing import propagate, put
from pyrunc.linux import path
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_setattr,
    move_mount,
    new_filesystem,
    open_tree,
)
from pyrunc.linux.mount_options import MountOptions
from pyrunc.linux.process import CLONE_NEWCGROUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Mount

FORCED = "run.oci.systemd.force_cgroup_v1"  # the annotation: the destination of a mount
SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
NOT_PERMITTED = (
    errno.EPERM,
    errno.EBUSY,
    errno.EINVAL,
)  # in a user namespace, or where it is mounted with other options


def mount_cgroups(context: Context, entry: "Mount", options: MountOptions, named: bool) -> None:
    """On v2 mount the hierarchy. On v1 mount a tmpfs with a directory for each hierarchy, and links for controllers
    that share one.

    Args:
        named: that of v1's name=systemd and no other, whatever the host has: for a systemd that does not know v2.
    """
    root = context.root
    assert root is not None
    target = path.ensure_directory(root, entry["destination"])
    cgroup = context.cgroup
    assert cgroup is not None
    if named:
        _version_1(context, cgroup, [NAMED], target, options)
    elif cgroup.unified:
        put(context, _unified(context, cgroup, options), target, options, entry["destination"])
    else:
        _version_1(context, cgroup, [name for name in cgroup.paths if name != UNIFIED], target, options)


def _unified(context: Context, cgroup: Cgroup, options: MountOptions) -> Fd:
    """Make a new mount only in a cgroup namespace of the container's own. In the host's namespace a new mount would
    take options away from the host's own mount, nsdelegate and memory_recursiveprot, for as long as the host runs
    (runc#5258).
    """
    own_namespace = context.new_namespaces & CLONE_NEWCGROUP or any(flag & CLONE_NEWCGROUP for flag, _ in context.joins)
    if not own_namespace:
        return open_tree(cgroup.mounts[UNIFIED], recursive=True)
    try:
        return new_filesystem("cgroup2", "cgroup", [], options.set, "cgroup2")
    except OSError as error:
        if error.errno not in NOT_PERMITTED:
            raise
    return open_tree(cgroup.paths[UNIFIED], recursive=True)


def _version_1(context: Context, cgroup: Cgroup, names: "list[str]", target: Fd, options: MountOptions) -> None:
    options.set |= options.all_set  # every mount below it is made here, with these options
    attributes = options.set & ~MOUNT_ATTR_RDONLY
    top = new_filesystem("tmpfs", "tmpfs", [("mode", "755")], attributes | SAFE, "cgroup")
    move_mount(top, target)
    for name in names:
        if name not in cgroup.paths:
            raise ValueError(f"the container has no cgroup in {name}")
        directory = "systemd" if name == NAMED else cgroup.mounts[name].rpartition("/")[2]
        posix.mkdir(directory, 0o755, dir_fd=top.number)
        with path.openat2(top, directory, posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW) as place:
            move_mount(_hierarchy(context, cgroup, name, options), place)
        controllers = name.split(",")
        if len(controllers) > 1:
            for controller in controllers:
                posix.symlink(directory, controller, dir_fd=top.number)
    propagate(context, top, options)
    if options.set & MOUNT_ATTR_RDONLY:
        context.read_only_later.append(top)


def _hierarchy(context: Context, cgroup: Cgroup, name: str, options: MountOptions) -> Fd:
    """In a cgroup namespace of its own the container's cgroup is the root of a new mount. Without one it is bound."""
    if context.new_namespaces & CLONE_NEWCGROUP:
        kind: list[tuple[str, str | None]] = [(controller, None) for controller in name.split(",")]
        if name.startswith("name="):
            kind = [("none", None), ("name", name[5:])]
        mount = new_filesystem("cgroup", "cgroup", kind, options.set | SAFE, f"cgroup {name}")
    else:
        mount = open_tree(cgroup.paths[name])
        mount_setattr(mount, set=options.set | SAFE, clear=options.clear)
    return mount

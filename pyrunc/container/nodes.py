"""Device nodes for a user namespace, where the kernel makes none. They are on a file system of the runtime's.
config-linux.md#devices
"""

import posix

from pyrunc.container import ids
from pyrunc.container.errand import Errand
from pyrunc.errors import StepError, reason
from pyrunc.init.context import IN_INIT
from pyrunc.init.dev import KINDS, wanted
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import (
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MS_PRIVATE,
    MS_REC,
    SCRATCH,
    move_mount,
    new_filesystem,
    open_tree,
    set_propagation,
)
from pyrunc.linux.process import CLONE_NEWNS, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context
    from pyrunc.spec.types import Device

OPTIONS: "list[tuple[str, str | None]]" = [("mode", "0755"), ("nr_inodes", "2"), ("size", "4k")]


def make(context: "Context", index: int) -> "Fd | None":
    """One of the container's devices, as a mount of that node alone. None: we may make no nodes either.

    A child in a mount namespace of its own makes it. What is cloned must be attached somewhere (Linux < 6.15), and
    there nobody else sees it. The container's cgroup says whether the container may open the device, as for any other
    node.
    """
    linux = context.config["linux"]
    device = wanted(linux)[index]
    uid = ids.on_the_host(device.get("uid", 0), linux.get("uidMappings") or [])
    gid = ids.on_the_host(device.get("gid", 0), linux.get("gidMappings") or [])
    if uid is None or gid is None:
        unmapped = device.get("uid", 0) if uid is None else device.get("gid", 0)
        cause = f"{unmapped} is in no range of the container's user namespace"
        raise StepError(f"{IN_INIT}: making device", device["path"], cause)
    try:
        with Errand(lambda: _make(device, uid, gid)) as elsewhere:
            return elsewhere.brought
    except PermissionError:
        return None
    except OSError as error:
        raise StepError(f"{IN_INIT}: making device", device["path"], reason(error)) from error


def _make(device: "Device", uid: int, gid: int) -> Fd:
    unshare(CLONE_NEWNS)
    set_propagation(MS_PRIVATE | MS_REC)
    folder = new_filesystem("tmpfs", "tmpfs", OPTIONS, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "a device's folder")
    with open_at(None, SCRATCH, posix.O_PATH | posix.O_DIRECTORY) as place:
        move_mount(folder, place)
    number = posix.makedev(device.get("major", 0), device.get("minor", 0))
    mode = device.get("fileMode", 0o666)
    posix.mknod("node", KINDS[device["type"]] | mode, number, dir_fd=folder.number)
    posix.chown("node", uid, gid, dir_fd=folder.number)
    posix.chmod("node", mode, dir_fd=folder.number)
    with open_at(folder, "node", posix.O_PATH | posix.O_NOFOLLOW) as node:
        return open_tree(node)

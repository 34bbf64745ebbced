"""Device nodes and the links of /dev. config-linux.md#devices, #default-devices"""

import _stat
import posix

from pyrunc.errors import StepError, reason
from pyrunc.init import channel
from pyrunc.init.context import Context, step
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, mount_setattr, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, Device, Linux

DEFAULT: "tuple[Device, ...]" = (
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0},
    {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0},
    {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666, "uid": 0, "gid": 0},
    {"path": "/dev/random", "type": "c", "major": 1, "minor": 8, "fileMode": 0o666, "uid": 0, "gid": 0},
    {"path": "/dev/urandom", "type": "c", "major": 1, "minor": 9, "fileMode": 0o666, "uid": 0, "gid": 0},
    {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 0},
)
KINDS = {"c": _stat.S_IFCHR, "u": _stat.S_IFCHR, "b": _stat.S_IFBLK, "p": _stat.S_IFIFO}
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
NULL = posix.makedev(1, 3)


def is_bound(config: "Config") -> bool:
    """Whether /dev is a directory of the host's. Then nothing is made in it."""
    for entry in config.get("mounts", ()):
        if normal(entry["destination"]) == "/dev":
            options = entry.get("options") or []
            return entry.get("type") == "bind" or "bind" in options or "rbind" in options
    return False


@step("making devices")
def create(context: Context) -> None:
    """By mknodat(2) on the parent's fd. In a user namespace the kernel forbids that: then a node of the host's, or
    one that the runtime makes, is bound there.
    """
    if is_bound(context.config):
        return
    umask = posix.umask(0)
    try:
        for index, device in enumerate(wanted(context.config["linux"])):
            try:
                _create_one(context, index, device)
            except (OSError, ValueError, OverflowError) as error:
                raise StepError("making device", device["path"], reason(error)) from error
    finally:
        posix.umask(umask)


def wanted(linux: "Linux") -> "list[Device]":
    """The devices that every container has, and those that config.json asks for."""
    asked = linux.get("devices") or []
    paths = {normal(device["path"]) for device in asked}
    return [*(device for device in DEFAULT if device["path"] not in paths), *asked]


def _create_one(context: Context, index: int, device: "Device") -> None:
    root = context.root
    assert root is not None
    place = normal(device["path"])
    parent_path, _, name = place.rpartition("/")
    if place in ("/dev/ptmx", "/dev/console"):
        return  # we make the links of /dev and the console ourselves
    parent = path.ensure_directory(root, parent_path)
    may_make = not context.userns or device["type"] == "p"
    if may_make and _make_node(context, parent, name, device):
        return
    node = _node_to_bind(context, index, device, place)
    mount_setattr(node, set=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)  # of a device nobody needs either
    move_mount(node, path.ensure_file(parent, name))


def _node_to_bind(context: Context, index: int, device: "Device", place: str) -> Fd:
    """The node to bind.

    It is the host's, if that is the device and has the mode and owner that are asked for. Otherwise the runtime makes
    one. Where the runtime may not, the host's is taken all the same, and a warning says what differs.
    """
    try:
        host = open_at(None, place, posix.O_PATH)
        _verify(host, device)
        lacking = [] if device in DEFAULT else _lacking(host, device)
        if not lacking:
            return open_tree(host)
    except (FileNotFoundError, NotADirectoryError, StepError):
        host = None
    made = context.ask_for_descriptor(channel.MAKE_DEVICE, index) if context.userns else None
    if made is not None:
        _verify(made, device)
        return made
    if host is None:
        raise StepError("device", device["path"], "is not on the host, and the runtime may not make it")
    context.warn(f"device {device['path']} is the host's own, and so not as asked for: {', '.join(lacking)}")
    return open_tree(host)


def _lacking(node: Fd, device: "Device") -> "list[str]":
    """What a node has that differs from what is asked for, in words."""
    status = posix.fstat(node.number)
    has = {"fileMode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid}
    return [f"{name} is {value:o}" if name == "fileMode" else f"{name} is {value}"
            for name, value in has.items() if device.get(name, value) != value]  # fmt: skip


def _make_node(context: Context, parent: Fd, name: str, device: "Device") -> bool:
    mode = device.get("fileMode", 0o666)
    number = posix.makedev(device.get("major", 0), device.get("minor", 0))
    try:
        posix.mknod(name, KINDS[device["type"]] | mode, number, dir_fd=parent.number)
    except FileExistsError:
        pass  # the image or a mount has it: the fd tells what it is
    except PermissionError:
        return False
    with path.openat2(parent, name, posix.O_PATH | posix.O_NOFOLLOW) as node:
        _verify(node, device)
        entry = f"self/fd/{node.number}"  # the only way to change what an O_PATH fd refers to
        if device.get("uid") or device.get("gid"):
            posix.chown(entry, device.get("uid", 0), device.get("gid", 0), dir_fd=context.host_proc.number)
        if posix.fstat(node.number).st_mode & 0o7777 != mode:
            posix.chmod(entry, mode, dir_fd=context.host_proc.number)
    return True


def _verify(node: Fd, device: "Device") -> None:
    """Raise StepError unless it is the device that was meant. In its place the image could have a link or a file."""
    status = posix.fstat(node.number)
    meant = KINDS[device["type"]]
    number = posix.makedev(device.get("major", 0), device.get("minor", 0))
    if _stat.S_IFMT(status.st_mode) != meant or (meant != _stat.S_IFIFO and status.st_rdev != number):
        what = f"{device['type']} {device.get('major', 0)}:{device.get('minor', 0)}"
        raise StepError("device", device["path"], f"is in the way, and is not the device {what}")


@step("linking /dev")
def link(context: Context) -> None:
    """By the fd of the directory, inside the root: a link `/dev -> /root` in an image can't lead to the host's /root
    (CVE-2026-41579).
    """
    if is_bound(context.config):
        return
    root = context.root
    assert root is not None
    links = [*LINKS]
    try:
        posix.stat("/proc/kcore")
        links.append(("/proc/kcore", "/dev/core"))
    except OSError:
        pass
    with path.ensure_directory(root, "/dev") as dev:
        for target, link_path in links:
            try:
                posix.symlink(target, link_path[5:], dir_fd=dev.number)
            except FileExistsError:
                continue
        _link_ptmx(dev)


def _link_ptmx(dev: Fd) -> None:
    """/dev/ptmx must be the one of the container's own devpts. config-linux.md#default-devices"""
    try:
        posix.unlink("ptmx", dir_fd=dev.number)
    except FileNotFoundError:
        pass
    posix.symlink("pts/ptmx", "ptmx", dir_fd=dev.number)


def verified_null(context: Context) -> Fd:
    """The container's /dev/null, with which files are masked. It must be the null device and no link: the mask
    would otherwise mount the target of a symlink in the image (CVE-2025-31133).
    """
    if context.null is None:
        root = context.root
        assert root is not None
        try:
            null = path.resolve(root, "/dev/null", symlinks=False)
        except OSError as error:
            raise StepError("device", "/dev/null", f"is not the null device: {error.strerror}") from error
        status = posix.fstat(null.number)
        if _stat.S_IFMT(status.st_mode) != _stat.S_IFCHR or status.st_rdev != NULL:
            raise StepError("device", "/dev/null", "is not the null device")
        context.null = null
    return context.null


@step("opening the container's own /dev/null in place of the host's")
def reopen_null(context: Context) -> None:
    """A standard stream that is the host's /dev/null would be a way to the host's file. Only that very device is
    replaced, and only by the verified one (crun CVE-2026-88265).
    """
    for number in (0, 1, 2):
        try:
            status = posix.fstat(number)
        except OSError:
            continue
        if _stat.S_IFMT(status.st_mode) == _stat.S_IFCHR and status.st_rdev == NULL:
            try:
                null = verified_null(context)
            except StepError:
                return  # the image has no such device: the stream stays as it is
            with open_at(context.host_proc, f"self/fd/{null.number}", posix.O_RDWR) as own:
                posix.dup2(own.number, number, inheritable=True)

"""What a container finds at /: the host's /usr, a folder, layers, or the contents of a tar. None of them is changed.

A runner makes it. A root file system that is put together is an overlay with a tmpfs on top. It is mounted in the
runner's own mount namespace: the host doesn't see it, and it goes with the last process of that namespace.
"""

import fcntl
import posix
import time
from _signal import SIGKILL

from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.library import places
from pyrunc.linux.fd import Fd, open_at, write_file
from pyrunc.linux.mount import MS_REC, MS_SLAVE, mount, set_propagation, umount_detach
from pyrunc.linux.pid import pidfd_send_signal, reap
from pyrunc.linux.process import CLONE_NEWNS, CLONE_NEWUSER, in_child, set_dumpable, unshare
from pyrunc.spec.jsonc import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.library.job import Job
    from pyrunc.library.wire import Message

MS_NOSUID, MS_NODEV = 2, 4
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # on a modern host, links into /usr
FOLDERS = ("dev", "etc", "etc/alternatives", "etc/ssl", "etc/ssl/certs", "home", "mnt", "opt", "proc", "root", "run",
           "srv", "sys", "tmp", "usr", "var")  # fmt: skip
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/ld.so.cache": "",  # the host's is mounted over it
    "etc/resolv.conf": "",
}
HAS_OWN_MOUNTS = False  # whether this runner has a mount namespace of its own
TREE = "tree-"  # the beginning of the name of an unpacked tree
MOST_TREES = 4
_in_use: "Fd | None" = None  # the tree of the container that this runner works for


def needs_bundle(message: "Message") -> bool:
    """Whether a container needs a bundle: it has something of its own, or may outlive the worker."""
    plan = message["rootfs"]
    return message["verb"] not in ("run", "ahead") or plan is None or plan["kind"] != "usr" or bool(plan["more"])


def settle(job: "Job", bundle: Fd, message: "Message") -> "dict[str, Any]":
    """The configuration, with its root file system in place."""
    document: Any = loads(message["config"].decode("utf-8", "surrogateescape"))
    config: dict[str, Any] = document
    plan = message["rootfs"]
    if plan is None:
        return config
    try:
        if plan["kind"] == "usr":
            own = message["verb"] != "run" or plan["more"]
            config["root"]["path"] = of_host(bundle.name, True) if own else of_host(message["shared"])
            return config
        _have_own_mounts(job, config)
        lower = plan["layers"] if plan["kind"] == "layers" else [_unpacked(bundle, message, plan["tar"])]
        config["root"]["path"] = _overlay(f"{bundle.name}", lower, plan["size"])
    except OSError as error:
        raise PyruncError("root file system", "", reason(error)) from error
    return config


def leave(bundle: str) -> None:
    """Unmount what this runner has mounted for a container, and release its tree. A runner that goes on would keep
    them."""
    global _in_use
    if _in_use is not None:
        _in_use.close()
        _in_use = None
    if HAS_OWN_MOUNTS:
        for name in ("rootfs", "top"):
            try:
                umount_detach(f"{bundle}/{name}")
            except OSError:
                pass  # it was not mounted


# --- the host's /usr


def of_host(folder: str, own: bool = False) -> str:
    """A root file system for the host's /usr: a few folders, with places for mounts.

    Args:
        folder: our worker's, so that all containers share it. A container with further mounts has it in its own
            bundle, as the places for those mounts tell something of it.
    """
    place = f"{folder}/rootfs"
    if own or not posix.access(place, posix.F_OK):
        making = f"{place}.{posix.getpid()}"
        posix.mkdir(making, 0o755)
        for name in FOLDERS:
            posix.mkdir(f"{making}/{name}", 0o755)
        for name in MERGED:
            try:
                posix.symlink(posix.readlink(f"/{name}"), f"{making}/{name}")
            except OSError:
                continue  # it is a folder, which has a mount of its own (sandbox.py); or there is none
        posix.symlink("/tmp", f"{making}/var/tmp")
        for name, text in FILES.items():
            with open_at(None, f"{making}/{name}", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644) as file:
                posix.write(file.number, text.encode())
        try:
            posix.rename(making, place)
        except OSError:
            if own:
                raise
            places.remove_folder(making)  # another runner was quicker
    return place


# --- layers


def _have_own_mounts(job: "Job", config: "dict[str, Any]") -> None:
    """Enter a mount namespace that gets what is mounted on the host, and gives nothing back. A user who is not root
    first becomes root in a user namespace, and the container's user namespace is within that."""
    global HAS_OWN_MOUNTS
    user = next((n for n in config["linux"].get("namespaces") or [] if n["type"] == "user"), None)
    if user is None and not HAS_OWN_MOUNTS:
        unshare(CLONE_NEWNS)
        set_propagation(MS_REC | MS_SLAVE)
        HAS_OWN_MOUNTS = True
    if user is None:
        return
    job.once = True
    maps = [config["linux"].get(name) or [] for name in ("uidMappings", "gidMappings")]
    if user.get("path") or posix.geteuid() == 0 or any(len(each) != 1 for each in maps):
        cause = "with layers or a tar as root file system, only a caller without privileges has a user namespace"
        raise ConfigError("config.json", "/linux/namespaces", cause, "map his own user ID, and no other")
    set_dumpable(True)  # else our own /proc/self would be root's
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    write_file("/proc/self/setgroups", b"deny")
    for name, (mapping,) in zip(("uid_map", "gid_map"), maps, strict=True):
        line = f"{mapping['containerID']} {mapping['hostID']} {mapping['size']}"
        write_file(f"/proc/self/{name}", line.encode())
    set_dumpable(False)
    set_propagation(MS_REC | MS_SLAVE)
    HAS_OWN_MOUNTS = True
    for name, (mapping,) in zip(("uidMappings", "gidMappings"), maps, strict=True):
        config["linux"][name] = [{**mapping, "hostID": mapping["containerID"]}]


def _overlay(bundle: str, layers: "list[str]", size: int) -> str:
    """Mount an overlay. The first layer is the lowest.

    A path may have the characters that separate paths, so layers are named by their descriptors. What is written goes
    to a tmpfs, and counts as memory of the container that writes.
    """
    top, target = f"{bundle}/top", f"{bundle}/rootfs"
    posix.mkdir(top, 0o700)
    posix.mkdir(target, 0o755)
    mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,size={size}")
    for name in ("upper", "work"):
        posix.mkdir(f"{top}/{name}", 0o755)
    opened = [open_at(None, layer, posix.O_PATH | posix.O_DIRECTORY) for layer in [*layers, f"{top}/upper"]]
    status = posix.fstat(opened[-2].number)
    posix.chmod(f"{top}/upper", status.st_mode & 0o777)  # the container's / shows this mode
    *lower, upper = [f"/proc/self/fd/{fd.number}" for fd in opened]
    with open_at(None, f"{top}/work", posix.O_PATH | posix.O_DIRECTORY) as work:
        options = f"lowerdir={':'.join(reversed(lower))},upperdir={upper},workdir=/proc/self/fd/{work.number}"
        mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options)
    return target


# --- a tar


def _unpacked(bundle: Fd, message: "Message", path: str) -> str:
    """The folder that the tar at `path` was unpacked to.

    Runs share it as long as the file is the same, and the trees that were used last are kept. A container that may
    outlive the worker has a folder of its own.
    """
    with open_at(None, path, posix.O_RDONLY) as file:
        if message["verb"] != "run":
            place = f"{bundle.name}/tree"
            posix.mkdir(place, 0o755)
            _unpack_to(place, file)
            return place
        status = posix.fstat(file.number)
        shared = message["shared"]
        place = f"{shared}/{TREE}{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        while not _is_used(place):
            _evict(shared)
            making = f"{place}.{posix.getpid()}"
            posix.mkdir(making, 0o755)
            try:
                _unpack_to(making, file)
                posix.rename(making, place)
            except BaseException:
                places.remove_folder(making)
                if not posix.access(place, posix.F_OK):  # else another runner was quicker
                    raise
    return place


def _is_used(tree: str) -> bool:
    """Whether a tree is there. If so it is locked until `leave`, and nobody removes it meanwhile."""
    global _in_use
    try:
        folder = open_at(None, tree, posix.O_RDONLY | posix.O_DIRECTORY)
        fcntl.flock(folder.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        posix.utime(tree, ns=(time.time_ns(), posix.fstat(folder.number).st_mtime_ns))
    except (FileNotFoundError, BlockingIOError):
        return False  # it is not there, or is being removed
    _in_use = folder
    return True


def _evict(shared: str) -> None:
    """Make room for one more tree. The one whose last use is longest ago goes, unless a container has it."""
    trees = [f"{shared}/{name}" for name in posix.listdir(shared) if name.startswith(TREE) and "." not in name]
    trees.sort(key=lambda tree: posix.stat(tree).st_atime_ns if posix.access(tree, posix.F_OK) else 0)
    for tree in trees[: 1 - MOST_TREES]:
        try:
            with open_at(None, tree, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
                fcntl.flock(folder.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                going = f"{tree}.{posix.getpid()}"
                posix.rename(tree, going)
            places.remove_folder(going)
        except (FileNotFoundError, BlockingIOError):
            continue


def _unpack_to(folder: str, file: Fd) -> None:
    with Fd(posix.memfd_create("words", posix.MFD_CLOEXEC), "words") as words:
        free = posix.statvfs(folder)
        room = free.f_bavail * free.f_frsize // 2, (free.f_favail or 1 << 40) // 2  # some file systems count no inodes
        _, pidfd = in_child(lambda: _unpack(file, folder, words, *room))
        with pidfd:
            try:
                ended = reap(pidfd)
            except BaseException:  # called off
                pidfd_send_signal(pidfd, SIGKILL)
                reap(pidfd)
                raise
        if ended:
            posix.lseek(words.number, 0, 0)
            text = posix.read(words.number, 4096).decode("utf-8", "replace")
            raise PyruncError("unpacking", file.name, text or "the process that does it has died")


def _unpack(file: Fd, folder: str, words: Fd, most_bytes: int, most_files: int) -> None:
    """Unpack a tar, in a child. Names and links of an archive may lead anywhere, so `folder` is our root meanwhile. No
    module is loaded from there."""
    import sys

    try:
        import pwd  # noqa: F401
        import tarfile

        archive = tarfile.open(fileobj=open(posix.dup(file.number), "rb"), mode="r:*")  # noqa: SIM115
        first = archive.next()
        if first is not None and first.name in ("oci-layout", "manifest.json", "index.json", "blobs", "blobs/"):
            raise ValueError("it is an archive of an image; give the tar of a root file system (docker export)")
        posix.chroot(folder)
        posix.chdir("/")
        sys.meta_path.clear()
        kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE)

        def kept() -> "Iterator[tarfile.TarInfo]":
            size = 0
            for number, member in enumerate(archive):
                size += member.size
                if size > most_bytes or number > most_files:
                    half = f"half of what is free where the state is ({most_bytes >> 20} MiB, {most_files} files)"
                    raise ValueError(f"it needs more than {half}; state_root names another place")
                if member.type not in kinds:
                    yield member

        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # nothing leads out of our root
        archive.extractall("/", members=kept(), numeric_owner=True)  # names would be looked up by the image's NSS
    except BaseException as error:
        posix.write(words.number, reason(error).partition("\n")[0].encode("utf-8", "replace"))
        raise

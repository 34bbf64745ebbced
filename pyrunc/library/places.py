"""Where the library keeps what a container needs besides its state: ROOT/:library/, beside the containers' folders.

    ROOT/:library/ID/               the bundle of a container, removed with it
    ROOT/:library/:PID-START/       what the containers of one worker share, removed when it ends

What workers that were killed have left is removed by the next one that comes.
"""

import errno
import fcntl
import posix

from pyrunc.container.container import Container
from pyrunc.container.state import DIRECTORY, StateRoot, validate_id
from pyrunc.errors import NoSuchContainer, PyruncError, StateError
from pyrunc.linux.fd import Fd, open_at, replace_file, unlink_quietly
from pyrunc.linux.pid import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER = ":library"
OWNER = "owner"  # a symlink: PID-START of the worker that made it
OWNED = "owned"  # a folder: the container is to go with its program
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
OURS = "run"  # in the ID of one that nobody else has asked for

_own: "dict[str, str]" = {}  # by the state root: the folder that is ours


def bundle(root: StateRoot, container_id: str) -> str:
    return f"{root.path}/{FOLDER}/{container_id}"


def make_bundle(root: StateRoot, container_id: str, shared: str) -> Fd:
    """A new folder for a container, which nobody else reads. It is locked as long as it is open: one that is not, and
    of which there is no container, is of one that another program has deleted.

    Args:
        shared: the folder of our worker, whose name says who it is.
    """
    validate_id(container_id)
    place = bundle(root, container_id)
    try:
        posix.mkdir(place, 0o700)
    except FileExistsError:
        pass
    folder = open_at(None, place, DIRECTORY | posix.O_NOFOLLOW)
    try:
        fcntl.flock(folder.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = container_id in root.ids()
    except BlockingIOError:
        there = True
    if there:
        raise StateError("container with given ID already exists", container_id)
    _empty(folder, posix.fstat(folder.number).st_dev)
    posix.symlink(shared.rpartition("/:")[2], OWNER, dir_fd=folder.number)
    return folder


def own(root: StateRoot, container_id: str) -> None:
    """It belongs to our program. If the worker is killed, the next one knows it."""
    posix.mkdir(f"{bundle(root, container_id)}/{OWNED}", 0o700)


def remove_bundle(root: StateRoot, container_id: str) -> None:
    """If there is one."""
    remove_folder(bundle(root, container_id))


def prepare(root: StateRoot) -> None:
    """In the worker, before it makes something in a state root: its own folder there."""
    if root.path in _own:
        return
    root.open(make=True).close()
    top = f"{root.path}/{FOLDER}"
    try:
        posix.mkdir(top, 0o700)
    except FileExistsError:
        _sweep(root, top)
    place = f"{top}/:{_identity(posix.getpid())}"
    posix.mkdir(place, 0o700)
    _own[root.path] = place


def shared(root: StateRoot) -> str:
    """The folder of our worker."""
    return _own[root.path]


def ahead(shared: str) -> StateRoot:
    """Where containers are that nobody has asked for yet."""
    return StateRoot(f"{shared}/ahead")


def _delete_all(root: StateRoot) -> None:
    if posix.access(root.path, posix.F_OK):
        for container_id in root.ids():
            Container.delete(root, container_id, force=True)


def leave() -> None:
    """The worker ends."""
    for place in _own.values():
        try:
            _delete_all(ahead(place))
            remove_folder(place)
        except OSError:
            pass  # the next one that comes will
    _own.clear()


def _identity(pid: int) -> str:
    return f"{pid}-{start_time(pid)}"


def _lives(identity: str) -> bool:
    pid, _, start = identity.partition("-")
    try:
        return pid.isdecimal() and start_time(int(pid)) == int(start)
    except (ProcessLookupError, ValueError):
        return False


def _sweep(root: StateRoot, top: str) -> None:
    """Remove what nobody will remove any more: the folders of workers that are gone, and of containers that are; and
    the containers that nobody but their worker knew of (`run`, `Pool`)."""
    ids = {*root.ids()}
    for container_id in [*ids]:
        maker = _maker(container_id)
        if maker and not _lives(maker):
            try:
                Container.delete(root, container_id, force=True)
                ids.discard(container_id)
            except PyruncError:
                continue  # as below
    for name in posix.listdir(top):
        place = f"{top}/{name}"
        try:
            owner = name[1:] if name.startswith(":") else posix.readlink(f"{place}/{OWNER}")
            if _lives(owner):
                continue
            if name in ids and not posix.access(f"{place}/{OWNED}", posix.F_OK):
                continue
            if name in ids:
                Container.delete(root, name, force=True)
            if name.startswith(":"):
                _delete_all(ahead(place))
            remove_folder(place)
        except (OSError, NoSuchContainer, PyruncError):
            continue  # somebody else is at it, or it can't be helped


_last = 0


def anonymous(ours: bool) -> str:
    """A new ID.

    Args:
        ours: only this worker knows of it. If the worker is killed, the next one sees that by the ID.
    """
    global _last
    _last += 1
    return f"pyrunc-{_identity(posix.getpid())}-{OURS if ours else ''}{_last}"


def _maker(container_id: str) -> str:
    """Which worker had made it for itself alone; "": none."""
    words = container_id.split("-")
    ours = len(words) == 4 and words[0] == "pyrunc" and words[3].startswith(OURS)
    return f"{words[1]}-{words[2]}" if ours else ""


def remove_folder(place: str) -> None:
    """With all that is in it, and that comes meanwhile: who calls off what we remove makes it his own first (`own`)."""
    while True:
        try:
            with open_at(None, place, DIRECTORY | posix.O_NOFOLLOW) as folder:
                _empty(folder, posix.fstat(folder.number).st_dev)
            return posix.rmdir(place)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _empty(folder: Fd, device: int) -> None:
    """All that is in it, by descriptors, two at a time: what is deeper comes up first, as a tar may be deep. What is
    mounted there is not ours to empty."""
    while names := posix.listdir(folder.number):
        for name in names:
            try:
                unlink_quietly(folder, name)
            except (IsADirectoryError, PermissionError):
                posix.chmod(name, 0o700, dir_fd=folder.number)
                with open_at(folder, name, DIRECTORY | posix.O_NOFOLLOW) as inner:
                    if posix.fstat(inner.number).st_dev != device:
                        raise
                    for below in posix.listdir(inner.number):
                        _unlink_or_lift(inner, below, folder)
                posix.rmdir(name, dir_fd=folder.number)


def _unlink_or_lift(inner: Fd, name: str, folder: Fd) -> None:
    try:
        return unlink_quietly(inner, name)
    except (IsADirectoryError, PermissionError):
        posix.chmod(name, 0o700, dir_fd=inner.number)
    number = 0
    while True:
        try:
            return posix.rename(name, f"{number}", src_dir_fd=inner.number, dst_dir_fd=folder.number)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            number += 1


def write_config(folder: Fd, config: "dict[str, Any]") -> None:
    from pyrunc.spec.jsonc import dumps

    replace_file(folder, "config.json", dumps(config).encode("utf-8", "surrogateescape"))

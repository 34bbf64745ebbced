"""Where the library keeps what a container needs besides its state: ROOT/:library/, beside the containers' folders.

    ROOT/:library/ID/               the bundle of a container, removed with it
    ROOT/:library/:PID-START/       what the containers of one worker share, removed when it ends

The next worker removes what killed workers have left.
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
OWNED = "owned"  # a folder: the container goes when its program ends
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
OURS = "run"  # in the ID of a container that only its worker knows of

_own: "dict[str, str]" = {}  # our folder in each state root


def bundle(root: StateRoot, container_id: str) -> str:
    return f"{root.path}/{FOLDER}/{container_id}"


def make_bundle(root: StateRoot, container_id: str, shared: str) -> Fd:
    """Make the folder of a container, which nobody else can read.

    It is locked as long as it is open. If an existing folder is not locked and has no container, another program has
    deleted that container, and the folder is used again.

    Args:
        shared: the folder of our worker. Its name says which worker it is.
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
    """Record that a container belongs to our program. If the worker is killed, the next one sees it."""
    posix.mkdir(f"{bundle(root, container_id)}/{OWNED}", 0o700)


def remove_bundle(root: StateRoot, container_id: str) -> None:
    """Remove a container's bundle if there is one."""
    remove_folder(bundle(root, container_id))


def prepare(root: StateRoot) -> None:
    """Make the worker's own folder in a state root, before the worker makes anything else there."""
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
    """The state root of the containers that nobody has asked for yet."""
    return StateRoot(f"{shared}/ahead")


def _delete_all(root: StateRoot) -> None:
    if posix.access(root.path, posix.F_OK):
        for container_id in root.ids():
            Container.delete(root, container_id, force=True)


def leave() -> None:
    """Remove the worker's own folders, as it ends."""
    for place in _own.values():
        try:
            _delete_all(ahead(place))
            remove_folder(place)
        except OSError:
            pass  # the next worker removes it
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
    """Remove what nobody else will remove: the folders of workers and containers that are gone, and the containers that
    only a worker that is gone knew of (`run`, `Pool`)."""
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
    """The worker that made a container and alone knows of it; "": there is none."""
    words = container_id.split("-")
    ours = len(words) == 4 and words[0] == "pyrunc" and words[3].startswith(OURS)
    return f"{words[1]}-{words[2]}" if ours else ""


def remove_folder(place: str) -> None:
    """Remove a folder with all that is in it, and what is added meanwhile: a caller that gives a container up makes it
    its own first (`own`)."""
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
    """Remove all that is in a folder. A tar may be deep, so deeper folders are moved up first, and at most two
    descriptors are open at a time. What is mounted there is not ours to empty."""
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

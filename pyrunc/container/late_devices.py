"""Give devices to a running container, and take them away again: the node together with the rule.

Without a user namespace the node is made in the container's /dev. With one the kernel refuses device nodes, and the
host's node is bound there. Only what was given is taken away.

A node gives access to a device to whoever can open it, and on the host no cgroup forbids that. So nodes are made only
on the file system of the container's own /dev. A symlink, or a mount below, may lead to a folder of the host's.
"""

import _stat
import errno
import posix

from pyrunc.container import late_mounts
from pyrunc.container.container import Container
from pyrunc.container.late_mounts import Inside, Lost, inside_of, run_inside
from pyrunc.errors import PyruncError, StateError, UsageError, reason
from pyrunc.init.dev import is_bound
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, mount_setattr, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.spec.types import DeviceRule

ADDED = "addedDevices"  # in state.json: {path: what it is}
CHANGED = "changedRules"  # in state.json, while rules are replaced: those that were in force before
KINDS = {_stat.S_IFCHR: "c", _stat.S_IFBLK: "b"}


class Wanted:
    """One device: `/dev/fuse`, `/dev/sda:/dev/disk`, `/dev/sda:/dev/disk:r`, as Docker's --device has it."""

    __slots__ = ("access", "inside", "source", "status")

    def __init__(self, text: str) -> None:
        """Read the text. Raises UsageError, PyruncError."""
        source, _, rest = text.partition(":")
        inside, _, access = rest.partition(":")
        self.source, self.inside, self.access = source, normal(inside or source), access or "rwm"
        if not source.startswith("/") or self.access.strip("rwm"):
            raise UsageError(
                "--device-add", f'"{text}"', "is not a device, perhaps :its path in /dev, and :some of rwm"
            )
        try:
            self.status = posix.stat(source)
        except OSError as error:
            raise PyruncError("--device-add", source, reason(error)) from error
        if _stat.S_IFMT(self.status.st_mode) not in KINDS:
            raise UsageError("--device-add", source, "is no device")
        if not self.inside.startswith("/dev/"):
            raise UsageError("--device-add", self.inside, "is not in /dev", "as in /dev/sda:/dev/disk")

    @property
    def rule(self) -> "DeviceRule":
        number = self.status.st_rdev
        return {
            "allow": True,
            "type": KINDS[_stat.S_IFMT(self.status.st_mode)],
            "major": posix.major(number),
            "minor": posix.minor(number),
            "access": self.access,
        }


def change(container: Container, given: "list[str]", taken: "list[str]", others: "Callable[[], None]") -> None:
    """Give devices, change the limits, take devices away. If one of the first two fails, no device is given.

    Args:
        others: changes the limits. It takes the lock itself.
    """
    wanted = [Wanted(text) for text in given]
    done: list[Wanted] = []
    try:
        for each in wanted:
            _locked(container, lambda each=each: add(container, each))  # type: ignore[misc]
            done.append(each)
        others()
    except BaseException:
        for each in done:
            _locked(container, lambda each=each: remove(container, each.inside))  # type: ignore[misc]
        raise
    for place in taken:
        _locked(container, lambda place=place: remove(container, place))  # type: ignore[misc]


def _locked(container: Container, work: "Callable[[], None]") -> None:
    container.directory.lock("update")
    try:
        work()
    finally:
        container.directory.unlock()


def add(container: Container, wanted: Wanted) -> None:
    """Give one device. The caller holds the lock."""
    late_mounts.refuse_foreign(container)
    _settle(container)
    known = container.record.get(ADDED, {})
    if wanted.inside in known:
        raise StateError("device", wanted.inside, "it was added before", "take it away first: --device-rm")
    inside = inside_of(container)
    _refuse_hosts_dev(container, inside)
    bound = any(n["type"] == "user" for n in container.config["linux"].get("namespaces") or [])
    tree = open_tree(wanted.source) if bound else None
    if tree is not None:
        mount_setattr(tree, set=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    rules = _rules(container)
    added = {"rule": wanted.rule, "mount": inside.number(tree) if tree else 0}
    try:
        _change(container, {**known, wanted.inside: added}, [*rules, wanted.rule])
        run_inside(inside, lambda: _make(inside, wanted, tree))
    except BaseException as error:  # a device without a node must not be allowed
        unknown = isinstance(error, Lost) or not isinstance(error, Exception)
        _change(container, container.record[ADDED] if unknown else known, rules)  # --device-rm takes it away then
        raise


def remove(container: Container, place: str) -> None:
    """Take one device away. The rule goes first: from then on nothing more can be opened. What is open stays open."""
    place = normal(place)
    known = {**container.record.get(ADDED, {})}
    if place not in known:
        raise StateError("device", place, "it was not added by `pyrunc update --device-add`")
    _settle(container)
    added = known[place]
    left = _rules(container)
    if added["rule"] in left:
        left.remove(added["rule"])
    inside = inside_of(container)
    _change(container, known, left)
    run_inside(inside, lambda: _take(inside, place, added))
    del known[place]
    _change(container, known, left)


def _rules(container: Container) -> "list[DeviceRule]":
    return [*((container.config["linux"].get("resources") or {}).get("devices") or [])]


def _change(container: Container, known: "dict[str, Any]", rules: "list[DeviceRule]") -> None:
    """Put other rules in force. They are put on record first: nobody could take away again what is not on record."""
    before = _rules(container)
    container.record[ADDED] = known
    if rules != before:
        container.record[CHANGED] = before
    container.directory.save(container.record)
    if rules == before:
        return
    container.config["linux"].setdefault("resources", {})["devices"] = rules
    container.directory.save_config(container.config)
    _settle(container)


def _settle(container: Container) -> None:
    """Put the rules on record in force. A verb that was killed may have left that undone."""
    if CHANGED in container.record:
        container.cgroup.change_devices(container.record[CHANGED], _rules(container))
        del container.record[CHANGED]
        container.directory.save(container.record)


def _refuse_hosts_dev(container: Container, inside: Inside) -> None:
    with open_at(None, "/dev", posix.O_PATH | posix.O_DIRECTORY) as ours, _dev(inside) as theirs:
        mine, its = posix.fstat(ours.number), posix.fstat(theirs.number)
    if is_bound(container.config) or (mine.st_dev, mine.st_ino) == (its.st_dev, its.st_ino):
        raise PyruncError("--device-add", "", "the container's /dev is a folder of the host's: nothing is made in it")


# In the child


def _dev(inside: Inside) -> Fd:
    return path.resolve(inside.root, "/dev", symlinks=False, directory=True)


def _make(inside: Inside, wanted: Wanted, tree: "Fd | None") -> None:
    parent, _, name = wanted.inside[len("/dev") :].rpartition("/")
    posix.umask(0)
    with _dev(inside) as dev:
        if tree is not None:
            with inside.as_its_root(lambda: _place(dev, parent, name)) as target:
                move_mount(tree, target)
            return
        with path.folder_below(dev, parent, make=True) as folder:
            posix.mknod(name, wanted.status.st_mode, wanted.status.st_rdev, dir_fd=folder.number)
            try:
                _give(inside, folder, name, wanted.status)
            except OSError:
                posix.unlink(name, dir_fd=folder.number)
                raise


def _place(dev: Fd, parent: str, name: str) -> Fd:
    with path.folder_below(dev, parent, make=True) as folder:
        posix.close(posix.open(name, posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600, dir_fd=folder.number))
        return path.openat2(folder, name, posix.O_PATH, resolve=path.SAME_FILE_SYSTEM)


def _give(inside: Inside, folder: Fd, name: str, status: "posix.stat_result") -> None:
    """Give the node the owner that it has on the host. If the container has put something else in its place, that stays
    as it is."""
    with path.openat2(folder, name, posix.O_PATH | posix.O_NOFOLLOW, resolve=path.SAME_FILE_SYSTEM) as node:
        if posix.fstat(node.number).st_rdev == status.st_rdev:
            posix.chown(f"self/fd/{node.number}", status.st_uid, status.st_gid, dir_fd=inside.proc.number)


def _take(inside: Inside, place: str, added: "dict[str, Any]") -> None:
    """Remove the node. What the container has moved or replaced is left to it: no rule allows it any more."""
    if added["mount"]:
        late_mounts.detach_all(inside, [(place, added["mount"])])
    parent, _, name = place[len("/dev") :].rpartition("/")
    try:
        with _dev(inside) as dev, path.folder_below(dev, parent, make=False) as folder:
            status = posix.stat(name, dir_fd=folder.number, follow_symlinks=False)
            if added["mount"]:
                inside.as_its_root(lambda: posix.unlink(name, dir_fd=folder.number))
            elif status.st_rdev == posix.makedev(added["rule"]["major"], added["rule"]["minor"]):
                posix.unlink(name, dir_fd=folder.number)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV):
            raise

"""Devices that a container is given while it runs, or that are taken from it again: the node and the rule together.

Without a user namespace the node is made in the container's /dev; with one the kernel takes none, and the host's is
bound there. What is taken away must be what was given.
"""

import _stat
import posix

from pyrunc.container import late_mounts
from pyrunc.container.container import Container
from pyrunc.container.late_mounts import Inside, inside_of, run_inside
from pyrunc.errors import PyruncError, StateError, UsageError, reason
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, mount_setattr, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.spec.types import DeviceRule

ADDED = "addedDevices"  # in state.json: {path: what it is}
KINDS = {_stat.S_IFCHR: "c", _stat.S_IFBLK: "b"}


class Wanted:
    """One device: `/dev/fuse`, `/dev/sda:/dev/disk`, `/dev/sda:/dev/disk:r`, as Docker's --device has it."""

    __slots__ = ("access", "inside", "source", "status")

    def __init__(self, text: str) -> None:
        """Raises UsageError, PyruncError."""
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
    """Give and take devices, and change the rest of it: all or nothing of what is given.

    Args:
        others: changes the limits; it takes the lock itself.
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
    """The lock is the caller's to hold."""
    late_mounts.refuse_foreign(container)
    known = {**container.record.get(ADDED, {})}
    if wanted.inside in known:
        raise StateError("device", wanted.inside, "it was added before", "take it away first: --device-rm")
    inside = inside_of(container)
    bound = any(n["type"] == "user" for n in container.config["linux"].get("namespaces") or [])
    tree = open_tree(wanted.source) if bound else None
    if tree is not None:
        mount_setattr(tree, set=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    rules = _rules(container)
    container.cgroup.change_devices(rules, [*rules, wanted.rule])
    try:
        run_inside(inside, lambda: _make(inside, wanted, tree))
        known[wanted.inside] = {"rule": wanted.rule, "mount": inside.number(tree) if tree else 0}
        _save(container, known, [*rules, wanted.rule])
    except BaseException:  # what is not on record must not be allowed
        container.cgroup.change_devices([*rules, wanted.rule], rules)
        raise


def remove(container: Container, place: str) -> None:
    """The rule first: from then on what is open stays open, and nothing more can be opened."""
    place = normal(place)
    known = {**container.record.get(ADDED, {})}
    if place not in known:
        raise StateError("device", place, "it was not added by `pyrunc update --device-add`")
    added = known.pop(place)
    rules = _rules(container)
    left = [*rules]
    left.remove(added["rule"])
    inside = inside_of(container)
    container.cgroup.change_devices(rules, left)
    _save(container, known, left)
    run_inside(inside, lambda: _take(inside, place, added))


def _rules(container: Container) -> "list[DeviceRule]":
    return [*((container.config["linux"].get("resources") or {}).get("devices") or [])]


def _save(container: Container, known: "dict[str, Any]", rules: "list[DeviceRule]") -> None:
    container.record[ADDED] = known
    container.directory.save(container.record)
    container.config["linux"].setdefault("resources", {})["devices"] = rules
    container.directory.save_config(container.config)


# In the child


def _make(inside: Inside, wanted: Wanted, tree: "Fd | None") -> None:
    parent, _, name = wanted.inside.rpartition("/")
    if tree is not None:
        with inside.as_its_root(lambda: path.ensure_file(inside.root, wanted.inside)) as target:
            move_mount(tree, target)
        return
    with path.ensure_directory(inside.root, parent) as folder:
        posix.umask(0)
        posix.mknod(name, wanted.status.st_mode, wanted.status.st_rdev, dir_fd=folder.number)
        posix.chown(name, wanted.status.st_uid, wanted.status.st_gid, dir_fd=folder.number, follow_symlinks=False)


def _take(inside: Inside, place: str, added: "dict[str, Any]") -> None:
    if added["mount"]:
        late_mounts.detach_all(inside, [(place, added["mount"])])
    parent, _, name = place.rpartition("/")
    with path.resolve(inside.root, parent, directory=True) as folder:
        try:
            status = posix.stat(name, dir_fd=folder.number, follow_symlinks=False)
        except FileNotFoundError:
            return  # the container has removed it
        if added["mount"]:
            inside.as_its_root(lambda: posix.unlink(name, dir_fd=folder.number))  # the folder may be another by now
        elif status.st_rdev == posix.makedev(added["rule"]["major"], added["rule"]["minor"]):
            posix.unlink(name, dir_fd=folder.number)

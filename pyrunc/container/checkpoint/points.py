"""Where a restored container's mounts go, and where they come from.

All of this is done in a mount namespace of its own, which CRIU inherits.
"""

import _stat
import posix

from pyrunc.container import notify
from pyrunc.container.checkpoint import folders
from pyrunc.container.checkpoint.criu import EXTERNAL
from pyrunc.container.checkpoint.external import BIND, CGROUP, cgroup_sources, kind_of, submounts
from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.init import dev
from pyrunc.init.mounts import normal
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at, write_all
from pyrunc.linux.mount import (
    MOUNT_ATTR_RDONLY,
    MS_REC,
    MS_SLAVE,
    mount_setattr,
    move_mount,
    new_filesystem,
    open_tree,
    set_propagation,
    umount_detach,
)
from pyrunc.linux.mount_options import MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.recorded import Recorded
    from pyrunc.init.channel import Channel
    from pyrunc.spec.types import Config, Mount

CHAIN, IMAGES, WORK, COPIES = (
    "chain",
    ":images",
    "work",
    "copies",
)  # an image's name has no colon: it is a folder of a path


class Points:
    """The mounts of one container that is to be restored.

    Args:
        state: the container's state directory.
        place: a folder in `state`. All that CRIU needs is mounted on it, and nothing else.
        no_pivot: whether this host's root is a ramdisk.

    Attributes:
        root: the path of the root file system, below `place`.
    """

    __slots__ = ("along", "config", "container", "copies", "files", "no_pivot", "place", "root", "rootfs", "state")

    def __init__(self, container: "Recorded", config: "Config", state: str, place: str, no_pivot: bool) -> None:
        self.container = container
        self.config = config
        self.rootfs: str = container.record["rootfs"]
        self.state = state
        self.place = place
        self.root = f"{place}/root"
        self.no_pivot = no_pivot
        self.along: dict[str, Fd] = {}
        self.files: dict[str, Fd] = {}
        self.copies: dict[str, bytes] = {}

    def bring_along(self, images: Fd, parents: "dict[str, Fd]", work: "Fd | None", copies: "dict[str, bytes]") -> None:
        """Make mounts of the folders. The child attaches them where CRIU finds them. This runs in the parent, which has
        the descriptors.

        Images link to earlier ones in a folder beside them, so those folders lie beside each other here too. A copy in
        `copies` covers the image of the same name.

        In a user namespace the restored processes read the images themselves, and have no rights on the host. They
        can't enter the folder of the images, which is closed to everybody else. So they get another folder with the
        same files. Nothing can be written there: CRIU's log and its other files still go to the usual folder.
        """
        self.copies = copies
        chain = {IMAGES: images, **parents}
        last = [*chain][-1]
        if any(n["type"] == "user" for n in self.config["linux"].get("namespaces") or []):
            if parents:
                raise PyruncError(
                    "restoring", self.container.id, "earlier checkpoints can't be read in a user namespace"
                )
            self.files = folders.files_of(images)
            self.along = {WORK: folders.guarded(work or images)}
            return
        self.along = {f"{CHAIN}/{name}": folders.guarded(folder, name != last) for name, folder in chain.items()}
        if work is not None:
            self.along[WORK] = folders.guarded(work)

    def make(self, line: "Channel") -> "dict[str, Fd]":
        """Mount everything. This runs in the child. It sends the name and source of each mount from outside over
        `line`, and returns the folders that CRIU works in."""
        set_propagation(MS_SLAVE | MS_REC)
        if self.no_pivot:
            _be_on_a_mount()
        with open_at(None, self.place, posix.O_PATH | posix.O_DIRECTORY) as place:
            move_mount(new_filesystem("tmpfs", "tmpfs", [("mode", "700")]), place)
        for name in ("root", CHAIN, COPIES, *self.along):
            posix.mkdir(f"{self.place}/{name}", 0o700)
        for name, source in self._prepare().items():
            line.send(EXTERNAL, name, source)
        self._mount_root(bool(self.config["root"].get("readonly"))).close()
        for name, mount in self.along.items():
            with open_at(None, f"{self.place}/{name}", posix.O_PATH | posix.O_DIRECTORY) as there:
                move_mount(mount, there)
        self._make_folder_of_files()
        self._cover()
        kept = {"images": open_at(None, f"{self.place}/{CHAIN}/{IMAGES}", posix.O_RDONLY | posix.O_DIRECTORY)}
        if WORK in self.along:
            kept["work"] = open_at(None, f"{self.place}/{WORK}", posix.O_RDONLY | posix.O_DIRECTORY)
        return kept

    def _make_folder_of_files(self) -> None:
        if not self.files:
            return
        folder = f"{self.place}/{CHAIN}/{IMAGES}"
        posix.mkdir(folder, 0o755)
        for name, mount in self.files.items():
            with open_at(None, f"{folder}/{name}", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o600) as there:
                move_mount(mount, there)

    def _cover(self) -> None:
        """Mount the copies over their images. Their mode lets everybody read them, for restored processes in a user
        namespace. All others are kept out by the folders above."""
        for name, data in self.copies.items():
            place = f"{self.place}/{COPIES}/{name}"
            with open_at(None, place, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644) as copy:
                posix.fchmod(copy.number, 0o644)
                write_all(copy, data)
            there = f"{self.place}/{CHAIN}/{IMAGES}/{name}"
            with open_at(None, there, posix.O_PATH | posix.O_NOFOLLOW) as image:
                move_mount(open_tree(place), image)

    def _mount_root(self, readonly: bool = False) -> Fd:
        """Mount the root file system, and return its top. CRIU demands a mount, and takes the root's flags from it."""
        with open_at(None, self.rootfs, posix.O_PATH | posix.O_DIRECTORY) as rootfs:
            tree = open_tree(rootfs, recursive=True)
        if readonly:
            mount_setattr(tree, set=MOUNT_ATTR_RDONLY)
        with open_at(None, self.root, posix.O_PATH | posix.O_DIRECTORY) as place:
            move_mount(tree, place)
        return open_at(None, self.root, posix.O_PATH | posix.O_DIRECTORY)

    def _prepare(self) -> "dict[str, str]":
        """Make all mount points in the root file system, as `create` does. Returns name -> source of each mount from
        outside.

        To find the mount points, everything is mounted for a moment as it will be: bind mounts as they are, and an
        empty file system for each of the others. Mount points inside an empty one vanish together with it.
        """
        found = {notify.INSIDE: f"{self.state}/{notify.FOLDER}"}
        found |= {device["path"]: device["path"] for device in dev.wanted(self.config["linux"])}
        root = self._mount_root()
        try:
            for entry in self.config.get("mounts") or []:
                try:
                    found |= self._one(root, entry)
                except OSError as error:
                    subject = f'"{entry.get("source") or ""}" to rootfs at "{entry["destination"]}"'
                    raise StepError("restoring mount", subject, reason(error)) from error
        finally:
            root.close()
            umount_detach(self.root)
        return found

    def _one(self, root: Fd, entry: "Mount") -> "dict[str, str]":
        """Make the mount point of one entry, and mount something there that stands for it. Returns what of it comes
        from outside."""
        kind, destination = kind_of(entry), normal(entry["destination"].removeprefix(self.rootfs))
        if not kind:
            return {}
        if kind != BIND:
            place = self._attach(new_filesystem("tmpfs", "tmpfs", [("mode", "755")]), root, destination)
            return cgroup_sources(self.container, place) if kind == CGROUP else {}
        source = entry.get("source") or ""
        if not source.startswith("/"):
            source = f"{self.container.record['bundle']}/{source}"
        options = MountOptions(entry.get("options") or [])
        if not options.source_link:  # source_link mounts the link itself. CRIU follows no other
            with open_at(None, source, posix.O_PATH) as there:
                source = posix.readlink(f"/proc/self/fd/{there.number}")
        tree = open_tree(source, recursive=options.recursive, follow=not options.source_link)
        place = self._attach(tree, root, destination)
        below = submounts(source) if options.recursive else []
        return {place: source, **{place.rstrip("/") + each: source.rstrip("/") + each for each in below}}

    def _attach(self, tree: Fd, root: Fd, destination: str) -> str:
        """Attach a mount at its destination. Returns the path where that is, with the container's symlinks followed."""
        is_folder = _stat.S_ISDIR(posix.fstat(tree.number).st_mode)
        with path.ensure_directory(root, destination) if is_folder else path.ensure_file(root, destination) as target:
            place = posix.readlink(f"/proc/self/fd/{target.number}")[len(self.root) :] or "/"
            move_mount(tree, target)
        return place


def _be_on_a_mount() -> None:
    """Mount a copy of the root over itself. pivot_root(2) can't leave a ramdisk, as its root mount has no parent. The
    copy has one."""
    top = open_tree("/", recursive=True)
    with open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY) as root:
        move_mount(top, root)
    posix.fchdir(top.number)
    posix.chroot(".")
    posix.chdir("/")

"""Where a restored container's mounts go, and where they come from. All of this is done in a mount namespace of its
own, which CRIU inherits."""

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
    """Args:
        state: the container's state directory.
        place: a folder in it, on which all that CRIU needs is mounted, and nothing else.
        no_pivot: this host's root is a ramdisk.

    Attributes:
        root: where in it the root file system is.
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
        """In the parent, whose descriptors they are: the folders as mounts, which the child puts where CRIU finds them.
        Links from images to earlier ones go to folders beside them, and so they do there. `copies` of images cover
        those of their names.

        In a user namespace the restored processes read images themselves, without a right of the host's: their folder,
        which is closed to everybody, is none for them. They get another one with the same files, in which nothing can
        be written: CRIU's log and the like go to where they always go.
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
        """In the child. Each mount that comes from outside is told: its name, and its source. Returns the folders."""
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
        """In a user namespace too they can be read: their folders are closed to everybody else."""
        for name, data in self.copies.items():
            place = f"{self.place}/{COPIES}/{name}"
            with open_at(None, place, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644) as copy:
                posix.fchmod(copy.number, 0o644)
                write_all(copy, data)
            there = f"{self.place}/{CHAIN}/{IMAGES}/{name}"
            with open_at(None, there, posix.O_PATH | posix.O_NOFOLLOW) as image:
                move_mount(open_tree(place), image)

    def _mount_root(self, readonly: bool = False) -> Fd:
        """A mount, as CRIU asks for, which takes its flags from it; its top."""
        with open_at(None, self.rootfs, posix.O_PATH | posix.O_DIRECTORY) as rootfs:
            tree = open_tree(rootfs, recursive=True)
        if readonly:
            mount_setattr(tree, set=MOUNT_ATTR_RDONLY)
        with open_at(None, self.root, posix.O_PATH | posix.O_DIRECTORY) as place:
            move_mount(tree, place)
        return open_at(None, self.root, posix.O_PATH | posix.O_DIRECTORY)

    def _prepare(self) -> "dict[str, str]":
        """The root file system with all places to mount on, as `create` makes them. To find those, everything is
        mounted as it will be: what is bound as itself, the rest as an empty file system, which takes what is made
        there along."""
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
        """Make its place, and mount there what stands for it. What of it comes from outside."""
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
        if not options.source_link:  # which is mounted itself; any other CRIU would not follow
            with open_at(None, source, posix.O_PATH) as there:
                source = posix.readlink(f"/proc/self/fd/{there.number}")
        tree = open_tree(source, recursive=options.recursive, follow=not options.source_link)
        place = self._attach(tree, root, destination)
        below = submounts(source) if options.recursive else []
        return {place: source, **{place.rstrip("/") + each: source.rstrip("/") + each for each in below}}

    def _attach(self, tree: Fd, root: Fd, destination: str) -> str:
        """Returns where that is, as the container sees it: by its symlinks."""
        is_folder = _stat.S_ISDIR(posix.fstat(tree.number).st_mode)
        with path.ensure_directory(root, destination) if is_folder else path.ensure_file(root, destination) as target:
            place = posix.readlink(f"/proc/self/fd/{target.number}")[len(self.root) :] or "/"
            move_mount(tree, target)
        return place


def _be_on_a_mount() -> None:
    """pivot_root(2) leaves no ramdisk: its root has no parent. A copy of it that is mounted over it has one."""
    top = open_tree("/", recursive=True)
    with open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY) as root:
        move_mount(top, root)
    posix.fchdir(top.number)
    posix.chroot(".")
    posix.chdir("/")

"""The root file system as the loop mounts and unmounts it, if it is a single mount, as most snapshotters give it.

To look up a source may mean to wait for a server. To unmount an overlay writes to the disk what its container has
written. So these calls are made aside. A worker does the other mounts (mounts.py).
"""

from pyrunc.errors import PyruncError, reason
from pyrunc.linux import apart
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import MNT_DETACH
from pyrunc.linux.mount_options import MountOptions
from pyrunc.shim.aside import Aside
from pyrunc.shim.place import MAPS, Place, arguments_of_mount, attach, finish
from pyrunc.shim.unmount import NOTHING_THERE, UMOUNT_NOFOLLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.log import Log
    from pyrunc.shim.children import Children
    from pyrunc.shim.ttrpc import Status

    Done = Callable[[Exception | None], None]

NEEDS_MORE = ("loop", "remount", *MAPS, "X-containerd.")


def is_simple(mounts: "list[dict[str, Any]]") -> bool:
    """Whether `Mounting` can do it."""
    if not mounts:
        return True
    first = mounts[0]
    kinds = ("overlay", "bind")
    return (
        len(mounts) == 1
        and first["type"] in kinds
        and not first["target"].strip("/")
        and not any(word.startswith(NEEDS_MORE) for word in first["options"])
    )


class Mounting:
    """A root file system that is being mounted.

    Args:
        done: is called once: with None, or with why it could not be mounted. Then nothing is mounted.
    """

    __slots__ = ("aside", "children", "done", "given", "log", "options", "place", "target")

    def __init__(
        self, children: "Children", mounts: "list[dict[str, Any]]", root: str, done: "Done", log: "Log"
    ) -> None:
        self.children = children
        self.log = log
        self.given = mounts[0] if mounts else None
        self.place = Place(root, "")
        self.done: Done = done
        self.aside: Aside | None = None
        self.target: Fd | None = None

    def begin(self) -> None:
        """Begin to mount. Raises OSError."""
        if self.given is None:
            return self.done(None)
        self.options = MountOptions([word for word in self.given["options"] if word])
        kind, source = self.given["type"], self.given["source"]
        if self.options.bind:
            call = apart.open_tree(source, self.options.recursive)
        else:
            self.target = self.place.top()
            folder, flags, data = arguments_of_mount(kind, self.options)
            call = apart.mount(source, f"/proc/self/fd/{self.target.number}", kind, flags, data, folder)
        self.aside = self.children.aside(f"{kind} {source}", call, self._returned, self.log, "create.mount_rootfs")

    def _returned(self, result: int, error: "Exception | None") -> None:
        done, self.done = self.done, _nobody  # its owner refers to us: only a collection would free both
        try:
            if error is not None:
                raise error
            if self.options.bind:
                with Fd(result, str(self.place)) as tree:
                    attach(tree, self.place, self.options)
            else:
                finish(self.place, self.options, None)
        except OSError as failed:
            return done(PyruncError("mounting the root file system", str(self.place), reason(failed)))
        except Exception as failed:
            return done(failed)
        finally:
            if self.target is not None:
                self.target.close()
        done(None)

    def stop(self, why: "Status") -> None:
        if self.aside is not None:
            self.aside.call_off(why)


def _nobody(_: "Exception | None") -> None:
    """Do nothing: `done` was called already."""


def unmount(children: "Children", root: str, done: "Done", log: "Log") -> Aside:
    """Unmount all that is mounted on a folder. `done` is called once: with None, or with why it could not be done.
    Raises OSError."""

    def returned(_: int, error: "Exception | None") -> None:
        if isinstance(error, OSError):
            nothing = error.errno in NOTHING_THERE
            error = None if nothing else PyruncError("unmounting the root file system", root, reason(error))
        done(error)

    call = apart.umount_all(root, MNT_DETACH | UMOUNT_NOFOLLOW)
    return children.aside(f"unmounting {root}", call, returned, log, "delete.unmount_rootfs")

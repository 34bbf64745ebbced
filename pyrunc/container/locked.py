"""Mounts for a user namespace, whose root may not undo what the host has restricted.

A mount that is copied into a mount namespace of another user namespace is locked by the kernel: nobody there makes it
writable again, or unmounts what hides something in it. mount_namespaces(7). One that is attached there by us would not
be, and its root could do both. So it is copied by way of such a namespace first.
"""

import _stat
import posix

from pyrunc.container.errand import Errand
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import MS_PRIVATE, MS_REC, SCRATCH, move_mount, new_filesystem, open_tree, set_propagation
from pyrunc.linux.process import CLONE_NEWNS, CLONE_NEWUSER, unshare

OPTIONS: "list[tuple[str, str | None]]" = [("mode", "0755"), ("nr_inodes", "2"), ("size", "4k")]
PLACE = "place"


def locked(tree: Fd) -> Fd:
    """The same detached mount, with its attributes as they are now for ever. Raises OSError."""
    with Errand(lambda: _copied(tree)) as elsewhere:
        assert elsewhere.brought is not None
        return elsewhere.brought


def _copied(tree: Fd) -> Fd:
    unshare(CLONE_NEWNS)
    set_propagation(MS_PRIVATE | MS_REC)
    folder = new_filesystem("tmpfs", "tmpfs", OPTIONS, 0, "a folder to mount in")
    with open_at(None, SCRATCH, posix.O_PATH | posix.O_DIRECTORY) as top:
        move_mount(folder, top)
    ensure = path.ensure_directory if path.file_type(tree) == _stat.S_IFDIR else path.ensure_file
    with ensure(folder, PLACE) as place:
        move_mount(tree, place)
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    return open_tree(f"{SCRATCH}/{PLACE}", recursive=True)

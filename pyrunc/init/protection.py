"""Paths that the container must not see or change. config-linux.md#masked-paths, #readonly-paths"""

import _stat
import errno

from pyrunc.init import labels
from pyrunc.init.context import Context, step
from pyrunc.init.dev import verified_null
from pyrunc.linux import path
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import (
    MOUNT_ATTR_RDONLY,
    mount_setattr,
    move_mount,
    new_filesystem,
    open_tree,
)


@step("making paths read-only")
def protect(context: Context) -> None:
    """A copy of what is there, made read-only while nobody can reach it, on top of itself: from one fd, so that
    nothing can be swapped in between (youki GHSA-3q8j-pf29-vwv8).
    """
    for place in context.config["linux"].get("readonlyPaths") or []:
        found = _resolve(context, place)
        if found is None:
            continue
        with found as target:
            copy = open_tree(target, recursive=True)
            mount_setattr(copy, set=MOUNT_ATTR_RDONLY)
            move_mount(copy, target)


@step("masking paths")
def mask(context: Context) -> None:
    """Files with the verified null device, directories with one empty, read-only tmpfs that all of them share."""
    empty: Fd | None = None
    for place in dict.fromkeys(context.config["linux"].get("maskedPaths") or []):
        found = _resolve(context, place)
        if found is None:
            continue
        with found as target:
            if path.file_type(target) != _stat.S_IFDIR:
                move_mount(open_tree(verified_null(context)), target)
            elif empty is None:
                empty = _empty_directory(context)
                move_mount(empty, target)
            else:
                move_mount(open_tree(empty), target)


def _resolve(context: Context, place: str) -> "Fd | None":
    """None where there is nothing to protect.

    Below /proc and /sys in what we have mounted there, not by those names: in a root that somebody else writes to they
    could be links by now, or other folders (CVE-2023-27561).
    """
    root = context.root
    assert root is not None
    for top, mount in context.pinned.items():
        if place.startswith(f"{top}/") and "/../" not in f"{place}/":
            root, place = mount, place[len(top) :]
            break
    try:
        return path.resolve(root, place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _empty_directory(context: Context) -> Fd:
    attributes = MOUNT_ATTR_RDONLY
    options: list[tuple[str, str | None]] = [("ro", None), ("nr_blocks", "1"), *labels.for_mount(context, "tmpfs")]
    try:
        return new_filesystem("tmpfs", "tmpfs", [*options, ("nr_inodes", "1")], attributes, "an empty directory")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # some kernels count the root's inode otherwise
    return new_filesystem("tmpfs", "tmpfs", [*options, ("nr_inodes", "2")], attributes, "an empty directory")

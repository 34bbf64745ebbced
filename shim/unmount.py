"""Unmounting the root file system: by the shim, or by `delete` after a shim was killed."""

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.mount import MNT_DETACH, umount

UMOUNT_NOFOLLOW = 8
LOWER = ".lower"  # beside the root file system: the layers, for as long as it takes to mount them
NOTHING_THERE = (2, 22)  # no such path, or no mount


def unmount_all(root: str) -> None:
    """Unmount all that is mounted there, which may be several mounts. It is no error if there is none."""
    for _ in range(64):
        try:
            umount(root, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return
            raise PyruncError("unmounting the root file system", root, reason(error)) from error

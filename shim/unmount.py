"""The root file system is unmounted: by the shim, and by `delete` after a shim that was killed."""

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.mount import MNT_DETACH, umount

UMOUNT_NOFOLLOW = 8
LOWER = ".lower"  # beside the root file system: the layers, for as long as it takes to mount them
NOTHING_THERE = (2, 22)  # no such path, or no mount


def unmount_all(root: str) -> None:
    """All that is mounted there, of which there may be several; a root file system that is none is no error."""
    for _ in range(64):
        try:
            umount(root, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return
            raise PyruncError("unmounting the root file system", root, reason(error)) from error

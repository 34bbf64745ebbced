"""What happens to a file. inotify(7)"""

from pyrunc.linux import kernel_error
from pyrunc.linux._kernel import lib
from pyrunc.linux.fd import Fd

IN_OPEN = 0x20


def watch(path: str, events: int) -> Fd:
    """A descriptor that tells of events of this file from now on. Reading it waits for the next one.
    inotify_add_watch(2)
    """
    number = lib.sys_inotify(path.encode(), events)
    if number < 0:
        raise kernel_error("inotify", path)
    return Fd(number, f"events of {path}")

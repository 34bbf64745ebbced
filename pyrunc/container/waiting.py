"""exec --exec-wait-fifo: a process that is ready waits until somebody opens a fifo of the caller's for reading."""

import _stat
import posix

from pyrunc.errors import UsageError, reason
from pyrunc.init.execute import IN_CLOSE_NOWRITE
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.inotify import IN_OPEN, watch


def prepare(place: str) -> "tuple[Fd, Fd]":
    """The fifo's end to write to, and who tells that it is opened: for init.execute.wait_for_caller. Raises UsageError.

    Both are had here and now: open(2) would wait for the reader too, but the process that waits is the container's user
    by then, who may not open what is the caller's; nor is there a procfs to look it up in. For both directions first:
    a fifo that nobody reads can't be opened for writing alone.
    """
    try:
        with open_at(None, place, posix.O_PATH) as there:
            if path.file_type(there) != _stat.S_IFIFO:
                raise UsageError("exec wait fifo", place, "is not a fifo", "make it with mkfifo(1)")
            again = f"/proc/self/fd/{there.number}"
            with open_at(None, again, posix.O_RDWR | posix.O_NONBLOCK):
                fifo = open_at(None, again, posix.O_WRONLY | posix.O_NONBLOCK)
            return fifo, watch(again, IN_OPEN | IN_CLOSE_NOWRITE)
    except OSError as error:
        raise UsageError("failed to open exec wait fifo", place, error.strerror or reason(error)) from error

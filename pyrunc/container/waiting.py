"""exec --exec-wait-fifo: a process that is ready waits until somebody opens a fifo of the caller's for reading."""

import _stat
import posix

from pyrunc.errors import UsageError, reason
from pyrunc.init.execute import IN_CLOSE_NOWRITE
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.inotify import IN_OPEN, watch


def prepare(place: str) -> "tuple[Fd, Fd]":
    """Open the fifo for writing, and a descriptor that tells when it is opened. Both are for
    init.execute.wait_for_caller. Raises UsageError.

    Both are opened now, and not by the process that waits. open(2) would wait for the reader too. But by then the
    process runs as the container's user, who may not open the caller's file, and it has no procfs to look the file up
    in. The fifo is opened for both directions first: without a reader it can't be opened for writing alone.
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

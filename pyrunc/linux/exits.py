"""How a process has ended that is no child of ours. Off the path: `pyrunc wait`, and what needs the same."""

import fcntl
import posix
import select
import sys

from pyrunc.linux.fd import Fd, read_file
from pyrunc.linux.pid import pidfd_open

PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), as it was first: 64 bytes
SIZE = 64
INFO_EXIT = 1 << 3  # Linux 6.15
LOOK_MILLISECONDS = 100


def tells_exits() -> bool:
    """Whether the kernel tells it by pidfd, when the process has been waited for. ioctl_pidfd(2), Linux 6.15

    Asked of a child that has ended: a kernel that does not know what is asked for leaves it out of its answer.
    """
    pid = posix.fork()
    if not pid:
        posix._exit(7)
    with pidfd_open(pid) as pidfd:
        posix.waitpid(pid, 0)
        return exit_status(pidfd) == 7 << 8


def exit_status(pidfd: Fd) -> "int | None":
    """As waitpid(2) has it. None: it has not been waited for, or this kernel does not say."""
    info = bytearray(INFO_EXIT.to_bytes(8, sys.byteorder) + bytes(SIZE - 8))
    try:
        fcntl.ioctl(pidfd.number, PIDFD_GET_INFO, info)
    except OSError:
        return None  # ENOTTY before 6.13; ESRCH before 6.15
    if not int.from_bytes(info[:8], sys.byteorder) & INFO_EXIT:
        return None
    return int.from_bytes(info[60:64], sys.byteorder, signed=True)


def wait(pidfd: Fd, pid: int, start: int) -> "int | None":
    """Wait for the end of a process that is somebody else's: its status as waitpid(2) has it, or None where nobody can
    tell.

    As long as it has ended and its parent has not waited for it, /proc has it too (proc(5), field 52); that is all that
    an older kernel has for us.

    There is no bound: its end is what is waited for. Nobody prolongs what comes after that: where its parent does not
    wait for it, /proc tells; where it does, the process is there no more at the next look.
    """
    ended = False
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    while True:
        status = exit_status(pidfd)
        if status is None and ended:
            status = _of_zombie(pid, start)
        if status is not None:
            return status
        events = poll.poll(None if not ended else LOOK_MILLISECONDS)
        if ended and not _is_there(pid, start):
            return exit_status(pidfd)
        ended = bool(events) or ended
        if ended:
            poll.modify(pidfd.number, 0)  # POLLHUP comes unasked, when it has been waited for


def _fields(pid: int) -> "list[bytes]":
    try:
        text = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(b")") + 2 :].split()


def _is_there(pid: int, start: int) -> bool:
    fields = _fields(pid)
    return len(fields) > 49 and int(fields[19]) == start


def _of_zombie(pid: int, start: int) -> "int | None":
    fields = _fields(pid)
    if len(fields) > 49 and int(fields[19]) == start and fields[0] == b"Z":
        return int(fields[49])
    return None

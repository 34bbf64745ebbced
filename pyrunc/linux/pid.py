"""Which process a number means."""

import _signal
import errno
import posix
import select

from pyrunc.linux import kernel_error
from pyrunc.linux.fd import Fd, read_file

PIDFD_SIGNAL_PROCESS_GROUP = 4


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its pid, its identity. proc(5), field 22.

    Raises ProcessLookupError when there is no such process, or only its zombie.
    """
    try:
        text = read_file(f"/proc/{pid}/stat")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, posix.strerror(errno.ESRCH), f"process {pid}") from None
    fields = text[text.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(errno.ESRCH, "is a zombie", f"process {pid}")
    return int(fields[19])


def state_of(pid: int) -> str:
    """What a process is doing: R, S, D, T (stopped), Z, …; "" when there is none. proc(5), field 3"""
    try:
        text = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return chr(text[text.rindex(b")") + 2])


def pidfd_open(pid: int) -> Fd:
    """A descriptor of a process, which never means another one. pidfd_open(2), Linux 5.3. Raises ProcessLookupError.

    errno.EINVAL is what older kernels (6.12) say of a process that is gone and whose number is still that of a session.
    """
    try:
        return Fd(posix.pidfd_open(pid), f"process {pid}")
    except OSError as error:
        number = errno.ESRCH if error.errno == errno.EINVAL else error.errno or 0
        raise kernel_error("pidfd_open", f"process {pid}", number) from None


def pid_of(pidfd: Fd) -> int:
    """The number of a pidfd's process, -1 when it has been waited for. proc_pid_fdinfo(5), Linux 5.3; 5.15 for who is
    not root, as we are not dumpable."""
    lines = read_file(f"/proc/self/fdinfo/{pidfd.number}").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"Pid:"))


def has_ended(pidfd: Fd, seconds: float) -> bool:
    """Whether a process ends within that time. By poll(2): for select(2) a descriptor's number may be too high."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def reap(pidfd: Fd) -> int:
    """Wait for the end of a child of ours: its status, as waitpid(2) has it. By its number that might be another
    child's end. Raises ChildProcessError when somebody else has waited for it. waitid(2), P_PIDFD, Linux 5.4
    """
    end = posix.waitid(posix.P_PIDFD, pidfd.number, posix.WEXITED)
    assert end is not None
    return end.si_status << 8 if end.si_code == posix.CLD_EXITED else end.si_status


def pidfd_send_signal(pidfd: Fd, signal: int) -> None:
    """pidfd_send_signal(2), Linux 5.1. Raises ProcessLookupError."""
    try:
        _signal.pidfd_send_signal(pidfd.number, signal)
    except OSError as error:
        raise kernel_error("pidfd_send_signal", pidfd.name, error.errno or 0) from None


def kill_group(leader: Fd, pid: int) -> None:
    """SIGKILL to the process group of a process that nobody has waited for: its number is no other's as long. To itself
    too: it may have gone into another group, or not be in its own yet.

    PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9; killpg(2) before.
    """
    try:
        try:
            _signal.pidfd_send_signal(leader.number, _signal.SIGKILL, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except ProcessLookupError:
            pass
        except OSError:
            posix.killpg(pid, _signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        pidfd_send_signal(leader, _signal.SIGKILL)
    except ProcessLookupError:
        pass

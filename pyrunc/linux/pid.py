"""Which process a number means."""

import _signal
import errno
import posix
import select

from pyrunc.linux import kernel_error
from pyrunc.linux.fd import Fd, read_file

PIDFD_SIGNAL_PROCESS_GROUP = 4


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot. proc(5), field 22. Together with its pid this identifies it.

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


def has_namespaces(pid: int) -> bool:
    """A process that is ending leaves them before anything else tells that it has ended."""
    try:
        return bool(posix.readlink(f"/proc/{pid}/ns/mnt"))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # we may not see them


def pidfd_open(pid: int) -> Fd:
    """A descriptor of a process, which never means another one. pidfd_open(2), Linux 5.3. Raises ProcessLookupError.

    Older kernels (6.12) answer EINVAL when the process is gone and its number is still that of a session.
    """
    try:
        return Fd(posix.pidfd_open(pid), f"process {pid}")
    except OSError as error:
        number = errno.ESRCH if error.errno == errno.EINVAL else error.errno or 0
        raise kernel_error("pidfd_open", f"process {pid}", number) from None


def pid_of(pidfd: Fd) -> int:
    """The number of a pidfd's process; -1 when somebody has waited for it. proc_pid_fdinfo(5), Linux 5.3

    We are not dumpable, so our /proc/self/fdinfo belongs to root. Other users may read it since Linux 5.15.
    """
    lines = read_file(f"/proc/self/fdinfo/{pidfd.number}").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"Pid:"))


def has_ended(pidfd: Fd, seconds: float) -> bool:
    """Whether a process ends within that time. By poll(2): select(2) takes no descriptors above 1023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def reap(pidfd: Fd) -> int:
    """Wait for the end of a child of ours. Returns its status, as waitpid(2) has it. waitid(2), P_PIDFD, Linux 5.4

    Not by its number, which may be another child's by now. Raises ChildProcessError when somebody else has waited for
    it.
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


def end(child: Fd, seconds: float) -> None:
    """Kill a child of ours and wait for its end. One that hangs in a system call is left alone after that time.

    Somebody else may have waited for it, such as the kernel where SIGCHLD is ignored.
    """
    try:
        pidfd_send_signal(child, _signal.SIGKILL)
        if has_ended(child, seconds):
            reap(child)
    except (ProcessLookupError, ChildProcessError):
        pass


def kill_group(leader: Fd, pid: int) -> None:
    """Send SIGKILL to a process and to its process group. Nobody may have waited for the process: until then its
    number is no other's.

    The process gets the signal by itself as well: it may have left the group, or not have entered it yet.
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

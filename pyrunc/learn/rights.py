"""Which capabilities the kernel has asked for and granted: its tracepoint cap_capable (Linux 6.14), read by tracefs.

Without the tracepoint, the system calls that were made tell which capabilities can't have been needed.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable

from pyrunc.linux.mount import new_filesystem
from pyrunc.spec.rules import CAPABILITIES

HOSTS_PROCESSES = 0xEFFFFFFC  # PROC_PID_INIT_INO
ATTEMPTS = 100
# NAME-PID [CPU] FLAGS TIME: cap_capable: …. A process chooses its NAME, which may look like all of this. So the last
# match in the line counts.
EVENT = re.compile(rb".*-(\d+) +\[\d+\] \S+ +[\d.]+: cap_capable: .*cap (\d+), ret (-?\d+)")
LOST = re.compile(rb"CPU:\d+ \[LOST \d+ EVENTS\]")
INSTANCES, NAME = "instances", "pyrunc-learn-"
WRITES = {"write", "pwrite64", "writev", "pwritev", "fallocate", "openat", "open", "mkdir", "mkdirat"}
BIRTH = {"clone", "clone3", "fork", "vfork", "execve", "execveat"}
# In these calls the kernel only asks to decide whether to be generous: with reserved blocks, processes and quotas.
GENEROUS = {"CAP_SYS_RESOURCE": BIRTH | WRITES}
# The kernel asks for CAP_SYS_ADMIN whenever memory is taken (overcommit), even when a stack grows between two calls. So
# it only counts in these calls, which can need it, and in write(2) once a kernel parameter was opened for writing.
ADMIN_CALLS = {
    "acct", "bpf", "chroot", "fanotify_init", "fsconfig", "fsetxattr", "fsmount", "fsopen", "fspick", "getxattr",
    "ioctl", "ioprio_set", "keyctl", "lookup_dcookie", "lsetxattr", "mount", "mount_setattr", "move_mount",
    "msgctl", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "prctl", "quotactl", "quotactl_fd",
    "removexattr", "seccomp", "semctl", "setdomainname", "sethostname", "setns", "setxattr", "shmctl", "swapoff",
    "swapon", "syslog", "umount", "umount2", "unshare",
}  # fmt: skip
PARAMETERS = "/proc/sys/"


def was_needed(capability: str, call: str, changed: set[str]) -> bool:
    """Whether a capability that was granted in a call was one that the call needed.

    Args:
        changed: the files that were opened for writing so far.
    """
    if capability == "CAP_SYS_ADMIN":
        return call in ADMIN_CALLS or (call == "write" and any(path.startswith(PARAMETERS) for path in changed))
    return call not in GENEROUS.get(capability, ())


# Without the tracepoint: capability -> the calls that can need it. A capability that is not here may be needed in any
# call, such as CAP_DAC_OVERRIDE for the files of others.
CALLS = {
    "CAP_AUDIT_CONTROL": {"socket"}, "CAP_AUDIT_READ": {"socket"}, "CAP_AUDIT_WRITE": {"socket"},
    "CAP_BPF": {"bpf"}, "CAP_CHOWN": {"chown", "fchown", "lchown", "fchownat"},
    "CAP_FSETID": {"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"},
    "CAP_IPC_LOCK": {"mlock", "mlock2", "mlockall", "shmctl", "mmap"}, "CAP_IPC_OWNER": {"shmget", "semget", "msgget"},
    "CAP_KILL": {"kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo"}, "CAP_LEASE": {"fcntl"},
    "CAP_MKNOD": {"mknod", "mknodat"}, "CAP_NET_BIND_SERVICE": {"bind"}, "CAP_NET_RAW": {"socket"},
    "CAP_NET_ADMIN": {"socket", "ioctl", "setsockopt"}, "CAP_PERFMON": {"perf_event_open", "bpf"},
    "CAP_SETFCAP": {"setxattr", "fsetxattr", "lsetxattr", "setxattrat"},
    "CAP_SETGID": {"setgid", "setregid", "setresgid", "setgroups", "setfsgid"},
    "CAP_SETPCAP": {"capset", "prctl"}, "CAP_SETUID": {"setuid", "setreuid", "setresuid", "setfsuid"},
    "CAP_SYS_BOOT": {"reboot", "kexec_load", "kexec_file_load"}, "CAP_SYS_CHROOT": {"chroot", "setns"},
    "CAP_SYS_MODULE": {"init_module", "finit_module", "delete_module"},
    "CAP_SYS_NICE": {"setpriority", "nice", "sched_setscheduler", "sched_setattr", "sched_setaffinity", "ioprio_set"},
    "CAP_SYS_PACCT": {"acct"}, "CAP_SYS_PTRACE": {"ptrace", "process_vm_readv", "process_vm_writev", "openat"},
    "CAP_SYS_RESOURCE": {"setrlimit", "prlimit64"},
    "CAP_SYS_TIME": {"settimeofday", "clock_settime", "adjtimex", "clock_adjtime"}, "CAP_SYSLOG": {"syslog"},
    "CAP_WAKE_ALARM": {"timer_create", "timerfd_create"},
}  # fmt: skip


class Trace:
    """An instance of tracefs of our own, which follows some processes and their descendants.

    Attributes:
        lost: whether the kernel ran out of room, and left something out.
    """

    name, folder, pipe = "", -1, -1

    def __init__(self) -> None:
        """Raises OSError when there is no tracefs, no such event, or we may not use it."""
        if os.stat("/proc/self/ns/pid").st_ino != HOSTS_PROCESSES:
            raise OSError(errno.EPERM, "its numbers of processes are the host's, which are not ours")
        self.rest = b""
        self.lost = False
        self.top = new_filesystem("tracefs", "tracefs", [], 0)
        try:
            self._sweep()
            self._make()
            self._write("options/event-fork", "1")
        except BaseException:
            self.close()
            raise

    def _sweep(self) -> None:
        """Remove the instances that killed processes have left. The kernel keeps those whose trace_pipe is open."""
        number = os.open(INSTANCES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.top.number)
        try:
            names = [name for name in os.listdir(number) if name.startswith(NAME)]
            for name in names:
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=number)
        finally:
            os.close(number)

    def _make(self) -> None:
        """Make the instance, and open its trace_pipe. Until then another `pyrunc learn` may sweep it: so try again."""
        for attempt in range(ATTEMPTS):
            self.name = f"{INSTANCES}/{NAME}{os.getpid()}-{attempt}"
            try:
                os.mkdir(self.name, dir_fd=self.top.number)
                self.folder = os.open(self.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.top.number)
                self.pipe = os.open("trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder)
                return
            except (FileExistsError, FileNotFoundError):
                self._close_files()
        raise OSError(errno.EBUSY, "its instances are removed as soon as they are made")

    def _write(self, name: str, text: str) -> None:
        number = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            os.write(number, text.encode())
        finally:
            os.close(number)

    def follow(self, pid: int) -> None:
        """Trace a process, and all that it will start."""
        self._write("set_event_pid", str(pid))
        self._write("events/capability/cap_capable/enable", "1")

    def read(self) -> Iterable[tuple[int, str]]:
        """(thread, the capability that it was granted), since the last time."""
        while True:
            try:
                data = os.read(self.pipe, 1 << 16)
            except OSError:
                return
            if not data:
                return
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                self.lost = self.lost or bool(LOST.match(line))
                found = EVENT.match(line)
                if found and int(found[3]) == 0 and int(found[2]) < len(CAPABILITIES):
                    yield int(found[1]), CAPABILITIES[int(found[2])]

    def close(self) -> None:
        self._close_files()
        with contextlib.suppress(OSError):  # the next `pyrunc learn` sweeps it
            os.rmdir(self.name, dir_fd=self.top.number)
        self.top.close()

    def _close_files(self) -> None:
        for number in (self.folder, self.pipe):
            if number >= 0:
                os.close(number)
        self.folder = self.pipe = -1


def possible(calls: set[str], granted: set[str]) -> set[str]:
    """The granted capabilities that these calls may have needed."""
    return {name for name in granted if name not in CALLS or CALLS[name] & calls}

"""Processes and namespaces: clone3, setns, unshare, prctl, credentials, keyrings."""

import _signal
import errno
import fcntl
import posix
from _signal import SIGCHLD, SIGKILL

from pyrunc.errors import PyruncError
from pyrunc.linux import encoded, kernel_error
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

CLONE_PARENT = 0x00008000
CLONE_PIDFD = 0x00001000
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SCHED_CORE = 62
PR_SCHED_CORE_GET, PR_SCHED_CORE_CREATE, PR_SCHED_CORE_SHARE_FROM = 0, 1, 3

CLOSE_RANGE_CLOEXEC = 4
MAX_CPUS = 8192  # the most that a kernel is built for; those that are not there don't count

SECCOMP_FILTER_FLAG_NEW_LISTENER = 8


def refuse_threads() -> None:
    """Raise PyruncError if this process has several threads. A clone of one of them would wait for ever for locks
    that another one holds. /proc/self/task has a link for each thread.
    """
    if posix.stat("/proc/self/task").st_nlink > 3:
        hint = "use the runtime from a process with one thread, such as a worker of your own"
        raise PyruncError("starting a process", "", "this process has several threads", hint)


def clone3(flags: int, cgroup: "Fd | None" = None) -> "tuple[int, Fd | None]":
    """Make a child. Returns its pid and its pidfd; in the child 0 and None, as fork(2). clone3(2), Linux 5.3;
    CLONE_CLEAR_SIGHAND 5.5; CLONE_INTO_CGROUP 5.7.

    The child has none of our signal handlers: they serve us alone, and processes of a container may send it signals at
    once.

    Only for a process with one thread. Nothing is initialised again in the child: it may run Python, but must not
    start threads.
    """
    pidfd = ffi.new("int *", -1)
    if cgroup is not None:
        flags |= CLONE_INTO_CGROUP
    flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND
    directory = -1 if cgroup is None else cgroup.number
    return _undisturbed("clone3", lambda: lib.sys_clone3(flags, directory, pidfd), pidfd)


def in_child(work: "Callable[[], None]", flags: int = 0) -> "tuple[int, Fd]":
    """Have a child of ours do one thing. Returns its pid and its pidfd. Used for everything but a container's
    processes.

    The child ends with status 0 when the work is done, or with 1 when that raised. It never returns to the code that
    called us, which would clean up what belongs to the parent. It is killed when we are.
    """
    parent = posix.getpid()
    status = 1
    try:
        pid, pidfd = clone3(flags)
        if pidfd is not None:
            return pid, pidfd
        die_with(parent)
        work()
        status = 0
    finally:
        if posix.getpid() != parent:
            posix._exit(status)
    raise AssertionError  # not reached: the child has ended


def die_with(parent: int, signal: int = SIGKILL) -> None:
    """Get a signal when our parent ends. It may have ended before: then it is our parent no more, and we end here.

    Where a seccomp filter forbids the question the answer is a negative number.
    """
    prctl(PR_SET_PDEATHSIG, signal)
    if 0 <= posix.getppid() != parent:
        posix._exit(1)


def clone() -> "tuple[int, Fd | None]":
    """As clone3(0), for where a seccomp filter may be in force. The profiles of engines refuse clone3, since a
    filter can't see its flags. clone(2) with CLONE_PIDFD, Linux 5.2.

    The child has our signal handlers, which serve us alone. So all signals are blocked in it until reset_signals.
    """
    pidfd = ffi.new("int *", -1)
    return _undisturbed("clone", lambda: lib.sys_clone(SIGCHLD | CLONE_PIDFD, pidfd), pidfd, blocked=True)


def _undisturbed(call: str, make: "Callable[[], int]", pidfd: "Any", blocked: bool = False) -> "tuple[int, Fd | None]":
    """Make a child while no signal arrives.

    A signal that has arrived is a flag in the interpreter's memory until its handler runs. The child gets a copy of
    that memory: it would run the handler too, and undo what is its parent's. To block signals runs the handlers that
    are due. So does to allow them again: if one raises then, nobody gets to know of the child, and it is ended.

    Args:
        blocked: they stay so in the child.
    """
    pid, child = -1, None
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    try:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        pid = make()
        if pid < 0:
            raise kernel_error(call, "a new process")
        child = Fd(pidfd[0], f"pidfd of {pid}") if pid else None
    finally:
        if pid or not blocked:
            _allow(before, child)
    return pid, child


def _allow(signals: "set[int]", child: "Fd | None") -> None:
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, signals)
    except BaseException:
        if child is not None:
            _signal.pidfd_send_signal(child.number, SIGKILL)
            try:
                posix.waitid(posix.P_PIDFD, child.number, posix.WEXITED)
            except ChildProcessError:
                pass  # SIGCHLD is ignored: the kernel has waited for it
        raise


def clone_sibling(flags: int = 0) -> "Fd | None":
    """Make a child of our parent. Returns its pidfd; in the child None. clone(2) with CLONE_PARENT; a filter may be
    in force.
    """
    pidfd = ffi.new("int *", -1)
    pid: int = lib.sys_clone(flags | CLONE_PARENT | CLONE_PIDFD, pidfd)
    if pid < 0:
        raise kernel_error("clone", "a new process")
    return Fd(pidfd[0], f"pidfd of {pid}") if pid else None


class SharedByte:
    """A number below 256 that we share with a child. mmap(2), MAP_SHARED"""

    __slots__ = ("page",)

    def __init__(self) -> None:
        self.page = lib.shared_page()
        if self.page == ffi.NULL:
            raise kernel_error("mmap", "a page to share with a process")

    def close(self) -> None:
        """Ours: the child's goes with the child, or at its execve."""
        lib.drop_shared_page(self.page)


def setns(namespace: Fd, flags: int) -> None:
    """Join the namespace that an fd of /proc/PID/ns refers to, or several by a pidfd (Linux 5.8)."""
    if lib.sys_setns(namespace.number, flags) < 0:
        raise kernel_error("setns", namespace.name)


def unshare(flags: int) -> None:
    if lib.sys_unshare(flags) < 0:
        raise kernel_error("unshare", f"flags {flags:#x}")


def close_range(first: int, flags: int = CLOSE_RANGE_CLOEXEC, last: int = 0xFFFFFFFF) -> None:
    """Mark every descriptor from `first` on as close-on-exec or, without that flag, close them. close_range(2), Linux
    5.9; the flag 5.11.

    Where the kernel does not know the flag they are marked one by one.
    """
    if lib.sys_close_range(first, last, flags) < 0:
        if flags and ffi.errno == errno.EINVAL:
            return _cloexec_one_by_one(first)
        raise kernel_error("close_range", f"descriptors from {first}")


def keep_only(first: int, kept: "list[int]") -> None:
    """Close every descriptor from `first` on but some."""
    for number in sorted(kept):
        if number > first:
            close_range(first, 0, number - 1)
        first = max(first, number + 1)
    close_range(first, 0)


def _cloexec_one_by_one(first: int) -> None:
    for number in range(first, 1 << 16):
        try:
            fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except OSError:
            continue


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    result: int = lib.sys_prctl(option, a, b, c, d)
    if result < 0:
        raise kernel_error(f"prctl({option}, {a}, {b})", "this process")
    return result


def pidfd_getfd(pidfd: Fd, number: int) -> Fd:
    """A copy of another process's descriptor. pidfd_getfd(2), Linux 5.6."""
    copy = lib.sys_pidfd_getfd(pidfd.number, number, 0)
    if copy < 0:
        raise kernel_error("pidfd_getfd", pidfd.name)
    return Fd(copy, f"descriptor {number} of another process")


def set_dumpable(value: bool) -> None:
    """Not dumpable: /proc/PID/{exe,fd,mem} and ptrace need CAP_SYS_PTRACE over us (CVE-2016-9962)."""
    prctl(PR_SET_DUMPABLE, int(value))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    if lib.sys_capset(effective, permitted, inheritable) < 0:
        raise kernel_error("capset", "this process")


def capget() -> "tuple[int, int, int]":
    """(effective, permitted, inheritable) as bit masks."""
    sets = ffi.new("uint64_t[3]")
    if lib.sys_capget(sets) < 0:
        raise kernel_error("capget", "this process")
    return sets[0], sets[1], sets[2]


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    if lib.sys_prlimit(pid, resource, soft, hard) < 0:
        raise kernel_error("prlimit", f"process {pid}")


def join_session_keyring(name: str) -> int:
    """Join the session keyring of that name, or make it. Returns its serial number. keyctl(2)"""
    serial: int = lib.sys_keyctl_join(name.encode())
    if serial < 0:
        raise kernel_error("keyctl join", name)
    return serial


def keyring_permissions(serial: int) -> int:
    buffer = ffi.new("char[512]")
    length = lib.sys_keyctl_describe(serial, buffer, 512)
    if length < 0:
        raise kernel_error("keyctl describe", str(serial))
    return int(ffi.string(buffer).split(b";")[3], 16)


def set_keyring_permissions(serial: int, permissions: int) -> None:
    if lib.sys_keyctl_setperm(serial, permissions) < 0:
        raise kernel_error("keyctl setperm", str(serial))


def seccomp_filter(program: bytes, flags: int) -> int:
    """Install a BPF program. seccomp(2) SECCOMP_SET_MODE_FILTER; with NEW_LISTENER the result is an fd."""
    result: int = lib.sys_seccomp(1, flags, ffi.from_buffer(program), len(program) // 8)
    if result < 0:
        raise kernel_error("seccomp", "the filter")
    return result


def execute(
    path: str,
    arguments: "Iterable[str]",
    environment: "Mapping[bytes, bytes] | Mapping[str, str]",
    program: "bytes | None" = None,
    flags: int = 0,
) -> int:
    """Install a seccomp filter, if there is one, and execve(2). Returns only when execve failed: its errno. Raises
    OSError where the filter is refused.

    Both happen in one call into C. Whatever Python did between the two, such as getting memory, the filter could
    forbid.
    """
    words = [ffi.new("char[]", encoded(word)) for word in arguments]
    variables = [ffi.new("char[]", _bytes(name) + b"=" + _bytes(value)) for name, value in environment.items()]
    argv, envp = ffi.new("char *[]", [*words, ffi.NULL]), ffi.new("char *[]", [*variables, ffi.NULL])
    program = program or b""
    filter = ffi.from_buffer(program)
    if lib.sys_filter_and_execve(filter, len(program) // 8, flags, encoded(path), argv, envp) == 1:
        raise kernel_error("seccomp", "the filter")
    return int(ffi.errno)


def _bytes(text: "bytes | str") -> bytes:
    return text if isinstance(text, bytes) else encoded(text)


def sethostname(name: str) -> None:
    data = name.encode()
    if lib.sys_sethostname(data, len(data)) < 0:
        raise kernel_error("sethostname", name)


def setdomainname(name: str) -> None:
    data = name.encode()
    if lib.sys_setdomainname(data, len(data)) < 0:
        raise kernel_error("setdomainname", name)


def personality(domain: int) -> None:
    if lib.sys_personality(domain) < 0:
        raise kernel_error("personality", f"{domain:#x}")


def ioprio_set(priority: int) -> None:
    """For this process alone and its children to come (IOPRIO_WHO_PROCESS). Its process group may be the caller's."""
    if lib.sys_ioprio_set(1, 0, priority) < 0:
        raise kernel_error("ioprio_set", f"{priority:#x}")


def sched_setattr(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> None:
    if lib.sys_sched_setattr(policy, flags, nice, priority, runtime, deadline, period) < 0:
        raise kernel_error("sched_setattr", f"policy {policy}")


def set_mempolicy(mode: int, nodes: "Iterable[int]") -> None:
    bits = 0
    for node in nodes:
        bits |= 1 << node
    size = max(8, (bits.bit_length() + 63) // 64 * 8)
    mask = bits.to_bytes(size, "little")
    if lib.sys_set_mempolicy(mode, mask, size * 8 + 1 if bits else 0) < 0:
        raise kernel_error("set_mempolicy", f"mode {mode:#x}")


def reset_signals() -> None:
    """Give every signal its default action and block none, as a program expects it."""
    lib.reset_signals()


def end_by(signal: int) -> None:
    """End when this signal comes, as the first process of a namespace too: the default action does not end that.
    pid_namespaces(7)
    """
    lib.end_by(signal)


def numbers(text: str) -> "list[int]":
    """The numbers of a list such as `0-3,8`: cpuset(7), FORMATS."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if first:
            end = int(last if dash else first)
            if end >= MAX_CPUS:
                raise ValueError(f"{end} is more than a kernel can have")
            found.extend(range(int(first), end + 1))
    return found

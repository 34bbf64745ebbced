"""Namespaces: joining those that exist, making those that clone3 could not. config-linux.md#namespaces"""

import _socket
import errno
import fcntl
import posix

from pyrunc.errors import StepError
from pyrunc.init import channel
from pyrunc.init.context import Context, step
from pyrunc.linux.fd import Fd, open_at, read_file, write_file
from pyrunc.linux.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    clone_sibling,
    join_session_keyring,
    keyring_permissions,
    set_dumpable,
    set_keyring_permissions,
    setns,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FLAGS_OF = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "pid": CLONE_NEWPID,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
FILE_OF = {"mount": "mnt", "network": "net"}  # the names in /proc/PID/ns that differ

NS_GET_NSTYPE = 0xB703
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

KEY_USR_SEARCH = 0x00080000
KEY_OTH_SEARCH = 0x00000008


@step("entering the cgroup")
def enter_cgroup(context: Context) -> None:
    """Of v1. In the cgroup of v2 the process was born.

    The process writes "0" to `tasks` itself: for a caller's own single thread the kernel takes no lock. To move a
    process from outside, through cgroup.procs, waits for an RCU grace period: 4 to 60 ms (Linux >= 5.4).

    A scope was made by systemd when this process was there: it knows by now where it is, and mounts need to know.
    """
    for tasks in context.cgroup_tasks:
        with tasks:
            posix.write(tasks.number, b"0")
    cgroup = context.cgroup
    if cgroup is not None and cgroup.needs_process and not cgroup.paths:
        cgroup.learn(read_file("self/cgroup", context.host_proc).decode("utf-8", "surrogateescape"))


@step("joining namespaces")
def join(context: Context) -> None:
    """First those that belong to our own user namespace, while we still have the right. Then the user namespace,
    and then those that belong to that. The mount namespace is the last: it changes what /proc/self/ns means.
    """
    waiting = []
    for flag, namespace in context.joins:
        if flag & CLONE_NEWUSER or not _try_setns(namespace, flag):
            waiting.append((flag, namespace))
    for flag, namespace in waiting:
        if flag & CLONE_NEWUSER:
            setns(namespace, flag)
            become_root(context)
    for flag, namespace in waiting:
        if not flag & CLONE_NEWUSER:
            setns(namespace, flag)
    for _, namespace in context.joins:
        namespace.close()


def _try_setns(namespace: Fd, flag: int) -> bool:
    try:
        setns(namespace, flag)
    except OSError as error:
        if error.errno == errno.EPERM:
            return False
        raise
    return True


@step("making the user namespace")
def make_user(context: Context) -> None:
    """Alone and before the others, so that it owns them. The parent writes its maps: it has the right."""
    if context.new_namespaces & CLONE_NEWUSER:
        set_dumpable(True)  # else /proc/PID/uid_map belongs to root and a rootless parent can't write it
        unshare(CLONE_NEWUSER)
        context.ask(channel.WRITE_ID_MAPS)
        set_dumpable(False)


@step("becoming root of the user namespace")
def become_root(context: Context) -> None:
    if context.userns:
        posix.setresgid(0, 0, 0)
        posix.setresuid(0, 0, 0)
        set_dumpable(False)  # a change of credentials may have changed it
        context.die_with_runtime()


@step("making namespaces")
def make_rest(context: Context) -> None:
    flags = context.new_namespaces & ~(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWTIME)
    if flags:
        unshare(flags)


@step("making the time namespace")
def make_time(context: Context) -> None:
    """Its offsets can be set until the first process is in it. So it is made, its offsets are written, and only
    then it is entered. config-linux.md#timeoffsets
    """
    if context.new_namespaces & CLONE_NEWTIME:
        unshare(CLONE_NEWTIME)
        offsets = context.config["linux"].get("timeOffsets") or {}
        lines = []
        for clock, offset in (("monotonic", offsets.get("monotonic")), ("boottime", offsets.get("boottime"))):
            if offset:
                lines.append(f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n")
        if lines:
            _write_offsets(context, "".join(lines))
        with open_at(context.host_proc, "self/ns/time_for_children", posix.O_RDONLY) as namespace:
            setns(namespace, CLONE_NEWTIME)


def _write_offsets(context: Context, lines: str) -> None:
    """Write them ourselves, or have the runtime do it.

    We are not dumpable, so the file belongs to root. Root of a user namespace asks the runtime, if that is root; if it
    is not, this process may be dumpable for a moment.
    """
    try:
        write_file("self/timens_offsets", lines.encode(), context.host_proc)
    except PermissionError:
        if context.may_be_dumpable:
            set_dumpable(True)
            write_file("self/timens_offsets", lines.encode(), context.host_proc)
            set_dumpable(False)
            return
        context.ask(channel.WRITE_TIME_OFFSETS, lines)


@step("entering the process namespace")
def fork(context: Context) -> None:
    """A process can't change its own process namespace, but its child is born in the new one.

    The child is a sibling (CLONE_PARENT): the runtime is its parent, and this process can end. This process tells the
    runtime which one it is. Nobody can keep it from that.
    """
    if not context.second_clone:
        return
    pidfd = clone_sibling(context.new_namespaces & CLONE_NEWPID)
    if pidfd is None:
        context.wait_for_go()
        if not context.unseen:
            context.die_with_runtime()
        return
    if (
        context.unseen
    ):  # a filter is in force: only write and read, until the runtime has the descriptor and kills this process
        context.channel.write(channel.FOLLOW, str(pidfd.number))
        context.wait_for_go()
    else:
        context.channel.send(channel.FOLLOW, fd=pidfd)
    posix._exit(0)


@step("making the cgroup namespace")
def make_cgroup(context: Context) -> None:
    """Only now: the root of the namespace is the cgroup that its maker is in. cgroup_namespaces(7)"""
    if not context.new_namespaces & CLONE_NEWCGROUP:
        return
    if context.late:
        context.late.enter()
    unshare(CLONE_NEWCGROUP)
    if context.late:
        context.late.leave()


@step("entering the delegated cgroup")
def enter_delegated(context: Context) -> None:
    """It is below the root of the cgroup namespace, which has the limits and stays the runtime's."""
    if context.init and context.cgroup is not None and context.cgroup.delegated:
        context.ask(channel.ENTER_DELEGATED)


@step("entering the cgroup")
def enter_late(context: Context) -> None:
    """Of v2, if it has little memory: see cgroups.late."""
    if context.late:
        context.late.enter()


@step("starting a session")
def session(_: Context) -> None:
    """So that no terminal of the caller's is within reach (TIOCSTI)."""
    posix.setsid()


@step("joining a session keyring")
def join_keyring(context: Context) -> None:
    """Without it the container would have the caller's keyring (keyrings(7)). A kernel without keyrings needs
    nothing.
    """
    if not context.keyring:
        return
    try:
        serial = join_session_keyring(context.keyring)
        search = KEY_OTH_SEARCH if context.userns else KEY_USR_SEARCH
        set_keyring_permissions(serial, keyring_permissions(serial) | search)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@step("bringing up the loopback device of the new network namespace")
def loopback_up(context: Context) -> None:
    if not context.new_network:
        return
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    request = b"lo".ljust(16, b"\0") + b"\0" * 24  # struct ifreq: the name, and here the flags
    flags = int.from_bytes(fcntl.ioctl(any_socket.fileno(), SIOCGIFFLAGS, request)[16:18], "little")
    fcntl.ioctl(any_socket.fileno(), SIOCSIFFLAGS, request[:16] + (flags | IFF_UP).to_bytes(2, "little") + b"\0" * 22)
    any_socket.close()


@step("having network devices moved here")
def take_devices(context: Context) -> None:
    """The runtime does it, as it has the rights on both sides. config-linux.md#network-devices"""
    if context.config["linux"].get("netDevices"):
        with open_at(context.host_proc, "self/ns/net", posix.O_RDONLY) as namespace:
            context.ask(channel.MOVE_NET_DEVICES, fd=namespace)


def verify_kinds(opened: "Iterable[tuple[str, Fd]]") -> None:
    """A namespace path must lead to a namespace of its type (config-linux.md#namespaces)."""
    for kind, namespace in opened:
        try:
            flag = fcntl.ioctl(namespace.number, NS_GET_NSTYPE)
        except OSError:
            flag = 0  # it is no namespace
        if flag != FLAGS_OF[kind]:
            raise StepError("joining namespace", namespace.name, f"it is no {kind} namespace")


def own(kind: str, pid: "int | str" = "self") -> str:
    return f"/proc/{pid}/ns/{FILE_OF.get(kind, kind)}"


def is_same(one: Fd, path: str) -> bool:
    return identity(one.number) == identity(path)


def identity(place: "str | int", directory: "Fd | None" = None) -> "tuple[int, int]":
    """What identifies a namespace, given by its file or by an open descriptor."""
    status = posix.stat(place) if directory is None else posix.stat(place, dir_fd=directory.number)
    return status.st_dev, status.st_ino


def is_the_callers(context: Context, kind: str) -> bool:
    """Whether a namespace that config.json gives by its path is the runtime's own, which is often the host's."""
    there = f"self/ns/{FILE_OF.get(kind, kind)}"
    return kind in context.callers and identity(there, context.host_proc) == context.callers[kind]

"""What `create`, `run` and `exec` all do for a process before it exists: its cgroup, its filter, its descriptors, its
pid file.

It is decided here too who receives the host's end of a terminal and the process's pidfd. The other end of the terminal
is in init/console.py.
"""

import posix

from pyrunc.container.options import Options
from pyrunc.errors import PyruncError, UsageError, reason
from pyrunc.linux.fd import Fd, open_at, replace_file
from pyrunc.linux.mount import PROC_SUPER_MAGIC, filesystem_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.container.launch import Launch
    from pyrunc.container.recorded import Recorded
    from pyrunc.container.state import StateRoot
    from pyrunc.init.context import Context
    from pyrunc.spec.types import Seccomp

LITTLE = (1 << 20, 4 << 20)  # bytes; see cgroups.late


def open_proc() -> Fd:
    """The host's procfs, opened before anything of a container's is entered. Raises PyruncError when something else
    is there.
    """
    proc = open_at(None, "/proc", posix.O_PATH | posix.O_DIRECTORY)
    if filesystem_type(proc) != PROC_SUPER_MAGIC:
        raise PyruncError("opening", "/proc", "is no procfs on this host")
    return proc


def use_cgroup(context: "Context", cgroup: "Cgroup") -> None:
    """Choose the process's cgroup, and when it enters that.

    A cgroup of v1 is entered as early as possible. In one of v2 the process is born. If it has little memory, but
    enough for a program, it is entered at the end. This is not done in systemd's scopes, which end when they are
    empty, nor where files of the image are copied (tmpcopyup), since the container has to pay for that memory.
    """
    context.cgroup = cgroup
    context.cgroup_tasks = cgroup.open_tasks()
    memory = (context.config["linux"].get("resources") or {}).get("memory") or {}
    little = LITTLE[0] <= (memory.get("limit") or 0) < LITTLE[1] and cgroup.may_enter_late
    if (
        little
        and not cgroup.delegated
        and not any("tmpcopyup" in (m.get("options") or []) for m in context.config.get("mounts") or [])
    ):
        from pyrunc.cgroups import late

        context.late = late.entry(cgroup)


def use_filter(context: "Context", container: "Recorded") -> None:
    """Take the container's seccomp filter, for its first process and for every other one."""
    profile = context.config["linux"].get("seccomp")
    compiled = (context.config.get("annotations") or {}).get("run.oci.seccomp_bpf_data")
    if compiled:
        from pyrunc.container.annotations import program

        context.bpf, context.bpf_flags = program(compiled), 0
    elif profile:
        from pyrunc.seccomp import cache

        with container.directory.root.open() as root:
            context.bpf, context.bpf_flags = cache.program(profile, root)
        container.log.debug(f"seccomp filter flags: {context.bpf_flags}")


def has_filter(profile: "Seccomp", root: "StateRoot") -> bool:
    """Whether the filter of this profile was compiled before."""
    from pyrunc.seccomp import cache

    return posix.access(f"{root.path}/{cache.DIRECTORY}/{cache.key_of(profile)}", posix.F_OK)


def verify_preserved(count: int) -> None:
    """Raise PyruncError unless the caller has opened the descriptors that the container is to get. Descriptors that
    execve closes are ours.
    """
    for number in range(3, 3 + count):
        try:
            given = posix.get_inheritable(number)
        except OSError:
            given = False
        if not given:
            raise PyruncError("preserving descriptor", str(number), "the caller did not open it")


def write_pid_file(path: str, child: "Launch") -> None:
    """Write it by rename, after everything else: an engine goes on when it sees the file. If that fails the child
    is killed.
    """
    if not path:
        return
    folder, slash, name = path.rpartition("/")
    try:
        with open_at(None, folder or slash or ".", posix.O_RDONLY | posix.O_DIRECTORY) as directory:
            replace_file(directory, name, str(child.pid).encode(), 0o644)
    except OSError as error:
        child.kill()
        raise PyruncError("writing pid file", path, reason(error)) from error


def receiver_of_master(options: Options, terminal: bool) -> "Callable[[Fd], None]":
    """Who gets the terminal's master. Raises UsageError where the options do not fit `process.terminal`."""
    if terminal and options.detach and not options.console_socket and options.console is None:
        hint = "set process.terminal to false, or give --console-socket"
        raise UsageError("cannot allocate tty if runc will detach without setting console socket", hint=hint)
    if options.console_socket and not (terminal and options.detach):
        raise UsageError("cannot use console socket if runc will not detach or allocate tty")
    if options.console_socket:
        from pyrunc.container.sender import Sender

        return Sender("console socket", options.console_socket, "/dev/ptmx").send
    return options.console or _nobody


def _nobody(_: Fd) -> None:
    raise PyruncError("terminal", "", "nobody is there to take it")


def receiver_of_pidfd(options: Options, kind: str) -> "Callable[[Fd], None]":
    """Who gets the process's pidfd.

    `kind`: the word that runc sends along: "standard" for a container's first process, "setns" for another one.
    """
    takers = [] if options.pidfd is None else [options.pidfd]
    if options.pidfd_socket:
        from pyrunc.container.sender import Sender

        takers.append(Sender("pidfd socket", options.pidfd_socket, kind).send)

    def give(pidfd: Fd) -> None:
        for take in takers:
            take(pidfd)

    return give

"""What `create`, `run` and `exec` do alike for a process before it is there: its cgroup, its filter, its descriptors.

Who gets the host's end of a terminal, and a process's pidfd, is looked at here too. The terminal's other end is in
init/console.py.
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
    """The host's procfs, before anything of a container's is entered. What is mounted over it is no procfs."""
    proc = open_at(None, "/proc", posix.O_PATH | posix.O_DIRECTORY)
    if filesystem_type(proc) != PROC_SUPER_MAGIC:
        raise PyruncError("opening", "/proc", "is no procfs on this host")
    return proc


def use_cgroup(context: "Context", cgroup: "Cgroup") -> None:
    """The process's cgroup, and when it goes there: v1's as soon as it can, v2's at birth; or at the end, where there
    is little memory, but enough for a program. Not in systemd's scopes, which end when they are empty; not where the
    image's files are copied (tmpcopyup), which is the container's to pay for."""
    context.cgroup = cgroup
    context.cgroup_tasks = cgroup.open_tasks()
    memory = (context.config["linux"].get("resources") or {}).get("memory") or {}
    little = LITTLE[0] <= (memory.get("limit") or 0) < LITTLE[1] and cgroup.may_enter_late
    if little and not any("tmpcopyup" in (m.get("options") or []) for m in context.config.get("mounts") or []):
        from pyrunc.cgroups import late

        context.late = late.entry(cgroup)


def use_filter(context: "Context", container: "Recorded") -> None:
    """The container's seccomp filter, for its first process and for every other."""
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
    """That the caller gave us what the container is to get. What is closed by execve is not his but ours."""
    for number in range(3, 3 + count):
        try:
            given = posix.get_inheritable(number)
        except OSError:
            given = False
        if not given:
            raise PyruncError("preserving descriptor", str(number), "the caller did not open it")


def write_pid_file(path: str, child: "Launch") -> None:
    """By rename, and when all else stands: an engine that sees it can go on. On failure the child is killed."""
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
    """Raises UsageError where the options and `process.terminal` do not fit each other."""
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
    """`kind`: the word that runc sends along, "standard" for a container's first process and "setns" for another."""
    takers = [] if options.pidfd is None else [options.pidfd]
    if options.pidfd_socket:
        from pyrunc.container.sender import Sender

        takers.append(Sender("pidfd socket", options.pidfd_socket, kind).send)

    def give(pidfd: Fd) -> None:
        for take in takers:
            take(pidfd)

    return give

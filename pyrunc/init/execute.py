"""The last steps: the program is found, start is awaited, the filter is installed, execve."""

import _signal
import _stat
import errno
import posix
import select
import sys

from pyrunc.errors import StepError
from pyrunc.hook_runner import as_mapping
from pyrunc.init import channel, credentials
from pyrunc.init.capabilities import CAP_SYS_PTRACE
from pyrunc.init.context import Context, step
from pyrunc.linux import path, process
from pyrunc.linux.fd import open_at, read_all
from pyrunc.linux.mount import PROC_SUPER_MAGIC, SYSFS_MAGIC, filesystem_type
from pyrunc.linux.process import (
    PR_SET_PDEATHSIG,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    close_range,
    end_by,
    keep_only,
    prctl,
    reset_signals,
    seccomp_filter,
    set_dumpable,
)

PASSWD_LIMIT = 1 << 20
KERNELS_OWN = (PROC_SUPER_MAGIC, SYSFS_MAGIC)
IN_CLOSE_NOWRITE = 0x10  # inotify(7): what was open for reading alone has been closed


@step("preparing the environment")
def set_environment(context: Context) -> None:
    """HOME comes from the container's passwd where config.json has none. That file is read as data, and by number:
    a user *named* "1000" is not user 1000 (CVE-2016-3697).
    """
    environment = as_mapping(context.process.get("env") or [])
    if not environment.get("HOME"):
        environment["HOME"] = _home(context)
    if context.listen_fds:
        environment["LISTEN_FDS"] = str(context.listen_fds)
        environment["LISTEN_PID"] = str(posix.getpid())  # 1, but in a process namespace of others
        if context.listen_names:
            environment["LISTEN_FDNAMES"] = context.listen_names
    if context.notify_socket:
        environment["NOTIFY_SOCKET"] = context.notify_socket
    context.environment = environment


def _home(context: Context) -> str:
    """By a link of the image it could be any file. Some of the kernel's hold who reads them, or tell what they say only
    once (/proc/kmsg). They have no size.
    """
    root = context.root
    assert root is not None
    uid = str(context.process.get("user", {}).get("uid", 0)).encode()
    try:
        with path.resolve(root, "/etc/passwd") as place:
            status = posix.fstat(place.number)
            if _stat.S_IFMT(status.st_mode) != _stat.S_IFREG or filesystem_type(place) in KERNELS_OWN:
                return "/"
            with open_at(context.host_proc, f"self/fd/{place.number}", posix.O_RDONLY | posix.O_NONBLOCK) as passwd:
                lines = read_all(passwd, min(status.st_size, PASSWD_LIMIT)).split(b"\n")
    except OSError:
        return "/"
    for line in lines:
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == uid:
            return fields[5].decode("utf-8", "surrogateescape") or "/"
    return "/"


@step("looking for the program")
def find(context: Context) -> None:
    """As the user and with the rights that the program will have. `create` does it, so that a missing program is an
    error for the engine, and not a container that dies at start.
    """
    arguments = context.process.get("args") or []
    if not arguments:
        return  # a container without a process can be created, and no more
    name = arguments[0]
    if "/" in name:
        problem = _problem(name)
        if problem:
            raise StepError(f'exec: "{name}"', "", f"stat {name}: {problem}" if problem == _MISSING else problem)
        context.executable = name
        return
    denied = ""
    for directory in _search_path(context):
        candidate = f"{directory or '.'}/{name}"
        problem = _problem(candidate) if name else _MISSING
        if not problem:
            if not directory.startswith(
                "/"
            ):  # whoever writes to a volume could put a program into the working directory
                raise StepError(f'exec: "{name}"', "", "cannot run executable found relative to current directory")
            context.executable = candidate
            return
        denied = problem if problem == _DENIED else denied
    raise StepError(f'exec: "{name}"', "", denied or "executable file not found in $PATH")


def _search_path(context: Context) -> "list[str]":
    """The folders of PATH. Without PATH nothing is found: an empty entry would be the working directory."""
    path = context.environment.get("PATH")
    return path.split(":") if path else []


_MISSING = "no such file or directory"
_DENIED = "permission denied"
_FOLDER = f"is a directory: {_DENIED}"  # what runc says: the first since Go 1.20, the second before; engines know it


def _problem(candidate: str) -> str:
    try:
        status = posix.stat(candidate)
    except PermissionError:
        return _DENIED
    except OSError as error:
        return _MISSING if error.errno == errno.ENOENT else (error.strerror or "").lower()
    if _stat.S_IFMT(status.st_mode) == _stat.S_IFDIR:
        return _FOLDER
    return "" if posix.access(candidate, posix.X_OK, effective_ids=True) else _DENIED


@step("closing descriptors and resetting signals")
def leave_nothing(context: Context) -> None:
    """While every system call is still allowed.

    The program gets its three streams and what it was promised. Until start this process keeps the fifo of start, and
    nothing else of the host's. From here on it outlives the runtime. But until the runtime has answered report_ready,
    the channel still tells whether that lives.
    """
    prctl(PR_SET_PDEATHSIG, 0)
    reset_signals()
    if context.fifo is not None:
        for number in _FATAL:
            end_by(number)
    first = 3 + context.preserve_fds + context.listen_fds
    close_range(first)  # on execve, whatever fails below
    kept = [context.channel.socket.fileno()]
    kept += [fd.number for fd in (context.fifo, context.opened, *context.hook_outputs) if fd is not None]
    keep_only(first, kept)


@step("installing the seccomp filter, and giving its listener to the runtime")
def filter_and_notify(context: Context) -> None:
    """Only a profile with SCMP_ACT_NOTIFY is installed here, while the runtime is still there.

    The runtime is told the listener's number by write(2), which such a profile may not name. It fetches the listener
    and hands it to the agent before this goes on. From then until execve we only read, write and close, as runc does.
    """
    if context.bpf and context.bpf_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
        number = seccomp_filter(context.bpf, context.bpf_flags)
        context.bpf_installed = True
        context.channel.write(channel.HAND_OVER_LISTENER, str(number))
        context.wait_for_go()
        posix.close(number)


@step("telling the runtime that the container is created")
def report_ready(context: Context) -> None:
    """The answer says that the process is on record. Without it nobody would know of the container, so this ends."""
    context.channel.write(channel.READY)
    context.wait_for_go()
    context.waiting = context.fifo is not None  # the parent has gone: errors are for `start` now
    context.debug = False  # nobody listens any more


@step("waiting for start")
def wait_for_start(context: Context) -> None:
    """The fifo was opened before the container's file system was in sight: nothing is looked up now. It is open for
    both directions, so that there is no end of the file when a `start` dies after opening it. It stays open until
    execve closes it: by that `start` learns that the program runs. If it can't run, the reason is written into the
    fifo.

    A caller who is not root may look at this process while it waits: `exec` could not open its namespaces otherwise.
    Nobody else is in them, since they are all new. If one was joined this is not done.
    """
    fifo = context.fifo
    if fifo is None:
        return
    if context.take_channel is None:
        context.channel.close()  # the parent ends now, and we go on without it
    if context.may_be_dumpable and not context.bpf_installed:
        set_dumpable(True)
    posix.read(fifo.number, 1)
    if context.may_be_dumpable and not context.bpf_installed:
        set_dumpable(False)


@step("hearing which program it is")
def hear_program(context: Context) -> None:
    """For who has containers made before he knows what is to run in them. Nothing of the container's has run yet, and
    nobody else has the channel. It was open since before the container's file system was in sight.
    """
    for number in range(3):
        said = context.channel.receive()
        if said.kind != channel.STREAM or said.descriptor is None:
            raise SystemExit(1)
        with said.descriptor as stream:
            posix.dup2(stream.number, number)
    said = context.channel.receive()
    if said.kind != channel.ARGUMENTS:
        raise SystemExit(1)
    context.process = {**context.process, "args": said.fields}
    context.channel.close()


@step("waiting for the caller")
def wait_for_caller(context: Context) -> None:
    """Wait until somebody has the fifo open for reading, or had it. The event IN_OPEN alone does not tell: it comes
    for writers too.

    As with start, the caller sees the end of the fifo when the program runs, or reads why it can't.
    """
    fifo, opened = context.fifo, context.opened
    if fifo is None or opened is None:
        return
    context.channel.close()
    unread = select.poll()
    unread.register(fifo.number, 0)  # POLLERR comes unasked, while nobody reads
    closed = 0
    while unread.poll(0) and not closed:
        for event in _events(posix.read(opened.number, 4096)):
            closed |= event & IN_CLOSE_NOWRITE
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    try:
        posix.write(fifo.number, b"0")
    except BrokenPipeError:
        pass  # the reader has gone again
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)


def _events(data: bytes) -> "list[int]":
    """struct inotify_event of a file: the watch's number, what has happened, and two numbers that are zero."""
    return [int.from_bytes(data[i + 4 : i + 8], sys.byteorder) for i in range(0, len(data), 16)]


_FATAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2,
          _signal.SIGALRM)  # fmt: skip


@step("installing the seccomp filter")
def filter_system_calls(context: Context) -> None:
    """Before execve, but only where somebody could misuse this process without a filter. From here on the profile
    must allow every system call that we make ourselves. config-linux.md#seccomp
    """
    if context.bpf and not context.bpf_installed:
        seccomp_filter(context.bpf, context.bpf_flags)
        context.bpf_installed = True


@step("installing the seccomp filter before startContainer hooks")
def filter_before_hooks(context: Context) -> None:
    """Processes that such hooks leave running could trace this one, if the container has CAP_SYS_PTRACE. So from
    here on it may have no right that the program does not have.
    """
    hooks = (context.config.get("hooks") or {}).get("startContainer")
    if hooks and context.sets.any() & CAP_SYS_PTRACE:
        filter_system_calls(context)
        credentials.finish_capabilities(context)


@step("installing the seccomp filter and executing the program")
def execute(context: Context) -> None:
    """Both in one step: no system call of ours comes between the filter and execve. config-linux.md#seccomp"""
    if not context.executable:
        posix._exit(0)
    filter = None if context.bpf_installed else context.bpf
    arguments, environment = context.process["args"], context.environment
    failed = process.execute(context.executable, arguments, environment, filter, context.bpf_flags)
    raise StepError(f"exec {context.executable}", "", posix.strerror(failed).lower(), _WHY_NOT.get(failed, ""))


_WHY_NOT = {  # the file has been found, and may be executed
    errno.ENOENT: "what it is run by is not in the root file system: its loader and libraries, or its interpreter (#!)",
    errno.ENOEXEC: "it is for another processor, or a script without a #! line",
}

"""How a container has ended: a record that outlives its process, and waiting for the end of one that is not our child.

The kernel tells a process's exit status to its parent. Since Linux 6.15 it also tells whoever has a pidfd of it open. A
container that runs detached soon has neither. So `create --exit-record` leaves a keeper behind: a process that is the
container's parent, waits for its end, and writes the record. It costs nothing where it is not asked for.
"""

import fcntl
import posix
import select
import time

from pyrunc.container.container import Container, exit_code
from pyrunc.container.state import EXIT, StateDirectory
from pyrunc.errors import NoSuchContainer, StateError
from pyrunc.linux import exits
from pyrunc.linux.fd import Fd, replace_file
from pyrunc.linux.inotify import watch
from pyrunc.linux.pid import pidfd_open
from pyrunc.linux.process import keep_only
from pyrunc.log import rfc3339
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IN_DELETE = 0x200
RECORD_SECONDS = 5.0  # how long to wait for a keeper to write the record, after the end


# The keeper


def leave_keeper(make: "Callable[[], Container]") -> int:
    """Have a child make the container, and stay as its keeper.

    Returns 0 when the container is made. When that fails, the child says so itself, and this returns its exit status.
    In the child it does not return.
    """
    read, write = posix.pipe2(posix.O_CLOEXEC)
    parent = str(posix.getpid()).encode()
    pid = posix.fork()
    if pid:
        return _wait_until_it_is_made(pid, read, write)
    posix.close(read)
    if posix.environ.get(b"LISTEN_PID") == parent:  # socket activation now means the child
        posix.environ[b"LISTEN_PID"] = str(posix.getpid()).encode()
    container = make()
    with pidfd_open(container.pid) as pidfd:
        _detach(container, pidfd, write)
    posix._exit(0)


def _wait_until_it_is_made(pid: int, read: int, write: int) -> int:
    """Wait for the child's word, and return the exit status for our caller.

    This has no time limit of its own: the child keeps those of `create`. Only the child has the other end of the pipe,
    so its death ends the wait too.
    """
    posix.close(write)
    try:
        made = posix.read(read, 1) == b"0"
    except KeyboardInterrupt as interrupt:
        posix.kill(pid, interrupt.args[0] if interrupt.args else 15)  # it undoes what it has made
        posix.waitpid(pid, 0)
        raise
    posix.close(read)
    return 0 if made else exit_code(posix.waitpid(pid, 0)[1])


def _detach(container: Container, pidfd: Fd, write: int) -> None:
    """Let go of all that is the caller's, keeping only what tells us of start and end. Then wait for both, and save the
    record."""
    directory = container.directory
    started = watch(directory.path, IN_DELETE)
    posix.setsid()
    posix.chdir("/")
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.write(write, b"0")
    for number in (0, 1, 2):
        posix.dup2(null, number)
    keep_only(3, [directory.fd.number, pidfd.number, started.number])
    began = "" if directory.has_fifo() else rfc3339(time.time_ns())
    began = began or _wait_for_start(directory, pidfd, started)
    status = posix.waitpid(container.pid, 0)[1]
    save(container, status, began)


def _wait_for_start(directory: StateDirectory, pidfd: Fd, started: Fd) -> str:
    """The time at which `start` took the fifo away. "" if the process has ended before that."""
    poll = select.poll()
    for each in (pidfd, started):
        poll.register(each.number, select.POLLIN)
    while directory.has_fifo():
        if any(number == pidfd.number for number, _ in poll.poll()):
            return ""
        posix.read(started.number, 4096)
    return rfc3339(time.time_ns())


def save(container: Container, status: int, started: str = "") -> None:
    """Put its end on record. This takes its lock: a directory that is being deleted must get no new files."""
    directory = container.directory
    document: dict[str, Any] = {"exitStatus": exit_code(status)}
    if posix.WIFSIGNALED(status):
        document["signal"] = posix.WTERMSIG(status)
    document["oomKilled"] = bool(container.cgroup.oom_kills())
    if started:
        document["started"] = started
    document["finished"] = rfc3339(time.time_ns())
    fcntl.flock(directory.fd.number, fcntl.LOCK_EX)
    try:
        if not directory.is_gone:
            replace_file(directory.fd, EXIT, dumps(document).encode())
    finally:
        fcntl.flock(directory.fd.number, fcntl.LOCK_UN)


# What is asked of it


def wait(container: Container) -> "dict[str, Any]":
    """Wait for its end. Returns the record. Without one, returns what the kernel tells: exitStatus, signal, finished.

    Raises StateError where nobody can tell.
    """
    found = container.exit_record()
    if found is not None:
        return found
    status = None
    try:
        with pidfd_open(container.pid) as pidfd:
            if container.is_alive():
                status = exits.wait(pidfd, container.pid, container.record["start"])
    except ProcessLookupError:
        pass
    if container.record.get("exitRecord"):
        found = _wait_for_record(container)
        if found is not None:
            return found
    if status is None:
        cause = "has ended, and who was its parent has not told how"
        raise StateError("container", f'"{container.id}"', cause, "create it with --exit-record to know")
    document: dict[str, Any] = {"exitStatus": exit_code(status)}
    if posix.WIFSIGNALED(status):
        document["signal"] = posix.WTERMSIG(status)
    document["finished"] = rfc3339(time.time_ns())
    return document


def _wait_for_record(container: Container) -> "dict[str, Any] | None":
    """Wait for the record, which a keeper writes at once. None: there is no keeper any more."""
    deadline = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < deadline:
        found = container.exit_record()
        if found is not None:
            return found
        if container.directory.is_gone:
            raise NoSuchContainer(container.id)
        select.select([], [], [], 0.01)
    return None

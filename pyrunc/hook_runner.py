"""Runs hooks: programs that read the container's state on their standard input. config.md#posix-platform-hooks

Used by the runtime for its own hooks, and by a container's process for those that run in it.
"""

import _signal
import posix
import select
import time

from pyrunc.errors import CalledOff, PyruncError, printable, reason
from pyrunc.linux import encoded
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import kill_group, reap
from pyrunc.linux.process import clone, close_range, die_with, execute, reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.spec.types import Hook

NOT_STARTED = 127
OUTPUT = 4096
LOOK_SECONDS = 1.0  # the most that one poll(2) takes: a signal that comes right before it is handled after it


def run_all(
    kind: str,
    hooks: "list[Hook]",
    state: bytes,
    environment: "dict[str, str] | None",
    folder: str = "",
    started: "Callable[[int], None] | None" = None,
    filter: "tuple[bytes | None, int]" = (None, 0),
    outputs: "tuple[Fd | None, Fd | None]" = (None, None),
) -> None:
    """Run every hook of a kind, in order; the first that fails ends it. Raises PyruncError.

    Args:
        state: the state document, JSON.
        environment: what a hook without `env` of its own gets.
        folder: where they start; where it is gone by now, in /. Without one they start where we are.
        started: hears of each one's pid.
        filter: the seccomp filter that they run with, and its flags.
        outputs: where what they print, and their errors, go; else those are a part of the error when one fails.
    """
    for index, hook in enumerate(hooks):
        try:
            own = environment if hook.get("env") is None else as_mapping(hook["env"])
            run(hook, state, own, folder, started, filter, outputs)
        except CalledOff as error:
            raise CalledOff(f"running {kind} hook #{index}: {error}") from error
        except PyruncError as error:
            raise PyruncError(f"error running {kind} hook #{index}", "", str(error)) from error


def as_mapping(environment: "list[str]") -> "dict[str, str]":
    """NAME=VALUE entries; of a name that comes twice the last one counts."""
    return dict(entry.partition("=")[::2] for entry in environment)


def run(
    hook: "Hook",
    state: bytes,
    environment: "dict[str, str] | None",
    folder: str = "",
    started: "Callable[[int], None] | None" = None,
    filter: "tuple[bytes | None, int]" = (None, 0),
    outputs: "tuple[Fd | None, Fd | None]" = (None, None),
) -> None:
    """Run one hook to its end, or to its timeout, after which its whole process group is killed."""
    input_read, input_write = _pipe()
    output_read, output_write = _pipe()
    parent = posix.getpid()
    pid, pidfd = clone()
    if pidfd is None:
        printed, errors = (output_write if fd is None else fd for fd in outputs)
        _execute(parent, hook, environment, folder, input_read, printed, errors, filter)
        raise AssertionError  # not reached: the child is the hook now
    input_read.close()
    output_write.close()
    timeout = hook.get("timeout")
    with input_write, output_read, pidfd:
        finished = False
        try:
            if started is not None:
                started(pid)
            finished, said = _attend(pidfd, input_write, output_read, state, timeout)
        finally:  # a signal may interrupt us
            if not finished:
                kill_group(pidfd, pid)  # its children too: often it is a child that hangs
            status = reap(pidfd)
        output = printable(said.decode("utf-8", "replace").strip())
    if not finished:
        raise PyruncError(hook["path"], "", f"hook ran past timeout of {timeout} s and was killed")
    if status:
        raise PyruncError(hook["path"], "", f"{describe(status)}, output: {output}" if output else describe(status))


def describe(status: int) -> str:
    """A status of waitpid(2), in the words that Go uses and scripts look for."""
    if posix.WIFSIGNALED(status):
        return f"signal: {_signal.strsignal(posix.WTERMSIG(status)) or ''}".lower()
    return f"exit status {posix.WEXITSTATUS(status)}"


def _pipe() -> "tuple[Fd, Fd]":
    read, write = posix.pipe2(posix.O_CLOEXEC)
    return Fd(read, "a hook's pipe"), Fd(write, "a hook's pipe")


def _attend(pidfd: Fd, source: Fd, output: Fd, state: bytes, timeout: "float | None") -> "tuple[bool, bytes]":
    """Write the hook's input and read its output until it ends: a full pipe would stop the hook, or us. Returns
    whether it ended in time, and the beginning of what it said.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    posix.set_blocking(source.number, False)
    posix.set_blocking(output.number, False)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(output, select.POLLIN)
    poll.register(source, select.POLLOUT)
    said, left = b"", state
    while True:
        remaining = LOOK_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        ready = [number for number, _ in poll.poll(min(remaining, LOOK_SECONDS) * 1000)]
        if not ready and deadline is not None and time.monotonic() >= deadline:
            return False, said
        if source.number in ready:
            left = _feed(source, left)
            if not left:
                poll.unregister(source)
                source.close()
        if output.number in ready:
            data = _read_some(output)
            said = (said + data)[:OUTPUT]
            if not data:
                poll.unregister(output)
        if pidfd.number in ready:
            return True, (said + _read_some(output))[:OUTPUT]


def _feed(pipe: Fd, data: bytes) -> bytes:
    """Write what there is room for. Returns what is left. A hook need not read its input: a closed pipe is no
    error.
    """
    try:
        return data[posix.write(pipe.number, data) :]
    except BrokenPipeError:
        return b""


def _read_some(pipe: Fd) -> bytes:
    try:
        return posix.read(pipe.number, 1 << 16)
    except BlockingIOError:
        return b""


def _execute(
    parent: int,
    hook: "Hook",
    environment: "dict[str, str] | None",
    folder: str,
    source: Fd,
    output: Fd,
    errors: Fd,
    filter: "tuple[bytes | None, int]",
) -> None:
    """In the child: become the hook. Never returns."""
    try:
        posix.setpgid(0, 0)
        if folder:
            _enter(folder)
        die_with(parent)  # a runtime that is killed leaves no hook behind
        reset_signals()
        posix.dup2(source.number, 0)
        posix.dup2(output.number, 1)
        posix.dup2(errors.number, 2)
        close_range(3)
        arguments = hook.get("args") or [hook["path"]]
        failed = execute(hook["path"], arguments, posix_environment() if environment is None else environment, *filter)
        posix.write(2, encoded(f"{hook['path']}: {posix.strerror(failed).lower()}"))
    except BaseException as error:
        posix.write(2, encoded(f"{hook['path']}: {reason(error)}"))
    finally:
        posix._exit(NOT_STARTED)


def _enter(folder: str) -> None:
    try:
        posix.chdir(folder)
    except OSError:
        posix.chdir("/")


def posix_environment() -> "dict[bytes, bytes]":
    """The runtime's own environment, as posix keeps it."""
    return posix.environ

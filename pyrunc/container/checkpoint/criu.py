"""One `criu swrk`: a child process that gets one request over a socket. We listen to it until it has answered."""

import _signal
import _socket
import posix
import sys

from pyrunc.container.checkpoint import cgroup2, messages
from pyrunc.container.launch import INTO_CGROUP_REFUSED
from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.init import channel
from pyrunc.init.channel import SCM_RIGHTS, SOL_SOCKET, Channel, Message
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import pidfd_send_signal, reap
from pyrunc.linux.process import clone3, close_range, execute, reset_signals
from pyrunc.protobuf import Malformed, decode, encode
from pyrunc.spec.jsonc import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.log import Log
    from pyrunc.protobuf import Values

    Notified = Callable[[str, int, "Fd | None"], None]
    SetUp = Callable[[Channel], dict[str, Fd]]

LARGEST = 1 << 16
USUAL_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXTERNAL = "X"  # the child's message about a mount that comes from outside: its name and its source
OLDEST = 31600
# The version of CRIU that brought a feature: MAJOR * 10000 + MINOR * 100 + SUBLEVEL
SINCE = {
    "--tcp-skip-in-flight": 20900,
    "an external network namespace": 31100,
    "an external process namespace": 31500,
    "--lsm-profile": 31600,
    "--lsm-mount-context": 31600,
}


class CriuFailed(PyruncError):
    """CRIU refuses. Engines look for `criu failed: type` and a number."""

    def __init__(self, kind: int, number: int, message: str) -> None:
        name = messages.NAMES.get(kind, str(kind))
        super().__init__(f"criu failed: type {name} errno {number}", "", message)


def find(program: str = "") -> str:
    """The path of CRIU: the one that is given, or the first `criu` in PATH. Only absolute paths count:
    the caller's working directory is no place to find programs."""
    if program:
        if not program.startswith("/"):
            raise PyruncError("criu", program, "its path must be absolute")
        return program
    for folder in posix.environ.get(b"PATH", USUAL_PATH).split(b":"):
        path = folder + b"/criu"
        if folder.startswith(b"/") and posix.access(path, posix.X_OK):
            return path.decode("utf-8", "surrogateescape")
    raise PyruncError('exec: "criu"', "", "executable file not found in $PATH", "install CRIU (package criu)")


class Criu:
    """A process of CRIU, from its start to its end.

    Args:
        program: its path.
        set_up: is called in the child, before it becomes CRIU. The descriptors that it returns stay open in CRIU.
        flags: CLONE_*, for new namespaces that CRIU is born into.
        cgroup: the container's, if CRIU is to be born in it. The child joins the hierarchies of v1 itself.
        leader: whether CRIU gets a session of its own. With one, no key of the caller's terminal ends it half-way.

    Attributes:
        numbers: name -> number of each descriptor that `set_up` left open in CRIU.
        version: CRIU's; 0 until `require_version` has asked for it.
        cgroup2: where the host's cgroup v2 is mounted, and with which options.
    """

    __slots__ = ("cgroup2", "ended", "leader", "line", "log", "numbers", "pid", "pidfd", "program", "socket", "version")

    pidfd: Fd

    def __init__(
        self,
        program: str,
        log: "Log",
        set_up: "SetUp",
        *,
        flags: int = 0,
        cgroup: "Cgroup | None" = None,
        leader: bool = True,
    ) -> None:
        self.program = program
        self.log = log
        self.leader = leader
        self.socket: _socket.socket | None = None
        self.numbers: dict[str, int] = {}
        self.version = 0
        self.ended: int | None = None
        self.cgroup2 = cgroup2.options()
        self.line, theirs = Channel.pair()
        self.pid, pidfd, moved_later = _clone(flags, cgroup)
        if pidfd is None:
            try:
                self.line.close()
                self._become(theirs, set_up)
            finally:
                posix._exit(1)
        self.pidfd = pidfd
        theirs.close()
        if moved_later and cgroup is not None:
            cgroup.join_unified(self.pid)

    def _become(self, line: Channel, set_up: "SetUp") -> None:
        """Turn the child into CRIU.

        The child makes the socket, not the parent. CRIU looks up the descriptors that we name in the process that made
        the socket (SO_PEERCRED): so that has to be CRIU itself.
        """
        try:
            reset_signals()
            _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)  # CRIU shall see an error when we are gone, not die
            if self.leader:
                posix.setsid()
            if line.receive().kind != channel.GO:
                return
            kept = set_up(line)
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
            numbers = {name: fd.number for name, fd in kept.items()}
            line.send(channel.READY, dumps(numbers), fd=Fd(ours.detach(), "the line to criu"))
            close_range(3)
            for number in (theirs.fileno(), *numbers.values()):
                posix.set_inheritable(number, True)
            failed = execute(self.program, ["criu", "swrk", str(theirs.fileno())], posix.environ)
            raise OSError(failed, posix.strerror(failed), self.program)
        except PyruncError as error:
            line.send(channel.FAILED, error.operation, error.subject, error.cause, error.hint)
        except OSError as error:
            line.send(channel.FAILED, "starting criu", "", reason(error), "")

    def go(self, told: "Callable[[str, str], None] | None" = None) -> None:
        """Let the child set itself up and become CRIU. `told` gets the name and source of each mount from outside."""
        self.line.send(channel.GO)
        while self.socket is None:
            said = self.line.receive()
            if said.kind == channel.READY and said.descriptor is not None:
                numbers: Any = loads(said.text)
                self.numbers = numbers
                self.socket = _socket.socket(fileno=said.descriptor.take())
            elif said.kind == EXTERNAL and told is not None:
                told(*said.fields)
            else:
                self._failed(said)
        said = self.line.receive()  # END: execve has closed the other end
        if said.kind != channel.END:
            self._failed(said)
        self.line.close()

    def _failed(self, said: Message) -> None:
        self.close()
        if said.kind == channel.FAILED:
            raise StepError(*said.fields)
        raise PyruncError("starting criu", self.program, "its process ended unexpectedly")

    # --- the conversation

    def ask(self, request: "dict[str, Any]", notified: "Notified | None" = None) -> "Values":
        """Send a request and return the answer. Raises CriuFailed.

        `notified` is called with (what happens, a pid, a descriptor). An exception that it raises is passed on. CRIU
        then undoes what it has done.
        """
        self._send(request)
        while True:
            response, fd = self._receive()
            kind = response["type"]
            if not response["success"]:
                raise CriuFailed(kind, response["cr_errno"], response["cr_errmsg"].decode("utf-8", "replace").strip())
            if kind == request["type"]:
                return response
            if kind != messages.NOTIFY:
                raise PyruncError("criu's answer", "", f"it is one to something else (type {kind})")
            note = response["notify"] or {"script": "", "pid": 0}
            self.log.debug(f"notify: {note['script']}")
            if notified is not None:
                notified(note["script"], note["pid"], fd)
            self._send({"type": messages.NOTIFY, "notify_success": True})

    def _send(self, request: "dict[str, Any]") -> None:
        assert self.socket is not None
        try:
            self.socket.sendmsg([encode(messages.REQUEST, request, zeros=True)], [], _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _receive(self) -> "tuple[Values, Fd | None]":
        assert self.socket is not None
        try:
            data, control, flags, _ = self.socket.recvmsg(LARGEST, 64, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # comes once, as CRIU left data unread; its last answer follows
            data, control, flags, _ = self.socket.recvmsg(LARGEST, 64, _socket.MSG_CMSG_CLOEXEC)
        fds = [
            Fd(int.from_bytes(payload[at : at + 4], sys.byteorder), "a descriptor from criu")
            for level, kind, payload in control
            if level == SOL_SOCKET and kind == SCM_RIGHTS
            for at in range(0, len(payload) - 3, 4)
        ]
        if not data:
            raise self._gone()
        try:
            if flags & _socket.MSG_TRUNC:
                raise Malformed("it is too large")
            return decode(messages.RESPONSE, data), fds[0] if fds else None
        except Malformed as error:
            raise PyruncError("criu's answer", "", str(error)) from error

    def _gone(self) -> PyruncError:
        status = self.wait()
        how = f"signal {posix.WTERMSIG(status)}" if posix.WIFSIGNALED(status) else f"status {posix.WEXITSTATUS(status)}"
        return PyruncError("criu", self.program, f"it ended before it was done ({how})")

    # --- what it can

    def require_version(self) -> None:
        """Ask for CRIU's version. Raises PyruncError when it is older than any that we can use."""
        found = self.ask({"type": messages.VERSION, "keep_open": True})["version"] or {}
        self.version = found.get("major", 0) * 10000 + found.get("minor", 0) * 100 + found.get("sublevel", 0)
        self.log.debug(f"Using CRIU {self.version}")
        if self.version < OLDEST:
            raise PyruncError("criu", self.program, f"CRIU version {self.version} must be {OLDEST} or higher")

    def require(self, feature: str) -> None:
        if self.version < SINCE[feature]:
            cause = f"{feature} requires at least CRIU {SINCE[feature] // 10000}.{SINCE[feature] // 100 % 100}"
            raise PyruncError("criu", self.program, f"{cause}, and this is {self.version}")

    def require_of_kernel(self, feature: str, words: str) -> None:
        """Raises PyruncError when CRIU or the kernel lacks a feature that needs both."""
        request = {"type": messages.FEATURE_CHECK, "features": {feature: True}, "keep_open": True}
        found = self.ask(request)["features"]
        if not (found and found[feature]):
            raise PyruncError("criu", "", f"CRIU is missing features: {words}", "the kernel has to have it too")

    # --- its end

    def wait(self) -> int:
        """Wait until CRIU has ended, and return its status as of waitpid(2). Our ends of its sockets are closed first:
        then CRIU undoes what it has not finished."""
        if self.socket is not None:
            self.socket.close()
        if self.line.socket.fileno() >= 0:
            self.line.close()
        if self.ended is None:
            try:
                self.ended = reap(self.pidfd)
            except ChildProcessError:
                self.ended = 0  # somebody else has waited for it
            cgroup2.give_back(*self.cgroup2, self.log)
        return self.ended

    def kill(self) -> None:
        try:
            pidfd_send_signal(self.pidfd, _signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        self.wait()
        self.pidfd.close()


def _clone(flags: int, cgroup: "Cgroup | None") -> "tuple[int, Fd | None, bool]":
    """Make a child in the cgroup. The last result says whether it has still to be moved there: the kernel may refuse to
    let it be born there."""
    directory = cgroup.open_unified() if cgroup is not None else None
    if directory is not None:
        with directory:
            try:
                return *clone3(flags, directory), False
            except OSError as error:
                if error.errno not in INTO_CGROUP_REFUSED:
                    raise
    return *clone3(flags), directory is not None

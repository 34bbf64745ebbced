"""One `criu swrk`: a process of ours that is asked for one thing over a socket, and heard until it has answered."""

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
EXTERNAL = "X"  # what the child tells: a mount that comes from outside, its name and its source
OLDEST = 31600
# What came later than CRIU itself, and with which version: MAJOR * 10000 + MINOR * 100 + SUBLEVEL
SINCE = {
    "--tcp-skip-in-flight": 20900,
    "an external network namespace": 31100,
    "an external process namespace": 31500,
    "--lsm-profile": 31600,
    "--lsm-mount-context": 31600,
}


class CriuFailed(PyruncError):
    """CRIU says no. Engines look for `criu failed: type` and a number."""

    def __init__(self, kind: int, number: int, message: str) -> None:
        name = messages.NAMES.get(kind, str(kind))
        super().__init__(f"criu failed: type {name} errno {number}", "", message)


def find(program: str = "") -> str:
    """The program: as it is given, else the first of that name in PATH. Where a caller happens to stand is no place to
    find programs."""
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
    """Args:
        program: its path.
        set_up: is called in the child, before it becomes CRIU; what it returns is left open, by those names.
        flags: CLONE_*, for the namespaces that it is to be born into.
        cgroup: the container's, where it is to be born in that. Its hierarchies of version 1 it joins itself.
        leader: whether it gets a session of its own: no key of the caller's terminal ends it half-way.

    Attributes:
        numbers: of the descriptors that are open in it.
        version: once it is asked for.
        cgroup2: where the host's cgroup v2 is, and with which options.
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
        """In the child. The socket is made here: CRIU looks descriptors that are named to it up in the process that has
        made it (SO_PEERCRED), and so in itself."""
        try:
            reset_signals()
            _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)  # that we are gone it is to hear, not to die of
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
        """Let it set itself up, and start. `told`: hears of what comes from outside: its name, and its source."""
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
        said = self.line.receive()  # the end: execve has closed it
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
        """Its answer. `notified` is called with (what happens, a pid, a descriptor); when that raises, so does this,
        and CRIU undoes what it has done. Raises CriuFailed."""
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
        except ConnectionResetError:  # told once, before its last words: it had not read all
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
        """Raises PyruncError when it is too old for anything."""
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
        """Of what it needs the kernel for."""
        request = {"type": messages.FEATURE_CHECK, "features": {feature: True}, "keep_open": True}
        found = self.ask(request)["features"]
        if not (found and found[feature]):
            raise PyruncError("criu", "", f"CRIU is missing features: {words}", "the kernel has to have it too")

    # --- its end

    def wait(self) -> int:
        """Until it has ended: with our end of the line closed it undoes what is not done. Its status, as waitpid(2) has
        it."""
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
    """A child, born in the cgroup; whether it is to be moved there yet, as the kernel would not have it born there."""
    directory = cgroup.open_unified() if cgroup is not None else None
    if directory is not None:
        with directory:
            try:
                return *clone3(flags, directory), False
            except OSError as error:
                if error.errno not in INTO_CGROUP_REFUSED:
                    raise
    return *clone3(flags), directory is not None

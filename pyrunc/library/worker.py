"""The worker: one process per program that uses the library, with one thread. It makes and watches containers.

It does itself what the kernel answers at once. What may wait is done by runners (runner.py), which are forked from it,
so that one container's verb doesn't hold up another's. A caller sends a message and one end of a socket, the line, on
which the answer comes. When the caller closes its end, nobody wants the answer any more.

It ends when the program ends, however that happens: then the other end of its socket is closed. A fork of the program
may have kept that end, so the program's pidfd is watched too. What belongs to the program goes with it.
"""

import _signal
import _socket
import gc
import posix
import select
import sys
import time

from pyrunc import cgroups
from pyrunc.container import state
from pyrunc.library import jobs, places, wire
from pyrunc.library.errors import as_message
from pyrunc.library.job import POLLRDHUP
from pyrunc.library.runner import Made, Runner, descriptors_of_modules
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import has_ended, pidfd_open
from pyrunc.linux.process import PR_SET_CHILD_SUBREAPER, keep_only, prctl, set_dumpable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.library.runner import Kind
    from pyrunc.library.wire import Message

CONTROL = 3  # our end of the program's socket
MOST_IDLE = 16
MOST_AHEAD = 4
AHEAD_SECONDS = 3.0  # if two runs of a kind are closer, one is made ahead; it waits for so long
END_SECONDS = 15.0  # for runners to undo what they have made
SIGTERM = _signal.SIGTERM


def main(_: "list[str]") -> int:
    state.lives_for_one_verb = False
    program = posix.getppid()
    keep_only(CONTROL + 1, descriptors_of_modules())
    posix.set_inheritable(CONTROL, False)
    set_dumpable(False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_IGN)
    cgroups.load_code(to_stay=True)
    gc.collect()
    gc.freeze()  # a collection in a runner would copy these pages
    gc.disable()
    Worker(_socket.socket(fileno=CONTROL), program).serve()
    return 0


class Ahead:
    """A container that is made, or in the making, for a run that nobody has asked for yet."""

    __slots__ = ("id", "line", "runner", "until")

    def __init__(self, runner: Runner, line: "_socket.socket", container_id: str) -> None:
        self.runner = runner
        self.line = line
        self.id = container_id
        self.until = time.monotonic() + AHEAD_SECONDS


class Worker:
    """What the worker knows, and its loop.

    Attributes:
        made: processes that have not ended, or whose owner has not gone, by the descriptors of their lines.
        ahead: containers that are made ahead, by the kind of run.
        last: when each kind was last asked for.
        ends: the ends of processes that nobody has claimed yet: a runner may tell of a process after its end.
    """

    __slots__ = ("ahead", "busy", "control", "ending", "ends", "idle", "last", "made", "poll", "program", "watched")

    def __init__(self, control: "_socket.socket", program: int) -> None:
        self.control = control
        self.ending = False
        self.idle: list[Runner] = []
        self.busy: dict[int, Runner] = {}
        self.made: dict[int, Made] = {}
        self.ends: dict[int, int] = {}
        self.ahead: dict[Kind, Ahead] = {}
        self.last: dict[Kind, float] = {}
        self.poll = select.poll()
        self.watched: dict[int, Callable[[], None]] = {}
        self.program: Fd | None = None
        self._watch_signals()
        self._watch(control.fileno(), self._requests)
        control.setblocking(False)
        self._watch_program(program)

    def _watch(self, number: int, action: "Callable[[], None]", mask: int = select.POLLIN) -> None:
        self.watched[number] = action
        self.poll.register(number, mask)

    def _unwatch(self, number: int) -> None:
        if self.watched.pop(number, None) is not None:
            self.poll.unregister(number)

    def _watch_signals(self) -> None:
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.signal(SIGTERM, lambda *_: self._end())
        self._watch(read, lambda: self._bury(read))

    def _watch_program(self, pid: int) -> None:
        try:
            self.program = pidfd_open(pid)
        except ProcessLookupError:
            return self._end()
        if posix.getppid() != pid:
            return self._end()
        self._watch(self.program.number, self._end)

    def serve(self) -> None:
        while not self.ending:
            self._turn(1.0 if self.ahead else None)
            self._forget_ahead()
        deadline = time.monotonic() + END_SECONDS
        while (self.busy or self.made) and time.monotonic() < deadline:
            self._turn(0.1)
            for made in [*self.made.values()]:
                if not made.owned:
                    self._forget(made)
        places.leave()

    def _turn(self, seconds: "float | None") -> None:
        for number, _ in self.poll.poll(None if seconds is None else seconds * 1000):
            action = self.watched.get(number)
            if action is None:
                continue
            try:
                action()
            except Exception as error:  # a bug of ours must not cost the program its other containers
                print(f"pyrunc-worker: internal error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    # --- what is asked for

    def _requests(self) -> None:
        while True:
            try:
                received = wire.receive(self.control)
            except BlockingIOError:
                return
            if received is None:
                return self._end()
            message, fds = received
            self._take(message, _socket.socket(fileno=fds[0].take()), fds[1:])

    def _take(self, message: "Message", line: "_socket.socket", fds: "list[Fd]") -> None:
        """Serve one request. Whatever is wrong with it, the worker goes on."""
        try:
            work = jobs.AT_ONCE.get(message["verb"])
            if work is None:
                return self._start(message, line, fds)
            answer(line, {"result": work(message)})
        except BaseException as error:
            answer(line, {"error": as_message(error)})
        line.close()

    def _start(self, message: "Message", line: "_socket.socket", fds: "list[Fd]") -> None:
        if message["verb"] in jobs.PLACED:
            root = state.StateRoot(message["root"])
            places.prepare(root)
            message["shared"] = places.shared(root)
            message["id"] = message["id"] or places.anonymous(ours=message["verb"] == "run")
        kind = (message["root"], message["ahead"]) if message.get("ahead") else None
        config = message.get("config")
        if kind and self._take_ahead(kind, message, [line.fileno(), *fds]):
            return line.close()
        runner = self._runner()
        runner.request = message
        if kind and self._comes_often(kind):
            runner.next = kind, {**message, "config": config}
        wire.send(runner.socket, message, [line.fileno(), *fds])
        if message["verb"] not in jobs.MAKING:
            return line.close()
        runner.made = Made(line, (message["root"], message["id"]) if message["verb"] == "create" else None)
        self.made[line.fileno()] = runner.made
        self._watch(line.fileno(), self._heard(runner.made), select.POLLIN | POLLRDHUP)

    # --- containers that are made ahead

    def _comes_often(self, kind: "Kind") -> bool:
        now = time.monotonic()
        for each in [each for each, last in self.last.items() if now - last > AHEAD_SECONDS]:
            del self.last[each]
        often = kind in self.last
        self.last[kind] = now
        return often

    def _take_ahead(self, kind: "Kind", message: "Message", fds: "list[int | Fd]") -> bool:
        """Whether there was a container made ahead, which the caller gets now. It may still be in the making."""
        ahead = self.ahead.pop(kind, None)
        if ahead is None:
            return False
        self._comes_often(kind)
        runner, line = ahead.runner, ahead.line
        try:
            if has_ended(runner.pidfd, 0):
                raise ProcessLookupError
            wire.send(line, {name: message[name] for name in ("root", "timeout", "args")}, fds)
        except OSError:
            line.close()
            return False  # it could not be made
        runner.line = line  # to be closed when the runner has heard that
        was = places.ahead(message["shared"]).path
        runner.request = {"verb": "run", "root": message["root"], "id": ahead.id, "was": was}
        runner.next = kind, {**message}
        return True

    def _wants_another(self, runner: Runner) -> bool:
        assert runner.next is not None
        return runner.next[0] not in self.ahead and len(self.ahead) < MOST_AHEAD and not self.ending

    def _make_ahead(self, runner: Runner, kind: "Kind", message: "Message") -> None:
        runner.next = None
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        made = {
            "verb": "ahead", "root": places.ahead(message["shared"]).path, "id": places.anonymous(ours=True),
            "shared": message["shared"], "rootfs": message["rootfs"],
        }  # fmt: skip
        runner.request = made
        self.ahead[kind] = Ahead(runner, ours, made["id"])
        wire.send(runner.socket, {**made, "config": message["config"]}, [theirs.fileno()])
        theirs.close()

    def _forget_ahead(self, runner: "Runner | None" = None) -> None:
        """Give up the container that this runner was to make ahead. Without a runner, give up those that have waited
        for too long, and all at the end. A runner ends when the other end of its line is closed."""
        if runner is not None and runner.line is not None:
            runner.line.close()
            runner.line = None
        now = time.monotonic()
        for kind, ahead in [*self.ahead.items()]:
            if ahead.runner is runner or (runner is None and (self.ending or now > ahead.until)):
                del self.ahead[kind]
                ahead.line.close()

    def _heard(self, made: Made) -> "Callable[[], None]":
        return lambda: self._hear(made)

    def _hear(self, made: Made) -> None:
        """Hear on the line of a process that it belongs to the program now, or that nobody waits for it any more."""
        try:
            received = wire.receive(made.line, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # poll told of another line, which had this number before
        if received is not None:
            if received[0].get("own") and not made.owned:
                self._own(made)
            return
        self._forget(made)
        if made.born:
            self._leave(made)

    def _leave(self, made: Made) -> None:
        """Remove what belonged to an owner who is gone. It must have been made for that owner: a container of that ID
        may be somebody else's, who came first."""
        if made.owned and made.place is not None:
            self._remove(*made.place)
        elif made.owned and made.pid:
            posix.kill(made.pid, _signal.SIGKILL)  # it is our child, and we have not waited for its end

    def _own(self, made: Made) -> None:
        made.owned = True
        if made.place is not None:
            try:
                places.own(state.StateRoot(made.place[0]), made.place[1])
            except FileNotFoundError:
                pass  # it is not there yet, or not any more

    def _forget(self, made: Made) -> None:
        if made.line.fileno() >= 0:
            del self.made[made.line.fileno()]
            self._unwatch(made.line.fileno())
            made.line.close()

    def _remove(self, root: str, container_id: str) -> None:
        runner = self._runner()
        wire.send(runner.socket, {"verb": "remove", "root": root, "id": container_id})

    # --- runners

    def _runner(self) -> Runner:
        runner = self.idle.pop() if self.idle else Runner.fork()
        while has_ended(runner.pidfd, 0):  # it was killed, and we have not heard of it yet
            runner = self.idle.pop() if self.idle else Runner.fork()
        if runner.pid not in self.busy:
            self.busy[runner.pid] = runner
        if runner.socket.fileno() not in self.watched:
            self._watch(runner.socket.fileno(), lambda: self._told(runner))
        return runner

    def _told(self, runner: Runner) -> None:
        while True:
            try:
                received = wire.receive(runner.socket)
            except BlockingIOError:
                return
            if received is None:
                return self._unwatch(runner.socket.fileno())  # SIGCHLD tells the rest
            if "born" in received[0] and runner.made is not None:
                runner.made.pid = received[0]["born"]
                runner.made.born = True
                if runner.made.line.fileno() < 0:
                    self._leave(runner.made)  # the caller is gone already
                self._tell_end(runner.made)
            elif "idle" in received[0]:
                return self._rest(runner)

    def _rest(self, runner: Runner) -> None:
        self._forget_ahead(runner)
        if runner.next is not None and self._wants_another(runner):
            return self._make_ahead(runner, *runner.next)
        runner.request = runner.next = None
        del self.busy[runner.pid]
        self.idle.append(runner)
        if len(self.idle) > MOST_IDLE or self.ending:
            self._dismiss(self.idle.pop())

    def _dismiss(self, runner: Runner) -> None:
        """Let a runner end, which it does when we close our end of its socket."""
        self._unwatch(runner.socket.fileno())
        runner.socket.close()

    # --- ends

    def _bury(self, pipe: int) -> None:
        posix.read(pipe, 4096)
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            runner = self.busy.get(pid) or next((each for each in self.idle if each.pid == pid), None)
            if runner is not None:
                self._runner_ended(runner, status)
            else:
                self.ends[pid] = status
        for made in [*self.made.values()]:
            self._tell_end(made)
        if not self.busy:
            self.ends.clear()

    def _tell_end(self, made: Made) -> None:
        status = self.ends.pop(made.pid, None) if made.pid else None
        if status is not None:
            made.pid = 0
            answer(made.line, {"ended": status})

    def _runner_ended(self, runner: Runner, status: int) -> None:
        """Tidy up after a runner. If it ended in the middle of something, what it made is removed, as after a killed
        command."""
        if runner.socket.fileno() in self.watched:
            self._told(runner)
        self._forget_ahead(runner)
        self.busy.pop(runner.pid, None)
        if runner in self.idle:
            self.idle.remove(runner)
        request, made = runner.request, runner.made
        self._dismiss(runner)
        if made is not None and not made.born:
            self._forget(made)  # the reason was sent already; or there is none, and the closed line says it
        if status and request is not None and request["verb"] in jobs.UNDONE_BY_REMOVING:
            for root in (request["root"], request.get("was")):
                if root:
                    self._remove(root, request["id"])
        if runner.next is not None and self._wants_another(runner):
            self._make_ahead(self._runner(), *runner.next)

    def _end(self) -> None:
        """Begin to end: the program has gone, or a signal tells us to go."""
        if self.ending:
            return
        self.ending = True
        self._unwatch(self.control.fileno())
        self.control.close()
        if self.program is not None:
            self._unwatch(self.program.number)
        self._forget_ahead()
        for runner in self.busy.values():
            runner.call_off()
        for runner in self.idle:
            self._dismiss(runner)
        self.idle.clear()
        for made in [*self.made.values()]:
            if made.born:
                self._leave(made)
            self._forget(made)


def answer(line: "_socket.socket", message: "Message", fds: "list[Fd] | None" = None) -> None:
    """Send an answer. The caller may have gone."""
    try:
        wire.send(line, message, fds or ())
    except OSError:
        pass

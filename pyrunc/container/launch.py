"""The parent's half of the way from clone to execve: clone, and the conversation until the process is ready."""

import errno
import posix
import time
from _signal import SIGKILL

from pyrunc.container import patience, userns
from pyrunc.container.state import is_root_of_host
from pyrunc.errors import CalledOff, StepError, reason
from pyrunc.hook_runner import describe
from pyrunc.init import attributes, channel, hooks, namespaces, steps
from pyrunc.init.channel import Channel, Message
from pyrunc.init.context import Context
from pyrunc.linux import process
from pyrunc.linux.fd import Fd, open_at, write_file
from pyrunc.linux.pid import has_ended, pid_of, pidfd_send_signal, reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.init.context import Step
    from pyrunc.log import Log
    from pyrunc.spec.types import Namespace

INTO_CGROUP_REFUSED = (
    errno.E2BIG, errno.EINVAL,  # by an older kernel
    errno.EBUSY, errno.EOPNOTSUPP,  # by the cgroup: it is threaded, or has controllers for those below it
    errno.EPERM, errno.EACCES,  # to us, where systemd may do it for us
)  # fmt: skip
OOM = "container init was OOM-killed (memory limit too low?)"  # runc's words


class Parent:
    """What the parent does for the process while that waits. creation.Creation does more of it than exec."""

    __slots__ = ("take_master", "take_pidfd")

    def __init__(self, take_master: "Callable[[Fd], None]", take_pidfd: "Callable[[Fd], None]") -> None:
        self.take_master = take_master
        self.take_pidfd = take_pidfd

    def settle(self, pid: int) -> None:
        """There is a first process, which has done nothing yet: move it to where it belongs."""

    def born(self, pid: int) -> None:
        """This is the pid of the process that will execve: put it on record."""

    def delegate(self, pid: int) -> None:
        """It has its cgroup namespace: move it to the cgroup that the container is to manage."""

    def run_hooks(self) -> None:
        """Its mounts stand: run the prestart and createRuntime hooks."""

    def move_devices(self, namespace: Fd) -> None:
        """It has its network namespace and waits for network devices."""


class Launch:
    """One process on its way to execve.

    Args:
        context: what it is to become. Its channel is made here.
        parent: who does for it what it may not do itself.

    Attributes:
        may_wait: tells whether the process rightly gets no further, such as in a frozen cgroup.
        death_seconds: how long to wait for its end after it was killed.
        status: as waitpid(2) has it, where somebody else has waited for its end.
    """

    __slots__ = (
        "channel", "context", "death_seconds", "followed", "log", "may_wait", "moved_later", "parent", "pid", "pidfd",
        "ready", "status", "steps", "watch",
    )  # fmt: skip

    def __init__(self, context: Context, log: "Log", parent: Parent) -> None:
        self.context = context
        self.log = log
        self.parent = parent
        self.pid = 0
        self.pidfd: Fd | None = None
        self.followed = False  # the process of the second clone is there
        self.moved_later = False  # into v2's cgroup, where clone3 could not put it
        self.may_wait: Callable[[], bool] = lambda: False
        self.steps: tuple[Step, ...] = ()
        self.ready = False  # it has said so
        self.death_seconds = patience.DEATH_SECONDS
        self.status: int | None = None

    def run(self, list_of_steps: "tuple[Step, ...]", clone_flags: int) -> None:
        """Clone, and lead the child to where it is ready. When this raises, the child is dead."""
        self.begin(list_of_steps, clone_flags)
        self.lead()

    def begin(self, list_of_steps: "tuple[Step, ...]", clone_flags: int) -> None:
        """Clone, and send the child on its way.

        The caller goes on with `lead`. Or it calls `hear` whenever the child has said something, and `give_up` when
        the child says nothing for too long.
        """
        process.refuse_threads()
        if self.context.take_channel is not None:
            list_of_steps = steps.with_program_later(list_of_steps)
        if self.context.confinement is not None:
            list_of_steps = steps.confined(list_of_steps, self.context.confinement)
        if self.context.first_step is not None:
            list_of_steps = (self.context.first_step, *list_of_steps)
        self.steps = list_of_steps
        self.channel, self.context.channel = Channel.pair()
        self.context.progress = process.SharedByte()
        self.context.debug = self.log.steps_on
        self.context.may_be_dumpable = bool(posix.geteuid()) and not self.context.joins
        rootless = bool(clone_flags & process.CLONE_NEWUSER) and not is_root_of_host()
        if rootless:
            process.set_dumpable(True)  # else /proc/PID/uid_map belongs to root; see also init.namespaces.become_root
        began = time.time_ns()
        self._clone(clone_flags)
        if self.pidfd is None:
            self.channel.close()
            steps.become(list_of_steps, self.context)
        if self.log.steps_on:
            self.log.took("launch.clone", began, time.time_ns())
        self._attempt(lambda: self._send_off(clone_flags, rootless))

    def lead(self) -> None:
        try:
            while not self.hear():
                pass
        except BaseException:
            self.give_up()  # it may have come between two messages
            raise

    def hear(self) -> bool:
        """Listen to it, and do what it asks for. Returns whether it has arrived."""
        arrived = self._attempt(lambda: self._advance(self._receive()))
        if arrived:
            self._end()
        return arrived

    def look(self) -> None:
        """It has said nothing for LOOK_SECONDS. Raises Overdue when it gets no further, such as when another
        process has stopped it.
        """
        number: int = self.context.progress.page[0]
        may_wait = self.steps[number] is hooks.create_container or self.may_wait()
        self.watch.look(f"waiting for its process, which is {self._step()}", number, may_wait)

    def _step(self) -> str:
        number: int = self.context.progress.page[0]
        return self.steps[number].title

    def give_up(self) -> None:
        self.kill()
        self._end()

    def _attempt(self, action: "Callable[[], bool]") -> bool:
        """Do it. When this raises, the child is dead."""
        try:
            try:
                return action()
            except (BrokenPipeError, ConnectionResetError):
                self._hear_last_words()
            except OSError:
                assert self.pidfd is not None
                if not has_ended(self.pidfd, 0):
                    raise
                self._hear_last_words()
            return False
        except BaseException:
            self.give_up()
            raise

    def _end(self) -> None:
        """End the conversation."""
        if self.channel.socket.fileno() < 0:
            return
        if self.context.take_channel is not None and self.ready:
            self.context.take_channel(self.channel)
        else:
            self.channel.close()
        self.context.progress.close()
        self.context.close()

    def _watch(self) -> None:
        self.watch = patience.Patience(self.pid, patience.FIRST_LOOKS if self.context.init else patience.ADDED_LOOKS)

    def _receive(self) -> Message:
        """What it says next."""
        while True:
            try:
                return self.channel.receive()
            except TimeoutError:
                self.look()
            except CalledOff as error:
                raise CalledOff(f"waiting for its process, which is {self._step()}: {error}") from error

    def _clone(self, clone_flags: int) -> None:
        """Clone it into its cgroup, if that is of v2. CLONE_INTO_CGROUP, Linux 5.7; threaded cgroups refuse it."""
        cgroup = self.context.cgroup if self.context.late is None else None
        directory = cgroup.open_unified() if cgroup else None
        if cgroup is None or directory is None:
            self.pid, self.pidfd = process.clone3(clone_flags)
            return
        with directory:
            try:
                self.pid, self.pidfd = process.clone3(clone_flags, directory)
                return
            except OSError as error:
                if error.errno not in INTO_CGROUP_REFUSED:
                    raise
        self.pid, self.pidfd = process.clone3(clone_flags)
        self.moved_later = True

    def _hear_last_words(self) -> None:
        """It died while we spoke to it or worked for it. Raises the error that it said last; if none, that it died."""
        said = self._receive()
        (self._fail if said.kind == channel.FAILED else self._unexpected)(said)

    def _send_off(self, clone_flags: int, rootless: bool) -> bool:
        if rootless:
            process.set_dumpable(False)
        self.context.channel.close()
        self.channel.socket.settimeout(patience.LOOK_SECONDS)
        self._watch()
        if self.moved_later and self.context.cgroup is not None:
            self.context.cgroup.join_unified(self.pid)
        if clone_flags & process.CLONE_NEWUSER:
            self._write_maps()
        if not self.context.second_clone:
            self.parent.born(self.pid)
        self.parent.settle(self.pid)
        self.channel.send(channel.GO)
        return False

    def _advance(self, said: Message) -> bool:
        """Do what it has said. Returns whether it has arrived.

        After `create` it has arrived when it waits for start. After `exec` nobody starts it: execve closes the
        channel, or an error comes through it.
        """
        if self.ready and said.kind == channel.END:
            return True
        if said.kind == channel.READY and not self.ready:
            assert self.pidfd is not None
            self.parent.take_pidfd(self.pidfd)
            self.channel.send(channel.GO)
            self.ready = True
            return self.context.fifo is not None
        self._answer(said)
        return False

    def _answer(self, said: Message) -> None:
        if self.followed and self.context.unseen and said.kind not in LAST_WORDS:
            raise StepError("preparing the container", "", "its process asks for what it does not need")
        if said.kind in ANSWERS:
            self.channel.send(channel.GO, fd=ANSWERS[said.kind](self, said))
        else:
            NEWS.get(said.kind, Launch._unexpected)(self, said)

    def _unexpected(self, _: Message) -> None:
        raise StepError("preparing the container", "", f"its process ended unexpectedly: {self._death()}")

    # --- what it asks for: the answer carries what is returned

    def _write_maps(self, _: "Message | None" = None) -> None:
        userns.write_maps(self.pid, self.context.config["linux"])

    def _write_time_offsets(self, said: Message) -> None:
        write_file(f"/proc/{self.pid}/timens_offsets", said.text.encode())

    def _set_limits(self, _: Message) -> None:
        attributes.write_limits(self.context.process, self.pid)

    def _move_net_devices(self, said: Message) -> None:
        self.parent.move_devices(_descriptor(said))

    def _open_mount(self, said: Message) -> Fd:
        from pyrunc.container import mapped_mounts

        return mapped_mounts.tree_of(self.context, int(said.text), self.pid)

    def _make_device(self, said: Message) -> "Fd | None":
        from pyrunc.container import nodes

        return nodes.make(self.context, int(said.text))

    def _give_stream(self, said: Message) -> None:
        userns.give(_descriptor(said), self.pid, self.context.process)

    def _enter_delegated(self, _: Message) -> None:
        self.parent.delegate(self.pid)

    def _run_hooks(self, _: Message) -> None:
        self.parent.run_hooks()

    def _hand_over_listener(self, said: Message) -> None:
        from pyrunc.container.seccomp_agent import hand_over

        assert self.pidfd is not None
        hand_over(self.context, self.pid, self.pidfd, int(said.text))

    def _follow(self, said: Message) -> None:
        """Go on with the process of the second clone.

        In a process namespace that it shares with others it could have been taken over already, and what it says could
        be theirs. So the kernel is asked: the process must be a child of ours, and there is one alone.

        The process that speaks sends a pidfd. If its filter may forbid that, it sends the number that the pidfd has
        there.
        """
        number, pidfd = said.text, said.descriptor
        if self.pidfd is not None and self.context.unseen and not self.followed and number.isdecimal():
            pidfd = process.pidfd_getfd(self.pidfd, int(number))
        if pidfd is None or self.followed or not self.context.second_clone:
            raise StepError("preparing the container", "", "its process names another one")
        try:
            posix.waitid(posix.P_PIDFD, pidfd.number, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except OSError as error:  # ECHILD: not ours; EBADF: no process at all
            raise StepError("preparing the container", "", f"its process names another one: {reason(error)}") from error
        self.followed = True
        self.kill()  # else it would take the answer that is meant for the new process
        self.pid, self.pidfd, self.status = pid_of(pidfd), pidfd, None
        self._watch()
        self.parent.born(self.pid)

    # --- what it tells

    def _take_terminal(self, said: Message) -> None:
        self.parent.take_master(_descriptor(said))

    def _warn(self, said: Message) -> None:
        self.log.warning(said.text)

    def _debug(self, said: Message) -> None:
        self.log.debug(said.text)

    def _note_step(self, said: Message) -> None:
        name, began, ended = said.fields
        self.log.child_took(self.pid, name, int(began), int(ended))

    def _fail(self, said: Message) -> None:
        raise StepError(*said.fields)

    # --- its end

    def _reap(self) -> int:
        """Its status, when it has ended. A process that hangs in a system call survives even SIGKILL: it is left
        alone.
        """
        assert self.pidfd is not None
        if self.status is None and has_ended(self.pidfd, self.death_seconds):
            try:
                self.status = reap(self.pidfd)
            except ChildProcessError:
                self.status = 0  # somebody else has waited for it
        return self.status or 0

    def _death(self) -> str:
        end = describe(self._reap())
        cgroup = self.context.cgroup
        return f"{end}; {OOM}" if cgroup is not None and cgroup.oom_kills() else end

    def kill(self) -> None:
        """Kill it and wait for its end, so that nothing of it is in use when it is removed.

        By pidfd: when its end is known, somebody may have waited for it, and its number may be another process's.
        """
        if self.pidfd is not None:
            try:
                pidfd_send_signal(self.pidfd, SIGKILL)
            except ProcessLookupError:
                pass
            self._reap()


# What the process asks for, and what is done for it.
ANSWERS: "dict[str, Callable[[Launch, Message], Fd | None]]" = {
    channel.WRITE_ID_MAPS: Launch._write_maps,
    channel.WRITE_TIME_OFFSETS: Launch._write_time_offsets,
    channel.SET_LIMITS: Launch._set_limits,
    channel.FOLLOW: Launch._follow,
    channel.MOVE_NET_DEVICES: Launch._move_net_devices,
    channel.OPEN_MOUNT: Launch._open_mount,
    channel.MAKE_DEVICE: Launch._make_device,
    channel.GIVE_STREAM: Launch._give_stream,
    channel.ENTER_DELEGATED: Launch._enter_delegated,
    channel.RUN_HOOKS: Launch._run_hooks,
    channel.HAND_OVER_LISTENER: Launch._hand_over_listener,
}
# What the process tells, without waiting for an answer.
NEWS: "dict[str, Callable[[Launch, Message], None]]" = {
    channel.TERMINAL: Launch._take_terminal,
    channel.WARNING: Launch._warn,
    channel.DEBUG: Launch._debug,
    channel.STEP_TAKEN: Launch._note_step,
    channel.FAILED: Launch._fail,
}
# All that a process may say which was complete when the container saw it (steps.EXEC_UNSEEN).
LAST_WORDS = (
    channel.READY, channel.WARNING, channel.DEBUG, channel.STEP_TAKEN, channel.FAILED, channel.END,
)  # fmt: skip


def _descriptor(said: Message) -> Fd:
    if said.descriptor is None:
        raise StepError("preparing the container", "", "its process has sent no descriptor")
    return said.descriptor


def open_namespace(path: str) -> Fd:
    try:
        return open_at(None, path, posix.O_RDONLY | posix.O_NONBLOCK)  # so that a fifo does not make us wait
    except OSError as error:
        cause = error.strerror or str(error)
        raise StepError("joining namespace", path, cause[0].lower() + cause[1:]) from error


def plan_namespaces(context: Context, wanted: "list[Namespace]") -> int:
    """Decide which namespaces clone3 makes, which the child joins, and which it makes itself. Returns clone3's flags.

    One clone3 makes all new ones, with two exceptions. The root of a cgroup namespace is the cgroup that its maker is
    in, so it is made after that is entered. The offsets of a time namespace have to be written before any process is
    in it.

    If a namespace is joined, the child makes the new ones after that: they belong to the user namespace that their
    maker is in.
    """
    opened = [(n["type"], open_namespace(n["path"])) for n in wanted if n.get("path")]
    namespaces.verify_kinds(opened)
    # A namespace that we are in already is not joined. For a user namespace setns(2) would refuse it.
    context.joins = [
        (namespaces.FLAGS_OF[kind], fd) for kind, fd in opened if not namespaces.is_same(fd, namespaces.own(kind))
    ]
    context.callers = {kind: namespaces.identity(namespaces.own(kind)) for kind, _ in opened}
    new = 0
    for namespace in wanted:
        if not namespace.get("path"):
            new |= namespaces.FLAGS_OF[namespace["type"]]
    joined = 0
    for flag, _ in context.joins:
        joined |= flag
    context.userns = bool((new | joined) & process.CLONE_NEWUSER)
    context.new_network = bool(new & process.CLONE_NEWNET)
    after = new & (process.CLONE_NEWCGROUP | process.CLONE_NEWTIME)
    if joined & process.CLONE_NEWUSER or (joined and new & process.CLONE_NEWUSER):
        after = new
    context.new_namespaces = after
    context.second_clone = bool((after | joined) & process.CLONE_NEWPID)
    return new & ~after

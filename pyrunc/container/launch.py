"""The parent's half of the way from clone to execve: clone, and the conversation until the process is ready."""

import posix
import time

from pyrunc.container import patience, userns
from pyrunc.errors import Interrupted, PyruncError, StepError, reason
from pyrunc.hook_runner import describe
from pyrunc.init import attributes, hooks, namespaces, steps
from pyrunc.init.context import Channel, Context, title
from pyrunc.linux import process
from pyrunc.linux.fd import Fd, open_at, write_file
from pyrunc.linux.mount import PROC_SUPER_MAGIC, filesystem_type
from pyrunc.linux.pid import has_ended, pid_of, pidfd_send_signal, reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.init.context import Step
    from pyrunc.log import Log
    from pyrunc.spec.types import Namespace

# E2BIG and EINVAL of an older kernel; EBUSY, EOPNOTSUPP of the cgroup; EACCES and EPERM, where systemd may for us
INTO_CGROUP_REFUSED = (1, 7, 13, 16, 22, 95)
LAST_WORDS = ("", "R", "W", "D", "K", "E")  # of a process that was complete when it became visible
LITTLE = (1 << 20, 4 << 20)  # bytes; see cgroups.late
OOM = "container init was OOM-killed (memory limit too low?)"  # runc's words


def open_proc() -> Fd:
    """The host's procfs, before anything of a container's is entered. What is mounted over it is no procfs."""
    proc = open_at(None, "/proc", posix.O_PATH | posix.O_DIRECTORY)
    if filesystem_type(proc) != PROC_SUPER_MAGIC:
        raise PyruncError("opening", "/proc", "is no procfs on this host")
    return proc


def refuse_threads() -> None:
    """A clone of one thread of several is a process whose locks nobody will open. Each thread is a link of task/."""
    if posix.stat("/proc/self/task").st_nlink > 3:
        hint = "use the runtime from a process with one thread, such as a worker of your own"
        raise PyruncError("starting a process", "", "this process has several threads", hint)


def use_cgroup(context: Context, cgroup: "Cgroup") -> None:
    """The process's cgroup, and when it goes there: v1's as soon as it can, v2's at birth; or at the end, where there
    is little memory, but enough for a program. Not in systemd's scopes, which end when they are empty; not where the
    image's files are copied (tmpcopyup), which is the container's to pay for."""
    context.cgroup = cgroup
    context.cgroup_tasks = cgroup.open_tasks()
    memory = (context.config["linux"].get("resources") or {}).get("memory") or {}
    little = LITTLE[0] <= (memory.get("limit") or 0) < LITTLE[1] and cgroup.unified and cgroup.unit is None
    if little and not any("tmpcopyup" in (m.get("options") or []) for m in context.config.get("mounts") or []):
        from pyrunc.cgroups import late

        context.late = late.entry(cgroup)


class Parent:
    """What the parent does for the process while it waits. `create` does more than this, in create.Creation."""

    __slots__ = ("take_master", "take_pidfd")

    def __init__(self, take_master: "Callable[[Fd], None]", take_pidfd: "Callable[[Fd], None]") -> None:
        self.take_master = take_master
        self.take_pidfd = take_pidfd

    def settle(self, pid: int) -> None:
        """There is a first process, which has done nothing yet: move it to where it is to be."""

    def born(self, pid: int) -> None:
        """The process that is to execve has this pid: put it on record."""

    def run_hooks(self) -> None:
        """Its mounts stand: prestart, createRuntime."""

    def move_devices(self, namespace: Fd) -> None:
        """It has its network namespace, and waits for network devices."""


class Launch:
    """One process on its way to execve.

    Args:
        context: what it is to become; its channel is made here.
        parent: who does for it what it can't.

    Attributes:
        may_wait: whether it is as it should be that it gets no further.
        death_seconds: how long to wait for its end when it was killed.
        status: with which it has ended, as waitpid(2) has it, where somebody else has waited for it.
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
        self.moved_later = False  # into v2's cgroup, as clone3 could not put it there
        self.may_wait: Callable[[], bool] = lambda: False
        self.steps: tuple[Step, ...] = ()
        self.ready = False  # it has said so
        self.death_seconds = patience.DEATH_SECONDS
        self.status: int | None = None

    def run(self, list_of_steps: "tuple[Step, ...]", clone_flags: int) -> None:
        """Clone, and lead the child to where it is ready. On any failure it is dead when this raises."""
        self.begin(list_of_steps, clone_flags)
        self.lead()

    def begin(self, list_of_steps: "tuple[Step, ...]", clone_flags: int) -> None:
        """Clone, and send the child on its way. Who has begun calls `lead`, or `hear` as often as it says something and
        `give_up` when it says nothing for too long."""
        refuse_threads()
        self.steps = list_of_steps
        self.channel, self.context.channel = Channel.pair()
        self.context.progress = process.SharedByte()
        self.context.debug = self.log.steps_on
        self.context.may_be_dumpable = bool(posix.geteuid()) and not self.context.joins
        rootless = bool(clone_flags & process.CLONE_NEWUSER and posix.geteuid())
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
        while not self.hear():
            pass

    def hear(self) -> bool:
        """Listen to it, and do what it asks for. Whether it is where it should be."""
        arrived = self._attempt(lambda: self._advance(*self._receive()))
        if arrived:
            self._end()
        return arrived

    def look(self) -> None:
        """It has said nothing for LOOK_SECONDS. Raises Overdue when it gets no further: a process of the container may
        have stopped it."""
        number: int = self.context.progress.page[0]
        may_wait = self.steps[number] is hooks.create_container or self.may_wait()
        self.watch.look(f"waiting for its process, which is {self._step()}", number, may_wait)

    def _step(self) -> str:
        return title(self.steps[self.context.progress.page[0]])

    def give_up(self) -> None:
        self.kill()
        self._end()

    def _attempt(self, action: "Callable[[], bool]") -> bool:
        """On any failure it is dead when this raises."""
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
        """Of the conversation, once."""
        if self.channel.socket.fileno() < 0:
            return
        self.channel.close()
        self.context.progress.close()
        self.context.close()

    def _watch(self) -> None:
        self.watch = patience.Watch(self.pid, patience.FIRST_LOOKS if self.context.init else patience.ADDED_LOOKS)

    def _receive(self) -> "tuple[str, str, Fd | None]":
        """What it says next."""
        while True:
            try:
                return self.channel.receive()
            except TimeoutError:
                self.look()
            except Interrupted as error:
                raise Interrupted(f"waiting for its process, which is {self._step()}", "", str(error)) from error

    def _clone(self, clone_flags: int) -> None:
        """Into its cgroup, where it is one of v2. CLONE_INTO_CGROUP, Linux 5.7; refused by threaded cgroups."""
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
        """It died while we spoke, or did something for it: what counts is what it said last, or that it died."""
        kind, text, fd = self._receive()
        self._answer(kind if kind == "E" else "", text, fd)

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
        self.channel.send("G")
        return False

    def _advance(self, kind: str, text: str, fd: "Fd | None") -> bool:
        """To where it waits for start. Of `exec`, where nothing is waited for: execve closes the channel, or an error
        comes through it."""
        if self.ready and not kind:
            return True
        if kind == "R" and not self.ready:
            assert self.pidfd is not None
            self.parent.take_pidfd(self.pidfd)
            self.channel.send("G")
            self.ready = True
            return self.context.fifo is not None
        self._answer(kind, text, fd)
        return False

    def _answer(self, kind: str, text: str, fd: "Fd | None") -> None:
        if self.followed and self.context.unseen and kind not in LAST_WORDS:
            raise StepError("preparing the container", "", "its process asks for what it does not need")
        if kind == "M":
            self._write_maps()
            self.channel.send("G")
        elif kind == "L":
            attributes.write_limits(self.context.process, self.pid)
            self.channel.send("G")
        elif kind == "S":
            from pyrunc.container.seccomp_agent import hand_over

            assert self.pidfd is not None
            hand_over(self.context, self.pid, self.pidfd, int(text))
            self.channel.send("G")
        elif kind == "T":
            write_file(f"/proc/{self.pid}/timens_offsets", text.encode())
            self.channel.send("G")
        elif kind == "O":
            from pyrunc.container import idmap

            self.channel.send("G", fd=idmap.tree_of(self.context, int(text), self.pid))
        elif kind == "V":
            from pyrunc.container import nodes

            self.channel.send("G", fd=nodes.make(self.context, int(text)))
        elif kind == "U":
            assert fd is not None
            userns.give(fd, self.pid, self.context.process)
            self.channel.send("G")
        elif kind == "P":
            self._follow(text, fd)
            self.channel.send("G")
        elif kind == "N":
            assert fd is not None
            self.parent.move_devices(fd)
            self.channel.send("G")
        elif kind == "H":
            self.parent.run_hooks()
            self.channel.send("G")
        elif kind == "C":
            assert fd is not None
            self.parent.take_master(fd)
        elif kind == "W":
            self.log.warning(text)
        elif kind == "D":
            self.log.debug(text)
        elif kind == "K":
            name, began, ended = text.split("\0")
            self.log.took(name, int(began), int(ended))
        elif kind == "E":
            raise StepError(*text.split("\0"))
        else:
            raise StepError("preparing the container", "", f"its process ended unexpectedly: {self._death()}")

    def _follow(self, number: str, pidfd: "Fd | None") -> None:
        """To the process of the second clone. In a process namespace with others it may be theirs already, and its
        words too: it must be a child of ours, there is one alone, and which it is the kernel says.

        Args:
            number: of the pidfd in the process that speaks, where its filter may forbid it to send one.
        """
        if self.pidfd is not None and self.context.unseen and not self.followed and number.isdecimal():
            pidfd = process.pidfd_getfd(self.pidfd, int(number))
        if pidfd is None or self.followed or not self.context.second_clone:
            raise StepError("preparing the container", "", "its process names another one")
        try:
            posix.waitid(posix.P_PIDFD, pidfd.number, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except OSError as error:  # ECHILD: not ours; EBADF: no process at all
            raise StepError("preparing the container", "", f"its process names another one: {reason(error)}") from error
        self.followed = True
        self.kill()  # or it would take our answer for its own
        self.pid, self.pidfd, self.status = pid_of(pidfd), pidfd, None
        self._watch()
        self.parent.born(self.pid)

    def _write_maps(self) -> None:
        userns.write_maps(self.pid, self.context.config["linux"])

    def _reap(self) -> int:
        """Its status, when it has ended: one that hangs in a system call outlives even SIGKILL, and is left alone."""
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
        """Kill it and wait for its end: what is removed after it must not be in use. By pidfd: who has heard of its
        death has waited for it, and the number may be another process's."""
        if self.pidfd is not None:
            try:
                pidfd_send_signal(self.pidfd, 9)
            except ProcessLookupError:
                pass
            self._reap()


def open_namespace(path: str) -> Fd:
    try:
        return open_at(None, path, posix.O_RDONLY | posix.O_NONBLOCK)  # a fifo would hold us
    except OSError as error:
        cause = error.strerror or str(error)
        raise StepError("joining namespace", path, cause[0].lower() + cause[1:]) from error


def plan_namespaces(context: Context, wanted: "list[Namespace]") -> int:
    """Which namespaces clone3 makes, which the child joins, and which it makes itself. Returns clone3's flags.

    One clone3 makes all that are new, but for two: a cgroup namespace, whose root is the cgroup that its maker is
    in, and a time namespace, whose offsets must be written before anybody is in it. Where something is joined,
    what is new is made after it, by the child, since it belongs to the user namespace that its maker is in.
    """
    opened = [(n["type"], open_namespace(n["path"])) for n in wanted if n.get("path")]
    namespaces.verify_kinds(opened)
    # A path to a namespace that we are in already is nothing to join; a user namespace refuses it (setns(2)).
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

"""A new process in a running container."""

import errno
import posix

from pyrunc.container import launch, prepare
from pyrunc.container.container import Container
from pyrunc.container.options import Options
from pyrunc.errors import StateError, StepError, UsageError
from pyrunc.init import labels, namespaces, steps
from pyrunc.init.capabilities import CAP_SYS_ADMIN, CAP_SYS_PTRACE, Sets
from pyrunc.init.context import Context
from pyrunc.linux import process
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.pid import has_namespaces, pidfd_open
from pyrunc.spec import rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.rdt import Group
    from pyrunc.log import Log
    from pyrunc.spec.types import Process

    Inherited = Literal["apparmorProfile", "capabilities", "execCPUAffinity", "ioPriority", "noNewPrivileges",
                        "oomScoreAdj", "rlimits", "scheduler", "selinuxLabel"]  # fmt: skip

OF_THE_CONTAINER: "tuple[Inherited, ...]" = (
    "apparmorProfile", "capabilities", "execCPUAffinity", "ioPriority", "noNewPrivileges", "oomScoreAdj", "rlimits",
    "scheduler", "selinuxLabel",
)  # fmt: skip


def execute(container: Container, what: "Process", options: Options, ignore_paused: bool = False) -> int:
    """Run `what` in the container. Returns its pid once its program runs; it is this process's child."""
    child = begin(container, what, options, ignore_paused)
    lead(container, child)
    prepare.write_pid_file(options.pid_file, child)
    return child.pid


def lead(container: Container, child: launch.Launch) -> None:
    """Until its program runs. When this raises, it is dead."""
    try:
        child.lead()
    except StepError as error:
        if not (container.is_alive() and has_namespaces(container.pid)):  # they went before the child could join them
            raise StateError("cannot exec in a stopped container", container.id) from error
        raise


def begin(
    container: Container, what: "Process", options: Options, ignore_paused: bool = False, log: "Log | None" = None
) -> launch.Launch:
    """Make a process of the container, which is to become `what`.

    It enters the namespaces of the container's first process, by its pidfd. Its cgroup, filter and labels are the
    container's.
    """
    log = log or container.log
    status = container.status()
    if status == "stopped":
        raise StateError("cannot exec in a stopped container", container.id)
    if status == "paused" and not ignore_paused:
        raise StateError("cannot exec in a paused container", container.id, "", "resume it, or use --ignore-paused")
    for pointer, mistake, hint in rules.process(what):
        raise UsageError("process", pointer, mistake, hint)
    _complete(what, container.config.get("process"))
    for pointer, doubt, hint in rules.process_warnings(what):
        log.warning(f"process {pointer}: {doubt}{hint and '; '}{hint}")
    process.set_dumpable(False)
    take_master = prepare.receiver_of_master(options, bool(what.get("terminal")))
    take_pidfd = prepare.receiver_of_pidfd(options, "setns")
    with _first_process(container) as init:
        context = _context(container, what, options)
        group = container.rdt_group()
        child = launch.Launch(context, log, _Parent(take_master, take_pidfd, group))
        if ignore_paused:
            child.may_wait = container.cgroup.is_frozen
        with _Entrance(container, context, init):
            child.begin(steps.EXEC_UNSEEN if context.unseen else steps.EXEC, 0)
    return child


def _first_process(container: Container) -> Fd:
    """The process by which the namespaces are found. It may have ended since the status was asked for."""
    try:
        init = pidfd_open(container.pid)
        if container.is_alive():
            return init
    except ProcessLookupError:
        pass
    raise StateError("cannot exec in a stopped container", container.id)


class _Parent(launch.Parent):
    __slots__ = ("group",)

    def __init__(
        self, take_master: "Callable[[Fd], None]", take_pidfd: "Callable[[Fd], None]", group: "Group | None"
    ) -> None:
        super().__init__(take_master, take_pidfd)
        self.group = group

    def born(self, pid: int) -> None:
        if self.group is not None:
            self.group.join(pid)


def _complete(what: "Process", own: "Process | None") -> None:
    """Fill in the rights, limits and confinement that `what` does not mention, as the container's own process has
    them.

    runc and crun do so for most of these. To leave out no_new_privs or the umask would confine the process by half.
    """
    if own is None:
        return
    for member in OF_THE_CONTAINER:
        if member in own and member not in what:
            what[member] = own[member]
    umask = own.get("user", {}).get("umask")
    if umask is not None:
        what["user"] = {"umask": umask, **what.get("user", {})}


def _context(container: Container, what: "Process", options: Options) -> Context:
    context = Context()
    context.init = False
    context.config = container.config
    context.process = what
    context.bundle = container.record["bundle"]
    context.state = container.hook_state
    context.host_proc = prepare.open_proc()
    context.keyring = "" if options.no_new_keyring else f"_ses.{container.id}"
    context.preserve_fds = options.preserve_fds
    prepare.verify_preserved(context.preserve_fds)
    if options.wait_fifo:
        from pyrunc.container import waiting

        context.fifo, context.opened = waiting.prepare(options.wait_fifo)
    prepare.use_cgroup(context, _cgroup(container, options.cgroups))
    context.userns = any(n["type"] == "user" for n in container.config["linux"].get("namespaces") or [])
    prepare.use_filter(context, container)
    if container.record["annotations"]:
        from pyrunc.container import annotations

        context.confinement = annotations.confinement(container.config)
        context.first_step = annotations.first_step(container.config, container.pid)
    labels.prepare(context, container.log)
    return context


def _cgroup(container: Container, wanted: "list[str]") -> "Cgroup":
    """The container's, or what is asked for below it."""
    if wanted:
        from pyrunc.cgroups import below

        return below.choose(container.cgroup, wanted)
    return container.cgroup.for_exec(container.pid, container.id)


def _could_trace(container: Container, context: Context) -> bool:
    """Whether the container has CAP_SYS_PTRACE in the host's user namespace: that overrides "not dumpable".

    A container that also has CAP_SYS_ADMIN there needs no process of ours to take over the host.
    """
    own = container.config.get("process")
    sets = Sets(own.get("capabilities") or {} if own else {})
    return not context.userns and bool(sets.any() & CAP_SYS_PTRACE) and not sets.any() & CAP_SYS_ADMIN


class _Entrance:
    """While it is open, our children are born in the container's PID namespace.

    A process can't change its own PID namespace, but that of its children. So we join it, clone, and go back.

    Without privileges we may not: only the child, which enters the user namespace, gets the right. Then the child
    joins the PID namespace with the others, and clones once more. It does the same, as its last act, for a container
    that could trace it.
    """

    __slots__ = ("back", "container", "context", "init")

    def __init__(self, container: Container, context: Context, init: Fd) -> None:
        self.container = container
        self.context = context
        self.init = init
        self.back: Fd | None = None

    def __enter__(self) -> None:
        try:
            self._enter(self.container, self.context, self.init)
        except OSError as error:
            self._go_back()
            if not self.container.is_alive():  # it has ended meanwhile, and /proc has its namespaces no more
                raise StateError("cannot exec in a stopped container", self.container.id) from error
            raise
        except BaseException:
            self._go_back()
            raise

    def __exit__(self, *_: object) -> None:
        self._go_back()

    def _enter(self, container: Container, context: Context, init: Fd) -> None:
        flags = 0
        for namespace in container.config["linux"].get("namespaces") or []:
            kind = namespace["type"]
            with open_at(None, namespaces.own(kind, container.pid), posix.O_PATH) as theirs:
                if not namespaces.is_same(theirs, namespaces.own(kind)):
                    flags |= namespaces.FLAGS_OF[kind]
        context.unseen = context.second_clone = bool(flags & process.CLONE_NEWPID) and _could_trace(container, context)
        if flags & process.CLONE_NEWPID and not context.unseen:
            own = open_at(None, namespaces.own("pid"), posix.O_RDONLY)
            try:
                process.setns(
                    own, process.CLONE_NEWPID
                )  # asks whether we may come back: root of a user namespace may not
                self.back = own
                process.setns(init, process.CLONE_NEWPID)
                flags &= ~process.CLONE_NEWPID
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                context.second_clone = True
        if flags:
            context.joins = [(flags, Fd(posix.dup(init.number), init.name))]
            posix.set_inheritable(context.joins[0][1].number, False)

    def _go_back(self) -> None:
        if self.back is not None:
            process.setns(self.back, process.CLONE_NEWPID)

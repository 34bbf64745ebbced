"""Create and Delete, from the call to the answer.

If they wait for nobody but the kernel, the loop leads them (leading.py, rootfs.py). Otherwise a worker does them. What
could not be finished is undone.
"""

from _signal import SIGKILL

from pyrunc.container import create
from pyrunc.container.container import Container
from pyrunc.container.state import StateRoot
from pyrunc.errors import NotRunning, PyruncError, reason
from pyrunc.linux import nearby
from pyrunc.protobuf import encode
from pyrunc.shim import messages, options, ttrpc
from pyrunc.shim.children import AGAIN_SECONDS
from pyrunc.shim.ends import open_at_once
from pyrunc.shim.failure import failure, in_words
from pyrunc.shim.leading import Leading
from pyrunc.shim.rootfs import is_simple, unmount
from pyrunc.shim.task import ROOTFS, Process
from pyrunc.shim.ttrpc import Status
from pyrunc.shim.worker import ENDS, MASTER, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.container.creation import Creation
    from pyrunc.linux.fd import Fd
    from pyrunc.protobuf import Values
    from pyrunc.shim.call import Call
    from pyrunc.shim.ends import Ends
    from pyrunc.shim.task import Task
    from pyrunc.shim.tasks import Tasks
    from pyrunc.shim.turns import Verb
    from pyrunc.shim.worker import Line

CREATE_FAILED = "OCI runtime create failed: "
DRAIN_SECONDS = 2.0  # for reading what a process has written, when it is deleted
DEATH_SECONDS = 10.0
UNDO_SECONDS = 12.0  # then Create is answered even so: what was made may be on a server that does not answer


class Creating:
    """A container in the making. If it is called off, is killed or fails, what was made is removed as by
    `delete --force`, and only then Create is answered."""

    __slots__ = ("held", "init", "log", "options", "request", "task", "tasks", "verb")

    def __init__(self, tasks: "Tasks", task: "Task", request: "Values", call: "Call") -> None:
        self.tasks = tasks
        self.task = task
        self.request = request
        self.log = call.log
        self.init = Process(task, "", task.streams(request))
        self.held: Ends = []
        task.turns.ask(call, self._begin)

    def _begin(self, verb: "Verb") -> None:
        self.verb = verb
        streams = self.init.streams
        try:
            self.options = options.options(self.request["options"], self.log)
            streams.make_pipes()
            self.held, complete = open_at_once(streams.to_open)
            self.task.is_near = _is_near(self.task.bundle)
            simple = complete and self.task.is_near and is_simple(self.request["rootfs"])
            creation = self._planned() if simple else None
            if creation is None:
                self._leave_to_worker()
            else:
                self._lead(creation)
        except (PyruncError, OSError) as error:
            self._forget()
            raise failure(error, CREATE_FAILED) from error
        except BaseException:
            self._forget()
            raise

    def _planned(self) -> "Creation | None":
        """The plan by which the loop makes it. None: making it may wait for somebody, and the loop does not."""
        if self.request["checkpoint"]:
            return None
        config = self.task.read_config(self.log)
        asked = self.task.options_of(
            self.options, self.init.streams.take_master if self.init.streams.terminal else None
        )
        if create.waits(config, asked, StateRoot(options.state_root(self.options, self.tasks.namespace))):
            return None
        return create.plan(self.task.id, self.task.bundle, asked, self.log, config)

    # --- by the loop

    def _lead(self, creation: "Creation") -> None:
        streams = self.init.streams
        leading = Leading(
            self.tasks.children, self.init, creation, self.task.note(self.options), self.request["rootfs"],
            lambda container, error: self._led(leading, container, error), self.log,
        )  # fmt: skip
        streams.take(self.held)
        self.held = []
        streams.own((self.options["io_uid"], self.options["io_gid"]))
        self.verb.stop = leading.stop
        leading.begin()

    def _led(self, leading: Leading, container: "Container | None", error: "Exception | None") -> None:
        if container is not None:
            return self._made(container)
        why = in_words(error or Status(ttrpc.INTERNAL, "it was not made"), CREATE_FAILED)
        claimed = leading.creation.is_claimed
        if leading.stuck is None:
            return self._undo(why, claimed)
        self.task.turns.refuse(self.verb, why)
        leading.stuck.after = lambda: self._undo(None, claimed)

    # --- by a worker

    def _leave_to_worker(self) -> None:
        streams = self.init.streams
        worker = self.tasks.children.worker(
            f"create {self.task.id}", self._work, lambda _, error: self._worked(worker, error), self._told,
            streams.child, self.log,
        )  # fmt: skip
        self.verb.stop = worker.call_off
        streams.started()

    def _work(self, line: "Line") -> None:
        try:
            self.task.create(line, self.options, self.request, self.init.streams)
        except (PyruncError, OSError) as error:
            raise failure(error, CREATE_FAILED) from error

    def _told(self, kind: str, _: object, fds: "list[Fd | None]") -> None:
        if kind == ENDS:
            self.init.streams.take(fds)
            self._let_go()
        elif kind == MASTER and fds[0] is not None:
            self.init.streams.take_master(fds[0])

    def _worked(self, worker: Worker, error: "Status | None") -> None:
        if error is None:
            try:
                root = StateRoot(options.state_root(self.options, self.tasks.namespace))
                container = Container.load(root, self.task.id, self.task.log)
            except (PyruncError, OSError) as found:
                return self._undo(in_words(found, CREATE_FAILED))
            return self._made(container)
        if worker.hangs:
            self.task.turns.refuse(self.verb, error)
            worker.after = lambda: self._undo(None)
        elif worker.left_something:
            self._undo(error)
        else:
            self._forget()
            self.task.turns.refuse(self.verb, error)

    # --- its end

    def _made(self, container: Container) -> None:
        try:
            self._adopt(container)
        except Exception as error:
            self._undo(in_words(error, CREATE_FAILED))

    def _adopt(self, container: Container) -> None:
        task, tasks, request = self.task, self.tasks, self.request
        task.adopt(container, self.init, self.options)
        tasks.loop.soon(lambda: task.watch_memory(lambda _: tasks.out_of_memory(task)))  # before it can be started
        task.restored = bool(request["checkpoint"])
        io = {name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")}
        tasks.publisher.publish(
            "/tasks/create", container_id=task.id, bundle=task.bundle, rootfs=request["rootfs"], io=io,
            checkpoint=request["checkpoint"], pid=self.init.pid,
        )  # fmt: skip
        pid = self.init.pid
        task.turns.end(self.verb, lambda: {"pid": pid})
        tasks.tell(task)

    def _undo(self, error: "Exception | None", claimed: bool = True) -> None:
        """Remove what was made, then answer Create.

        Args:
            error: the answer to Create. None: it was answered already.
            claimed: whether the ID was ours. If not, a container that has it is somebody else's.
        """
        bundle, id, namespace, loop = self.task.bundle, self.task.id, self.tasks.namespace, self.tasks.loop

        def work(_: "Line") -> None:
            from pyrunc.shim import companions
            from pyrunc.shim.delete import remove, unmount_rootfs

            if claimed:
                remove(bundle, namespace, id)
            else:
                unmount_rootfs(bundle)
            companions.forget(id, bundle)

        def refuse() -> None:
            if error is not None:
                self.task.turns.refuse(self.verb, error)

        def done(_: object, failed: "Status | None") -> None:
            loop.cancel(timer)
            if failed is not None:
                self.tasks.log.error(f"undoing what was made of container {id}: {failed.message}")
            self._forget()
            refuse()

        self.task.made = False
        self.verb.stop = None
        timer = loop.after(UNDO_SECONDS, refuse)
        try:
            self.tasks.children.worker(f"undoing create {id}", work, done)
        except OSError as short:
            loop.cancel(timer)
            self.log.warning(f"undoing create {id} has to wait: {reason(short)}")
            loop.after(AGAIN_SECONDS, lambda: self._undo(None, claimed))
            refuse()

    def _let_go(self) -> None:
        """Close the ends that were opened at once, when all are open (ends.open_at_once)."""
        for fd in self.held:
            if fd is not None:
                fd.close()
        self.held = []

    def _forget(self) -> None:
        self._let_go()
        self.init.streams.close()
        self.tasks.forget(self.task)


class Deleting:
    """A container that is being deleted. First its process ends, then what that has written is read, then the container
    is removed."""

    __slots__ = ("log", "task", "tasks", "timer", "verb")

    def __init__(self, tasks: "Tasks", verb: "Verb", task: "Task") -> None:
        self.tasks = tasks
        self.verb = verb
        self.log = verb.call.log
        self.task = task

    def begin(self) -> None:
        init = self.task.init
        if not init.is_running:
            return when_drained(init, self._remove)
        if init.started:
            raise Status(ttrpc.FAILED_PRECONDITION, f"process {init.pid} is running: kill it first")
        self.timer = self.tasks.loop.after(DEATH_SECONDS, self._still_alive)
        init.waiters.append(self._ended)
        try:
            self.task.kill(init, SIGKILL, False)
        except NotRunning:
            pass  # it has ended, which is about to be told

    def _ended(self, init: "Process") -> None:
        self.tasks.loop.cancel(self.timer)
        when_drained(init, self._remove)

    def _still_alive(self) -> None:
        self.task.init.waiters.remove(self._ended)
        text = f"killing container {self.task.id}: it is still alive after {DEATH_SECONDS:.0f} s"
        self.task.turns.refuse(self.verb, Status(ttrpc.DEADLINE_EXCEEDED, text))

    def _remove(self) -> None:
        """Remove the container: in the loop if that waits for nobody but the kernel, else in a worker."""
        task = self.task
        task.forget_memory()
        try:
            if task.delete_at_once(self.log):
                rootfs = f"{task.bundle}/{ROOTFS}"
                call = unmount(self.tasks.children, rootfs, lambda error: self._done(None, error), self.log)
                self.verb.stop = call.call_off
            else:
                self._leave_to_worker()
        except (PyruncError, OSError) as error:
            task.turns.refuse(self.verb, error)

    def _leave_to_worker(self) -> None:
        worker = self.tasks.children.worker(f"delete {self.task.id}", self.task.delete, self._done, log=self.log)
        self.verb.stop = worker.call_off

    def _done(self, _: object, error: "Exception | None") -> None:
        task = self.task
        if error is not None:
            return task.turns.refuse(self.verb, error)
        answer = answer_of(task.init)
        task.note_deleted(self.tasks.address, encode(messages.DELETED, answer))
        task.close()
        self.tasks.publisher.publish("/tasks/delete", container_id=task.id, **answer)
        task.turns.end(self.verb, lambda: answer)
        self.tasks.forget(task)


def _is_near(bundle: str) -> bool:
    """Whether create can open what it needs of the bundle without waiting for a server."""
    folder = nearby.folder(bundle)
    if folder is None:
        return False
    with folder:
        return nearby.is_in(folder, "config.json") and nearby.is_in(folder, ROOTFS)


def answer_of(process: "Process") -> "Values":
    return {
        "pid": process.pid,
        "exit_status": process.status or 0,
        "exited_at": messages.timestamp(process.ended_at),
    }


def when_drained(process: "Process", action: "Callable[[], None]") -> None:
    """Act when all that a process has written was read, or after DRAIN_SECONDS."""
    if process.streams.drained:
        return action()
    loop = process.task.loop

    def drained() -> None:
        loop.cancel(timer)
        process.streams.on_drained = None
        action()

    timer = loop.after(DRAIN_SECONDS, drained)
    process.streams.on_drained = drained

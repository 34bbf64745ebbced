"""containerd.task.v2.Task, and v3, which is the same: what containerd asks for, and the events that tell it."""

import posix
import time
from _signal import SIGKILL, SIGTERM

from pyrunc.container.container import exit_code
from pyrunc.errors import NotRunning, PyruncError, StateError
from pyrunc.linux.fd import Fd, write_all
from pyrunc.protobuf import encode
from pyrunc.shim import messages, ttrpc
from pyrunc.shim.failure import failure, in_words
from pyrunc.shim.making import Creating, Deleting, answer_of, when_drained
from pyrunc.shim.starting import Entering, Starting
from pyrunc.shim.task import Task
from pyrunc.shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.container.container import Container
    from pyrunc.protobuf import Message, Values
    from pyrunc.shim.call import Call
    from pyrunc.shim.server import Methods
    from pyrunc.shim.task import Process
    from pyrunc.shim.tasks import Tasks
    from pyrunc.shim.turns import Verb
    from pyrunc.shim.worker import Line

    Handler = Callable[["Service", Values, Call], Values | None]

NOT_STARTED = 255
PIDS = "pids"
START_FAILED = "OCI runtime start failed: "  # the words of runc and its shim
EXEC_FAILED = "OCI runtime exec failed: exec failed: "
NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")


class Service:
    """The methods. Each takes the decoded request and returns the answer; None: the answer comes later."""

    __slots__ = ("children", "loop", "publisher", "tasks")

    def __init__(self, tasks: "Tasks") -> None:
        self.tasks = tasks
        self.children = tasks.children
        self.loop = tasks.loop
        self.publisher = tasks.publisher

    def methods(self) -> "Methods":
        return {name: (asked, answered, handler.__get__(self)) for name, (asked, answered, handler) in METHODS.items()}

    # --- finding

    def task(self, id: str) -> Task:
        task = self.tasks.by_id.get(id)
        if task is None or not task.made:
            raise Status(ttrpc.NOT_FOUND, f"container {id} does not exist: not found")
        return task

    def still(self, task: Task) -> Task:
        """Check that the task is still there when a verb's turn has come. It may have gone meanwhile."""
        if self.tasks.by_id.get(task.id) is not task:
            raise Status(ttrpc.NOT_FOUND, f"container {task.id} does not exist: not found")
        return self.task(task.id)

    def process(self, request: "Values") -> "Process":
        task = self.task(request["id"])
        if not request["exec_id"]:
            return task.init
        process = task.execs.get(request["exec_id"])
        if process is None:
            raise Status(ttrpc.NOT_FOUND, f"process {request['exec_id']} does not exist: not found")
        return process

    # --- the life of a container

    def create(self, request: "Values", call: "Call") -> None:
        id = request["id"]
        if id in self.tasks.by_id:
            raise Status(ttrpc.ALREADY_EXISTS, f"container {id}: already exists")
        Creating(self.tasks, self.tasks.add(id, request["bundle"]), request, call)

    def start(self, request: "Values", call: "Call") -> None:
        process = self.process(request)
        task = process.task
        if process is not task.init:
            return self._start_exec(process, call)
        task.turns.ask(call, lambda verb: self._start(verb, task))

    def _start(self, verb: "Verb", task: Task) -> None:
        process, container = self.still(task).init, task.container
        if process.asked:
            error = StateError("cannot start an already running container", task.id)
            raise failure(error, START_FAILED)

        def done(error: "Exception | None") -> None:
            process.starting = False
            process.stop = None
            if error is None:
                process.started = True
                self.publisher.publish("/tasks/start", container_id=task.id, pid=process.pid)
                task.turns.end(verb, lambda: {"pid": process.pid})
            else:
                task.turns.refuse(verb, in_words(error, START_FAILED))
            self.tasks.tell(task)

        def work(line: "Line") -> None:
            try:
                if hooks:
                    line.runs_hooks()
                container = task.opened_again(line)
                if task.restored:
                    from pyrunc.shim import checkpoints

                    checkpoints.let_go(container)
                else:
                    container.start()
            except (PyruncError, OSError) as error:
                raise failure(error, START_FAILED) from error

        hooks = {"startContainer", "poststart"} & {*container.record["hooks"]}
        process.asked = process.starting = True
        try:
            if not hooks and not task.restored and container.directory.try_lock("start"):
                Starting(process, done, verb.call.log)
            else:
                worker = self.children.worker(
                    f"start {task.id}", work, lambda _, error: done(error), kept=task.kept(), log=verb.call.log
                )
                process.stop = worker.call_off
            verb.stop = process.stop
        except (PyruncError, OSError) as error:
            process.asked = not isinstance(error, StateError)
            done(error)

    def _start_exec(self, process: "Process", call: "Call") -> None:
        if process.asked:
            error = StateError("cannot start a process", process.exec_id, "it was started before")
            raise failure(error, EXEC_FAILED)
        process.asked = True
        task = process.task

        def done(error: "Exception | None") -> None:
            self.children.led.remove(entering)
            if error is None:
                process.started = True
                self.publisher.publish(
                    "/tasks/exec-started", container_id=task.id, exec_id=process.exec_id, pid=process.pid
                )
                call.answer(lambda: {"pid": process.pid})
                if entering.early is not None and entering.early[0] == process.pid:
                    process.end = exit_code(entering.early[1]), entering.early[2]
            else:
                process.end = NOT_STARTED, time.time_ns()  # it will never start: nobody need wait for it
                process.told = True
                refusal = in_words(error, EXEC_FAILED)
                call.answer(lambda: _throw(refusal))
                self.tasks.wake(process)
            self.tasks.tell(task)

        entering = Entering(self.children, process, done, call.log)
        self.children.led.append(entering)
        call.late = entering.stop
        entering.start()

    def execute(self, request: "Values", _: "Call") -> "Values":
        task = self.task(request["id"])
        if not request["exec_id"] or request["exec_id"] in task.execs:
            raise Status(ttrpc.ALREADY_EXISTS, f"id {request['exec_id']}: already exists")
        try:
            process = task.add(request)
        except (PyruncError, OSError) as error:
            raise failure(error, "OCI runtime exec failed: ") from error
        self.publisher.publish("/tasks/exec-added", container_id=task.id, exec_id=process.exec_id)
        return {}

    def delete(self, request: "Values", call: "Call") -> None:
        task = self.tasks.by_id.get(request["id"])
        if task is not None and not request["exec_id"]:  # if it is in the making, it waits until that is over
            return task.turns.ask(call, lambda verb: Deleting(self.tasks, verb, self.still(task)).begin())
        process = self.process(request)
        if process.is_running or process.starting:
            raise Status(ttrpc.FAILED_PRECONDITION, f"process {process.pid} is running: kill it first")

        def drained() -> None:
            call.answer(lambda: self._delete_exec(process))

        when_drained(process, drained)

    def _delete_exec(self, process: "Process") -> "Values":
        process.streams.close()
        process.task.execs.pop(process.exec_id, None)
        return answer_of(process)

    def pause(self, request: "Values", call: "Call") -> None:
        def paused(task: Task) -> None:
            task.paused = True
            self.publisher.publish("/tasks/paused", container_id=task.id)

        self._change("pause", request, call, lambda container: container.pause(), paused)

    def resume(self, request: "Values", call: "Call") -> None:
        def resumed(task: Task) -> None:
            task.paused = False
            self.publisher.publish("/tasks/resumed", container_id=task.id)

        self._change("resume", request, call, lambda container: container.resume(), resumed)

    def update(self, request: "Values", call: "Call") -> None:
        given = request["resources"]

        def change(container: "Container") -> None:
            from pyrunc.container.update import update
            from pyrunc.spec import load

            update(container, load.resources(given["value"] if given else b"{}"))

        def updated(task: Task) -> None:
            task.container.known_config = None  # the worker has written another

        self._change("update", request, call, change, updated)

    def _change(
        self, what: str, request: "Values", call: "Call", change: "Callable[[Container], None]",
        changed: "Callable[[Task], None]",
    ) -> None:  # fmt: skip
        """Change a container, in a worker."""
        task = self.task(request["id"])

        def work(line: "Line") -> None:
            change(task.opened_again(line))

        def begin(verb: "Verb") -> None:
            self.still(task)

            def done(_: object, error: "Status | None") -> None:
                if error is not None:
                    try:
                        if what == "pause" and worker.left_something:
                            task.container.cgroup.thaw()
                    finally:
                        task.turns.refuse(verb, error)  # else no other verb would ever have its turn
                    return
                changed(task)
                task.turns.end(verb, dict)

            worker = self.children.worker(f"{what} {task.id}", work, done, kept=task.kept(), log=call.log)
            verb.stop = worker.call_off

        task.turns.ask(call, begin)

    # --- what it waits for

    def wait(self, request: "Values", call: "Call") -> "Values | None":
        process = self.process(request)
        if process.status is not None:
            return _end(process)
        process.waiters.append(lambda process: call.answer(lambda: _end(process)))
        return None

    # --- what it does

    def kill(self, request: "Values", call: "Call") -> "Values | None":
        making = self.tasks.by_id.get(request["id"])
        if making is not None and not making.made and not request["exec_id"]:
            return self._kill_making(making, request["signal"])
        process = self.process(request)
        stopped = process.end is None and process.stop is not None and request["signal"] == SIGKILL
        if stopped and process.stop is not None:
            process.stop(Status(ttrpc.CANCELLED, "it was killed meanwhile"))
            if process is not process.task.init:
                return {}
        if not process.pid and process.end is None:
            raise Status(ttrpc.FAILED_PRECONDITION, f"process {process.exec_id} is not started: failed precondition")
        if process.end is not None:
            raise Status(ttrpc.NOT_FOUND, "process already finished: not found")
        try:
            if process.task.kill_takes_time(process, request["signal"], request["all"]):
                return self._kill_many(process.task, request["signal"], request["all"], stopped, call)
            process.task.kill(process, request["signal"], request["all"])
        except (NotRunning, ProcessLookupError):
            if stopped:
                return {}  # stopping its start has killed it
            raise Status(ttrpc.NOT_FOUND, "process already finished: not found") from None
        return {}

    def _kill_many(self, task: Task, signal: int, everybody: bool, stopped: bool, call: "Call") -> "Values | None":
        """Kill, in a worker. If none can be forked, as the processes may have used up the limit, do it here."""

        def work(_: "Line") -> bool:
            try:
                task.kill(task.init, signal, everybody)
            except NotRunning:
                return False
            except (PyruncError, OSError) as error:
                raise failure(error) from error
            return True

        def done(was_there: object, error: "Status | None") -> None:
            if error is None and not was_there and not stopped:
                error = Status(ttrpc.NOT_FOUND, "process already finished: not found")
            if error is None and signal == SIGKILL:
                task.paused = False
            call.answer(lambda: _throw(error) if error else {})

        try:
            worker = self.children.worker(f"kill {task.id}", work, done, kept=task.kept(), log=call.log)
        except OSError:
            task.kill(task.init, signal, everybody)
            return {}
        call.late = worker.call_off
        return None

    def _kill_making(self, task: Task, signal: int) -> "Values":
        if signal not in (SIGKILL, SIGTERM):
            raise Status(ttrpc.FAILED_PRECONDITION, f"container {task.id} is being created: failed precondition")
        task.turns.stop(Status(ttrpc.CANCELLED, "it was killed meanwhile"))
        return {}

    def resize(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        if max(request["width"], request["height"]) > 0xFFFF:
            raise Status(ttrpc.INVALID_ARGUMENT, "no terminal is as large as that")
        process.streams.resize(request["width"], request["height"])
        return {}

    def close_io(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        if request["stdin"]:
            process.streams.close_input()
        return {}

    def checkpoint(self, request: "Values", call: "Call") -> None:
        task = self.task(request["id"])

        def change(container: "Container") -> None:
            from pyrunc.shim import checkpoints

            checkpoints.checkpoint(container, request, task.bundle, task.criu)

        def changed(task: Task) -> None:
            self.publisher.publish("/tasks/checkpointed", container_id=task.id, checkpoint=request["path"])

        self._change("checkpoint", request, call, change, changed)

    # --- what it is

    def state(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        stdin, stdout, stderr = process.streams.names
        return {
            "id": process.task.id, "bundle": process.task.bundle, "pid": process.pid, "status": process.state(),
            "stdin": stdin, "stdout": stdout, "stderr": stderr, "terminal": process.streams.terminal,
            "exec_id": process.exec_id, **_end(process),
        }  # fmt: skip

    def pids(self, request: "Values", call: "Call") -> "Values | None":
        task = self.task(request["id"])
        if task.container.cgroup.is_small():
            return _processes(task)
        came: list[Fd | None] = []

        def work(line: "Line") -> None:
            """Send the list in a file: it may be longer than a message can be."""
            with Fd(posix.memfd_create("pids")) as file:
                write_all(file, encode(messages.PIDS, _processes(task)))
                line.say(PIDS, None, [file])

        def done(_: object, error: "Status | None") -> None:
            with came[0] if came and came[0] is not None else Fd(-1) as file:
                call.answer(lambda: _throw(error) if error else posix.pread(file.number, ttrpc.LARGEST, 0))

        worker = self.children.worker(
            f"listing the processes of {task.id}", work, done, lambda _, __, fds: came.extend(fds), log=call.log
        )
        call.late = worker.call_off
        return None

    def stats(self, request: "Values", _: "Call") -> "Values":
        from pyrunc.shim.metrics import metrics

        return {"stats": metrics(self.task(request["id"]).container.cgroup)}

    def connect(self, request: "Values", _: "Call") -> "Values":
        task = self.tasks.by_id.get(request["id"])
        return {"shim_pid": posix.getpid(), "task_pid": task.init.pid if task and task.made else 0}

    def stop(self, _: "Values", __: "Call") -> "Values":
        self.tasks.leave()
        return {}


def _end(process: "Process") -> "Values":
    return {"exit_status": process.status or 0, "exited_at": messages.timestamp(process.ended_at)}


def _processes(task: Task) -> "Values":
    execs = {process.pid: process.exec_id for process in task.execs.values()}
    found: list[dict[str, Any]] = []
    for pid in sorted(task.container.cgroup.processes()):
        details = encode(messages.PROCESS_DETAILS, {"exec_id": execs.get(pid)})
        info = {"type_url": "containerd.runc.v1.ProcessDetails", "value": details} if details else None
        found.append({"pid": pid, "info": info})
    return {"processes": found}


def _throw(error: BaseException) -> "Values":
    raise error


# method: (the request, the answer, who answers)
METHODS: "dict[str, tuple[Message, Message, Handler]]" = {
    "State": (messages.PROCESS, messages.STATE, Service.state),
    "Create": (messages.CREATE, messages.PID, Service.create),
    "Start": (messages.PROCESS, messages.PID, Service.start),
    "Delete": (messages.PROCESS, messages.DELETED, Service.delete),
    "Pids": (messages.ID, messages.PIDS, Service.pids),
    "Pause": (messages.ID, messages.EMPTY, Service.pause),
    "Resume": (messages.ID, messages.EMPTY, Service.resume),
    "Checkpoint": (messages.CHECKPOINT, messages.EMPTY, Service.checkpoint),
    "Kill": (messages.KILL, messages.EMPTY, Service.kill),
    "Exec": (messages.EXEC, messages.EMPTY, Service.execute),
    "ResizePty": (messages.RESIZE, messages.EMPTY, Service.resize),
    "CloseIO": (messages.CLOSE_IO, messages.EMPTY, Service.close_io),
    "Update": (messages.UPDATE, messages.EMPTY, Service.update),
    "Wait": (messages.PROCESS, messages.WAITED, Service.wait),
    "Stats": (messages.ID, messages.STATS, Service.stats),
    "Connect": (messages.ID, messages.CONNECTED, Service.connect),
    "Shutdown": (messages.SHUTDOWN, messages.EMPTY, Service.stop),
}

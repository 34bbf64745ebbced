"""containerd.task.v2.Task, and v3, which is the same: what containerd asks, and the events that tell it."""

import posix

from pyrunc.container.container import exit_code
from pyrunc.errors import NoSuchContainer, NotRunning, PyruncError, StateError, StepError, reason
from pyrunc.spec.jsonc import dumps
from shim import messages, ttrpc
from shim.protobuf import encode
from shim.task import ROOTFS, Task
from shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.log import Log
    from shim.events import Publisher
    from shim.loop import Loop
    from shim.protobuf import Message, Values
    from shim.server import Call
    from shim.streams import StandardStreams
    from shim.task import Process

    Handler = Callable[["Service", Values, Call], Values | None]

DRAIN_SECONDS = 2.0  # for what a process has written and nobody has read when it is deleted
NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")


class Service:
    """Every method takes the decoded request and returns the answer; None: it will come."""

    __slots__ = ("log", "loop", "namespace", "other_ended", "publisher", "shutdown", "standard", "tasks")

    def __init__(
        self,
        loop: "Loop",
        log: "Log",
        namespace: str,
        publisher: "Publisher",
        standard: "StandardStreams",
        shutdown: "Callable[[], None]",
        other_ended: "Callable[[int, int], None]",
    ) -> None:
        self.loop = loop
        self.log = log
        self.namespace = namespace
        self.publisher = publisher
        self.standard = standard
        self.shutdown = shutdown
        self.other_ended = other_ended
        self.tasks: dict[str, Task] = {}

    # --- finding

    def task(self, id: str) -> Task:
        task = self.tasks.get(id)
        if task is None:
            raise Status(ttrpc.NOT_FOUND, f"container {id} does not exist: not found")
        return task

    def process(self, request: "Values") -> "Process":
        task = self.task(request["id"])
        if not request["exec_id"]:
            return task.init
        process = task.execs.get(request["exec_id"])
        if process is None:
            raise Status(ttrpc.NOT_FOUND, f"process {request['exec_id']} does not exist: not found")
        return process

    # --- the life of a container

    def create(self, request: "Values", _: "Call") -> "Values":
        id = request["id"]
        if id in self.tasks:
            raise Status(ttrpc.ALREADY_EXISTS, f"container {id}: already exists")
        if request["checkpoint"]:
            raise Status(ttrpc.UNIMPLEMENTED, "restoring a container from a checkpoint is not supported")
        task = Task(self.loop, self.log, self.standard, self.namespace, id)
        try:
            task.create(request)
        except (PyruncError, OSError) as error:
            raise failure(error, "OCI runtime create failed: ") from error
        self.tasks[id] = task
        for fd, mask in task.oom.pollable() if task.oom is not None else ():
            self.loop.watch(fd, mask, lambda _: self.out_of_memory(task))
        io = {name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")}
        pid = task.init.pid
        self.publisher.publish(
            "/tasks/create", container_id=id, bundle=request["bundle"], rootfs=request["rootfs"], io=io, pid=pid
        )
        return {"pid": pid}

    def start(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        id = process.task.id
        try:
            if process is process.task.init:
                process.task.start()
                self.publisher.publish("/tasks/start", container_id=id, pid=process.pid)
            else:
                self._start_exec(process)
        except (PyruncError, OSError) as error:
            doing = "exec failed: exec failed: " if process.exec_id else "start failed: "  # runc says it, and its shim
            raise failure(error, f"OCI runtime {doing}") from error
        return {"pid": process.pid}

    def _start_exec(self, process: "Process") -> None:
        if process.pid or process.status is not None:
            raise StateError("cannot start a process", process.exec_id, "it was started before")
        process.task.start_exec(process)
        self.publisher.publish(
            "/tasks/exec-started", container_id=process.task.id, exec_id=process.exec_id, pid=process.pid
        )

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

    def delete(self, request: "Values", call: "Call") -> "Values | None":
        process = self.process(request)
        task = process.task
        if process.is_running:
            if process is not task.init or process.started:
                raise Status(ttrpc.FAILED_PRECONDITION, f"process {process.pid} is running: kill it first")
            task.kill(process, 9, False)
            self._bury(process.pid, 0)
        if process.streams.drained:
            return self._delete(process)

        def drained() -> None:
            self.loop.cancel(timer)
            process.streams.on_drained = None
            call.answer(lambda: self._delete(process))

        timer = self.loop.after(DRAIN_SECONDS, drained)
        process.streams.on_drained = drained
        return None

    def _delete(self, process: "Process") -> "Values":
        task = process.task
        answer = {
            "pid": process.pid,
            "exit_status": process.status or 0,
            "exited_at": messages.timestamp(process.ended_at),
        }
        if process is task.init:
            if task.id not in self.tasks:
                raise Status(ttrpc.NOT_FOUND, f"container {task.id} does not exist: not found")
            try:
                task.remove()
            except (PyruncError, OSError) as error:
                raise failure(error) from error
            del self.tasks[task.id]
            self.publisher.publish("/tasks/delete", container_id=task.id, **answer)
        else:
            process.streams.close()
            task.execs.pop(process.exec_id, None)
        return answer

    # --- what happens

    def reap(self) -> None:
        """SIGCHLD, which may stand for several."""
        while self._bury(-1, posix.WNOHANG):
            pass

    def _bury(self, which: int, flags: int) -> bool:
        try:
            pid, status = posix.waitpid(which, flags)
        except ChildProcessError:
            return False
        if not pid:
            return False
        for task in self.tasks.values():
            for process in (task.init, *task.execs.values()):
                if process.pid == pid and process.status is None:
                    self._tell(task.ended(process, exit_code(status)))
                    return True
        self.other_ended(pid, status)
        return True

    def _tell(self, ended: "list[Process]") -> None:
        for process in ended:
            self.publisher.publish(
                "/tasks/exit", container_id=process.task.id, id=process.exec_id or process.task.id, pid=process.pid,
                exit_status=process.status, exited_at=messages.timestamp(process.ended_at),
            )  # fmt: skip

    def out_of_memory(self, task: Task) -> None:
        if task.memory_kills():
            self.publisher.publish("/tasks/oom", container_id=task.id)

    def wait(self, request: "Values", call: "Call") -> "Values | None":
        process = self.process(request)
        if process.status is not None:
            return _end(process)
        process.waiters.append(lambda process: call.answer(lambda: _end(process)))
        return None

    # --- what it does

    def kill(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        if not process.pid and process.status is None:
            raise Status(ttrpc.FAILED_PRECONDITION, f"process {process.exec_id} is not started: failed precondition")
        if not process.is_running or (process is process.task.init and process.task.held):
            raise Status(ttrpc.NOT_FOUND, "process already finished: not found")
        try:
            process.task.kill(process, request["signal"], request["all"])
        except (NotRunning, ProcessLookupError):
            raise Status(ttrpc.NOT_FOUND, "process already finished: not found") from None
        except (PyruncError, OSError) as error:
            raise failure(error) from error
        return {}

    def pause(self, request: "Values", _: "Call") -> "Values":
        task = self.task(request["id"])
        self._change(task.pause)
        self.publisher.publish("/tasks/paused", container_id=task.id)
        return {}

    def resume(self, request: "Values", _: "Call") -> "Values":
        task = self.task(request["id"])
        self._change(task.resume)
        self.publisher.publish("/tasks/resumed", container_id=task.id)
        return {}

    def _change(self, action: "Callable[[], None]") -> None:
        try:
            action()
        except (PyruncError, OSError) as error:
            raise failure(error) from error

    def update(self, request: "Values", _: "Call") -> "Values":
        from pyrunc.container.update import update
        from pyrunc.spec import load

        task = self.task(request["id"])
        given = request["resources"]
        self._change(lambda: update(task.container, load.resources(given["value"] if given else b"{}")))
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

    def checkpoint(self, request: "Values", _: "Call") -> "Values":
        self.task(request["id"])
        raise Status(ttrpc.UNIMPLEMENTED, "checkpointing a container is not supported")

    # --- what it is

    def state(self, request: "Values", _: "Call") -> "Values":
        process = self.process(request)
        stdin, stdout, stderr = process.streams.names
        return {
            "id": process.task.id, "bundle": process.task.bundle, "pid": process.pid, "status": process.state(),
            "stdin": stdin, "stdout": stdout, "stderr": stderr, "terminal": process.streams.terminal,
            "exec_id": process.exec_id, **_end(process),
        }  # fmt: skip

    def pids(self, request: "Values", _: "Call") -> "Values":
        task = self.task(request["id"])
        execs = {process.pid: process.exec_id for process in task.execs.values()}
        found: list[dict[str, Any]] = []
        for pid in sorted(task.container.cgroup.processes()):
            details = encode(messages.PROCESS_DETAILS, {"exec_id": execs.get(pid)})
            info = {"type_url": "containerd.runc.v1.ProcessDetails", "value": details} if details else None
            found.append({"pid": pid, "info": info})
        return {"processes": found}

    def stats(self, request: "Values", _: "Call") -> "Values":
        from shim.metrics import metrics

        return {"stats": metrics(self.task(request["id"]).container.cgroup)}

    def connect(self, request: "Values", _: "Call") -> "Values":
        task = self.tasks.get(request["id"])
        return {"shim_pid": posix.getpid(), "task_pid": task.init.pid if task else 0}

    def stop(self, _: "Values", __: "Call") -> "Values":
        if not self.tasks:
            self.shutdown()
        return {}

    def describe(self) -> None:
        """Every task, to the log: on SIGUSR1."""
        for task in self.tasks.values():
            for process in (task.init, *task.execs.values()):
                found = {
                    "task": task.id, "exec": process.exec_id, "pid": process.pid, "state": process.state(),
                    "status": process.status, "waiters": len(process.waiters), "drained": process.streams.drained,
                    "rootfs": f"{task.bundle}/{ROOTFS}", "cgroup": task.container.cgroup.paths,
                }  # fmt: skip
                self.log.write("info", dumps(found))
        self.log.write("info", f"{len(self.tasks)} tasks, {len(self.publisher.queue)} events wait")


def _end(process: "Process") -> "Values":
    return {"exit_status": process.status or 0, "exited_at": messages.timestamp(process.ended_at)}


def failure(error: "PyruncError | OSError", start: str = "") -> Status:
    code = ttrpc.UNKNOWN
    if isinstance(error, NoSuchContainer | ProcessLookupError):
        code = ttrpc.NOT_FOUND
    elif isinstance(error, StateError):
        code = ttrpc.FAILED_PRECONDITION
    text = str(error) if isinstance(error, PyruncError) else reason(error)
    if isinstance(error, StepError) and not error.operation.startswith("exec /"):
        text = f"unable to start container process: {text}"  # runc's words, which engines look for
    return Status(code, start + text)


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

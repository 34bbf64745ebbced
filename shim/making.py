"""Create and Delete, from the call to the answer: a worker does it, and what it could not finish is undone."""

from pyrunc.errors import NotRunning, PyruncError
from shim import messages, ttrpc
from shim.failure import failure
from shim.ttrpc import Status
from shim.worker import ENDS, MASTER, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.linux.fd import Fd
    from pyrunc.protobuf import Values
    from shim.server import Call
    from shim.service import Service
    from shim.task import Process, Task
    from shim.turns import Verb
    from shim.worker import Line

CREATE_FAILED = "OCI runtime create failed: "
DRAIN_SECONDS = 2.0  # for what a process has written and nobody has read when it is deleted
DEATH_SECONDS = 10.0
SIGKILL = 9


class Creating:
    """A container in the making. Called off, or killed, it leaves nothing: then what it may have left is removed as by
    `delete --force`, and only then Create is answered."""

    __slots__ = ("init", "request", "service", "task", "verb", "worker")

    verb: "Verb"
    worker: Worker

    def __init__(self, service: "Service", task: "Task", request: "Values", call: "Call") -> None:
        from shim.task import Process

        self.service = service
        self.task = task
        self.request = request
        self.init = Process(task, "", task.streams(request))
        task.turns.ask(call, self._begin)

    def _begin(self, verb: "Verb") -> None:
        self.verb = verb
        streams = self.init.streams
        try:
            streams.make_pipes()
            self.worker = self.service.worker(
                f"create {self.task.id}", self._work, self._done, self._told, streams.child,
                verb.call.log,
            )  # fmt: skip
        except BaseException:
            self._forget()
            raise
        verb.stop = self.worker.call_off
        streams.started()

    def _work(self, line: "Line") -> "dict[str, Any]":
        try:
            return self.task.create(line, self.request, self.init.streams)
        except (PyruncError, OSError) as error:
            raise failure(error, CREATE_FAILED) from error

    def _told(self, kind: str, _: object, fds: "list[Fd | None]") -> None:
        if kind == ENDS:
            self.init.streams.take(fds)
        elif kind == MASTER and fds[0] is not None:
            self.init.streams.take_master(fds[0])

    def _done(self, made: "Any", error: "Status | None") -> None:
        if error is None:
            try:
                return self._made(made)
            except (PyruncError, OSError) as found:
                return self._undo(failure(found, CREATE_FAILED))
            except Exception as found:
                return self._undo(Status(ttrpc.INTERNAL, f"internal error: {type(found).__name__}: {found}"))
        if self.worker.hangs:
            self.task.turns.refuse(self.verb, error)
            self.worker.after = lambda: self._undo(None)
        elif self.worker.left_something:
            self._undo(error)
        else:
            self._forget()
            self.task.turns.refuse(self.verb, error)

    def _made(self, made: "dict[str, Any]") -> None:
        task, service, request = self.task, self.service, self.request
        task.adopt(made, self.init)
        for fd, mask in task.oom.pollable() if task.oom is not None else ():
            service.loop.watch(fd, mask, lambda _: service.out_of_memory(task))
        io = {name: request[name] for name in ("stdin", "stdout", "stderr", "terminal")}
        service.publisher.publish(
            "/tasks/create", container_id=task.id, bundle=task.bundle, rootfs=request["rootfs"], io=io,
            pid=self.init.pid,
        )  # fmt: skip
        pid = self.init.pid
        task.turns.end(self.verb, lambda: {"pid": pid})
        service.tell(task)

    def _undo(self, error: "Status | None") -> None:
        """`error`: what Create is answered then; None: it was."""
        bundle, id, namespace = self.task.bundle, self.task.id, self.service.namespace

        def work(_: "Line") -> None:
            from shim import companions
            from shim.delete import remove

            remove(bundle, namespace, id)
            companions.forget(id, bundle)

        def done(_: object, failed: "Status | None") -> None:
            if failed is not None:
                self.service.log.error(f"undoing what was made of container {id}: {failed.message}")
            self._forget()
            if error is not None:
                self.task.turns.refuse(self.verb, error)

        self.task.made = False
        self.verb.stop = None
        self.service.worker(f"undoing create {id}", work, done)

    def _forget(self) -> None:
        self.init.streams.close()
        self.service.forget(self.task)


class Deleting:
    """A container that is to go: its process first, then what that has written, then the container."""

    __slots__ = ("service", "task", "timer", "verb")

    def __init__(self, service: "Service", verb: "Verb", task: "Task") -> None:
        self.service = service
        self.verb = verb
        self.task = task

    def begin(self) -> None:
        init = self.task.init
        if not init.is_running:
            return when_drained(init, self._remove)
        if init.started:
            raise Status(ttrpc.FAILED_PRECONDITION, f"process {init.pid} is running: kill it first")
        self.timer = self.service.loop.after(DEATH_SECONDS, self._still_alive)
        init.waiters.append(self._ended)
        try:
            self.task.kill(init, SIGKILL, False)
        except NotRunning:
            pass  # its end is about to be told

    def _ended(self, init: "Process") -> None:
        self.service.loop.cancel(self.timer)
        when_drained(init, self._remove)

    def _still_alive(self) -> None:
        self.task.init.waiters.remove(self._ended)
        text = f"killing container {self.task.id}: it is still alive after {DEATH_SECONDS:.0f} s"
        self.task.turns.refuse(self.verb, Status(ttrpc.DEADLINE_EXCEEDED, text))

    def _remove(self) -> None:
        task = self.task
        task.forget_memory()

        def work(line: "Line") -> None:
            try:
                task.delete(line)
            except (PyruncError, OSError) as error:
                raise failure(error) from error

        try:
            self.verb.stop = self.service.worker(f"delete {task.id}", work, self._done, log=self.verb.call.log).call_off
        except OSError as error:
            task.turns.refuse(self.verb, failure(error))

    def _done(self, _: object, error: "Status | None") -> None:
        task = self.task
        if error is not None:
            return task.turns.refuse(self.verb, error)
        answer = answer_of(task.init)
        task.close()
        self.service.publisher.publish("/tasks/delete", container_id=task.id, **answer)
        task.turns.end(self.verb, lambda: answer)
        self.service.forget(task)


def answer_of(process: "Process") -> "Values":
    return {
        "pid": process.pid,
        "exit_status": process.status or 0,
        "exited_at": messages.timestamp(process.ended_at),
    }


def when_drained(process: "Process", action: "Callable[[], None]") -> None:
    """When what it has written was read, or after a while."""
    if process.streams.drained:
        return action()
    loop = process.task.loop

    def drained() -> None:
        loop.cancel(timer)
        process.streams.on_drained = None
        action()

    timer = loop.after(DRAIN_SECONDS, drained)
    process.streams.on_drained = drained

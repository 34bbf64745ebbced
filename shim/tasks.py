"""All tasks of the shim, and how their ends are told: to containerd, and to whoever waits for one."""

from pyrunc.shim import messages
from pyrunc.shim.children import AGAIN_SECONDS
from pyrunc.shim.failure import in_words
from pyrunc.shim.task import ROOTFS, Task
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.log import Log
    from pyrunc.shim.children import Children
    from pyrunc.shim.events import Publisher
    from pyrunc.shim.loop import Loop
    from pyrunc.shim.task import Process
    from pyrunc.shim.worker import Line


READER_LOOK_SECONDS = 0.002  # between two looks whether the output of an ended process was read


class Tasks:
    """All tasks.

    Args:
        address: the path of the shim's socket.
        shutdown: is called once containerd has said Shutdown and the last task has gone.

    Attributes:
        by_id: the tasks by their ID, with those that are being created.
        leaving: containerd has said Shutdown while a failed creation was being undone.
    """

    __slots__ = ("address", "by_id", "children", "leaving", "log", "loop", "namespace", "publisher", "shutdown")

    def __init__(
        self, children: "Children", log: "Log", namespace: str, address: str, publisher: "Publisher",
        shutdown: "Callable[[], None]",
    ) -> None:  # fmt: skip
        self.children = children
        self.loop: Loop = children.loop
        self.log = log
        self.namespace = namespace
        self.address = address
        self.publisher = publisher
        self.shutdown = shutdown
        self.by_id: dict[str, Task] = {}
        self.leaving = False
        children.owner = self._owner
        children.ended = self._ended

    def add(self, id: str, bundle: str) -> Task:
        task = self.by_id[id] = Task(self.loop, self.log, self.children.standard, self.namespace, id)
        task.bundle = bundle
        return task

    def forget(self, task: Task) -> None:
        self.by_id.pop(task.id, None)
        if self.leaving and not self.by_id:
            self.shutdown()

    def leave(self) -> None:
        """containerd has said Shutdown."""
        self.leaving = not any(task.made for task in self.by_id.values())
        if not self.by_id:
            self.shutdown()

    # --- ends

    def _owner(self, pid: int) -> "Process | None":
        for task in self.by_id.values():
            for process in (task.init, *task.execs.values()) if task.made else ():
                if process.pid == pid and process.end is None:
                    return process
        return None

    def _ended(self, process: "Process") -> None:
        task = process.task
        if process is task.init and not task.container.record["own_pids"]:
            self._end_others(task)  # there was no PID 1 whose end kills them
        else:
            self.tell(task)

    def _end_others(self, task: Task) -> None:
        """Kill the container's other processes. There may be as many as it likes, so a worker does it."""
        init = task.init

        def work(_: "Line") -> None:
            task.container.cgroup.kill()

        def done(_: object, error: "Exception | None") -> None:
            if error is not None:
                self.log.error(f"container {task.id}: ending its other processes: {in_words(error).message}")
            init.ending = False
            self.tell(task)

        init.ending = True
        try:
            self.children.worker(f"ending the processes of {task.id}", work, done)
        except OSError:  # the container's processes may have used up the limit
            self.loop.call(task.container.cgroup.kill)
            done(None, None)

    def tell(self, task: Task) -> None:
        """Tell the ends that can be told. One that could not be told, for whatever reason, is told later."""
        try:
            for process in task.tellable() if task.made else ():
                status, at = process.end or (0, 0)
                self.publisher.publish(
                    "/tasks/exit", container_id=task.id, id=process.exec_id or task.id, pid=process.pid,
                    exit_status=status, exited_at=messages.timestamp(at),
                )  # fmt: skip
                process.told = True
                self.wake(process)
            if task.made and task.waits_for_readers:
                self.loop.cancel(task.telling)
                task.telling = self.loop.after(READER_LOOK_SECONDS, lambda: self.tell(task))
        except BaseException:
            self.loop.after(AGAIN_SECONDS, lambda: self.tell(task))
            raise

    def wake(self, process: "Process") -> None:
        """Answer those that wait for a process's end. A failure with one does not keep the others waiting."""
        if process.streams.input is not None:
            self.loop.soon(process.streams.input.end)
        waiters, process.waiters = process.waiters, []
        for waiter in waiters:
            self.loop.call(lambda waiter=waiter: waiter(process))

    def out_of_memory(self, task: Task) -> None:
        if task.memory_kills():
            self.publisher.publish("/tasks/oom", container_id=task.id)

    # --- for people

    def describe(self) -> None:
        """Write every task to the log, on SIGUSR1."""
        for task in self.by_id.values():
            for process in (task.init, *task.execs.values()) if task.made else ():
                found = {
                    "task": task.id, "exec": process.exec_id, "pid": process.pid, "state": process.state(),
                    "status": process.status, "waiters": len(process.waiters), "drained": process.streams.drained,
                    "rootfs": f"{task.bundle}/{ROOTFS}", "cgroup": task.container.cgroup.paths,
                }  # fmt: skip
                self.log.write("info", dumps(found))
        self.log.write("info", f"{len(self.by_id)} tasks, {len(self.publisher.queue)} events wait")

"""Starts that the loop leads: of a created container, and of a process that exec adds.

Both wait only for the container's own process: for a message, for the end of a channel, for a fifo. So no fork is
needed. The bounds are the runtime's (container/patience.py).
"""

import posix
import select
import time
from _signal import SIGKILL

from pyrunc.container.exec import begin, execute
from pyrunc.container.options import Options
from pyrunc.container.patience import LOOK_SECONDS, START_LOOKS, Patience
from pyrunc.errors import Overdue, PyruncError, StateError
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal
from pyrunc.shim.children import Led
from pyrunc.shim.ends import open_at_once
from pyrunc.shim.failure import failure
from pyrunc.shim.ttrpc import Status
from pyrunc.shim.worker import BORN, ENDS, MASTER, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.container.launch import Launch
    from pyrunc.linux.fd import Fd
    from pyrunc.log import Log
    from pyrunc.shim.children import Children
    from pyrunc.shim.ends import Ends
    from pyrunc.shim.loop import Loop, Timer
    from pyrunc.shim.task import Process
    from pyrunc.shim.worker import Line

DEATH_SECONDS = 0.02  # the loop waits so long for the end of a killed process, to say how it died


class Starting:
    """A created container without hooks on its way to its program. The start begins with a byte into the fifo, and is
    over when execve closes that.

    Args:
        done: is called once: with None, or with why it did not start.
    """

    __slots__ = ("began", "container", "done", "fifo", "log", "loop", "pidfd", "timer", "watch")

    def __init__(self, process: "Process", done: "Callable[[Exception | None], None]", log: "Log") -> None:
        """Begin. The caller has taken the lock, which is given back at the end. Raises PyruncError."""
        self.log = log
        self.began = time.time_ns()
        self.container = process.task.container
        self.loop: Loop = process.task.loop
        self.done: Callable[[Exception | None], None] | None = done
        self.timer: Timer | None = None
        self.pidfd: Fd | None = None
        process.stop = self.stop
        try:
            self.fifo = self.container.release()
        except BaseException:
            self.container.directory.unlock()
            raise
        try:
            self.pidfd = pidfd_open(self.container.pid)
        except ProcessLookupError:
            return self._finish()  # it has ended already
        except OSError as error:
            return self._end(error)  # it runs, but we could not watch it
        self.watch = Patience(self.container.pid, START_LOOKS)
        self.loop.watch(self.fifo.number, 0, self._finish)  # POLLERR comes unasked
        self.loop.watch(self.pidfd.number, select.POLLIN, self._finish)
        self.timer = self.loop.after(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        try:
            self.watch.look(f"starting container {self.container.id}")
        except Overdue as error:
            return self._end(error)
        self.timer = self.loop.after(LOOK_SECONDS, self._look)

    def _finish(self, _: int = 0) -> None:
        try:
            self.container.verify_started()
        except (PyruncError, OSError) as error:
            return self._end(error)
        self._end(None)

    def stop(self, why: Status) -> None:
        self._end(why)

    def _end(self, error: "Exception | None") -> None:
        """Answer first, then tidy up while the caller reads the answer."""
        if self.done is None:
            return
        done, self.done = self.done, None
        if self.log.steps_on:
            self.log.took("start.wait_for_program", self.began, time.time_ns())
        if error is not None and not isinstance(error, StateError):
            self._kill()  # runtime-spec 1.3: a failed start leaves the container stopped
        try:
            done(error)
        finally:
            self.loop.cancel(self.timer)
            for fd in (self.fifo, self.pidfd):
                if fd is not None:
                    self.loop.unwatch(fd.number)
                    fd.close()
            self.container.directory.unlock()
            self.container.known_config = None  # many containers are never asked for it again

    def _kill(self) -> None:
        """Kill it without a new descriptor, as the failure may be that none is left."""
        try:
            if self.pidfd is not None:
                pidfd_send_signal(self.pidfd, SIGKILL)
            else:
                posix.kill(self.container.pid, SIGKILL)  # the pid is still its own: we have not waited for it
        except ProcessLookupError:
            pass


class Entering(Led):
    """A process that exec adds, on its way into its container and to its program.

    Args:
        done: is called once: with None, or with why it did not start.

    Attributes:
        early: its end, if that came before we knew of its start: (pid, status as waitpid gives it, when).
    """

    __slots__ = ("channel", "children", "done", "early", "held", "launch", "log", "loop", "process", "timer", "worker")

    def __init__(
        self, children: "Children", process: "Process", done: "Callable[[Exception | None], None]", log: "Log"
    ) -> None:
        self.children = children
        self.loop: Loop = children.loop
        self.process = process
        self.log = log
        self.done: Callable[[Exception | None], None] | None = done
        self.launch: Launch | None = None
        self.channel = -1
        self.worker: Worker | None = None
        self.timer: Timer | None = None
        self.early: tuple[int, int, int] | None = None
        self.held: Ends = []

    def start(self) -> None:
        process = self.process
        process.stop = self.stop
        try:
            process.streams.make_pipes()
            self.held, complete = open_at_once(process.streams.to_open)
            if not complete:
                self.worker = self.children.worker(
                    f"opening the streams of {process.exec_id}",
                    lambda line: process.task.open_streams(line, process.streams), self._opened, self._told,
                    log=self.log,
                )  # fmt: skip
                return
        except OSError as error:
            return self._opened(None, error)
        process.streams.take(self.held)
        self._begin()

    def _told(self, kind: str, value: "Any", fds: "list[Fd | None]") -> None:
        if kind == ENDS:
            self.process.streams.take(fds)
        elif kind == MASTER and fds[0] is not None:
            self.process.streams.take_master(fds[0])

    def _opened(self, _: object, error: "Exception | None") -> None:
        self.worker = None
        for fd in self.held:
            if fd is not None:
                fd.close()
        if error is not None:
            return self._finish(error)
        self._begin()

    def _begin(self) -> None:
        process, task = self.process, self.process.task
        streams = process.streams
        process.starting = True
        assert process.spec is not None
        try:
            streams.own(task.owner)
            profile = task.container.config["linux"].get("seccomp")
            if profile and profile.get("listenerPath"):
                return self._leave_to_worker()
            asked = Options(
                console=streams.take_master if streams.terminal else None, no_new_keyring=task.no_new_keyring
            )
            task.standard.lend(streams.child)
            try:
                self.launch = begin(task.container, process.spec, asked, log=self.log)
            finally:
                task.standard.lend([])
                streams.started()
        except Exception as error:
            return self._finish(error)
        self.launch.death_seconds = DEATH_SECONDS
        self.channel = self.launch.channel.socket.fileno()
        self.loop.watch(self.channel, select.POLLIN, self._hear)
        self.timer = self.loop.after(LOOK_SECONDS, self._look)

    def _hear(self, _: int) -> None:
        assert self.launch is not None
        try:
            arrived = self.launch.hear()
        except Exception as error:
            return self._finish(error)
        if arrived:
            self.process.pid = self.launch.pid
            self._finish(None)

    def _look(self) -> None:
        assert self.launch is not None
        try:
            self.launch.look()
        except Overdue as error:
            self.launch.give_up()
            return self._finish(error)
        self.timer = self.loop.after(LOOK_SECONDS, self._look)

    # --- in a worker: a seccomp agent, which takes the filter's listener, may not be ready

    def _leave_to_worker(self) -> None:
        process, task = self.process, self.process.task

        def work(line: "Line") -> int:
            asked = Options(
                console=(lambda master: line.say(MASTER, None, [master])) if process.streams.terminal else None,
                no_new_keyring=task.no_new_keyring,
                pidfd=lambda pidfd: line.say(BORN, None, [pidfd]),
            )
            task.standard.lend(process.streams.child)
            assert process.spec is not None
            try:
                return execute(task.opened_again(line), process.spec, asked)
            except (PyruncError, OSError) as error:
                raise failure(error, "OCI runtime exec failed: exec failed: ") from error

        kept = [*process.streams.child, task.container.directory.fd]
        self.worker = self.children.worker(f"exec {process.exec_id}", work, self._executed, self._told, kept, self.log)
        process.streams.started()

    def _executed(self, pid: "Any", error: "Status | None") -> None:
        worker, self.worker = self.worker, None
        if error is not None:
            if worker is not None and worker.born is not None:
                try:
                    pidfd_send_signal(worker.born, SIGKILL)  # it may have been called off after all was done
                except ProcessLookupError:
                    pass
            return self._finish(error)
        self.process.pid = pid
        self._finish(None)

    # --- its end

    def stop(self, why: Status) -> None:
        if self.worker is not None:
            return self.worker.call_off(why)
        if self.launch is not None:
            self.launch.give_up()
        self._finish(why)

    def ended(self, pid: int, status: int, at: int) -> bool:
        """A process has ended. Returns whether it is the one that is starting."""
        if self.launch is None or self.launch.pid != pid:
            return False
        self.launch.status = status
        self.early = pid, status, at
        return True

    def catch_up(self) -> None:
        """Hear what its process has said by now."""
        while self.launch is not None and self.done is not None and is_ready(self.launch.channel.socket.fileno()):
            self._hear(0)

    def _finish(self, error: "Exception | None") -> None:
        if self.done is None:
            return
        done, self.done = self.done, None
        self.loop.cancel(self.timer)
        if self.channel >= 0:
            self.loop.unwatch(self.channel)
        if self.launch is not None and self.launch.pidfd is not None:
            self.launch.pidfd.close()
        self.launch = None
        self.process.starting = False
        self.process.stop = None
        self.process.streams.started()
        done(error)


def is_ready(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))

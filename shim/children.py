"""The shim's children: which there are, and who is told of the end of each."""

import posix
import time

from pyrunc.container.container import exit_code
from pyrunc.shim.aside import Aside
from pyrunc.shim.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrunc.linux.apart import Apart
    from pyrunc.linux.fd import Fd
    from pyrunc.log import Log
    from pyrunc.shim.loop import Loop
    from pyrunc.shim.streams import StandardStreams
    from pyrunc.shim.task import Process
    from pyrunc.shim.ttrpc import Status
    from pyrunc.shim.worker import Work

AT_A_TIME = 64  # burials
AGAIN_SECONDS = 0.25  # until what has failed is tried again


class Led:
    """A process that the loop leads to its program, or to the point where it waits for Start."""

    __slots__ = ()

    def ended(self, pid: int, status: int, at: int) -> bool:
        """A process has ended. Returns whether it is this one."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Hear what the process has said by now."""
        raise NotImplementedError


class Children:
    """All children of the shim.

    Args:
        other_ended: is told of a child that is none of these: its pid, and its status as waitpid(2) gives it.

    Attributes:
        workers: the workers, and the calls that are made aside, by their pid.
        led: those that the loop leads.
        owner: finds the process of a container by its pid.
        ended: is told of the end of such a process.
    """

    __slots__ = ("ended", "led", "log", "loop", "other_ended", "owner", "standard", "workers")

    owner: "Callable[[int], Process | None]"
    ended: "Callable[[Process], None]"

    def __init__(
        self, loop: "Loop", log: "Log", standard: "StandardStreams", other_ended: "Callable[[int, int], None]"
    ) -> None:
        self.loop = loop
        self.log = log
        self.standard = standard
        self.other_ended = other_ended
        self.workers: dict[int, Worker | Aside] = {}
        self.led: list[Led] = []

    def worker(
        self, what: str, work: "Work", done: "Callable[[Any, Status | None], None]",
        told: "Callable[[str, Any, list[Fd | None]], None] | None" = None, kept: "Sequence[Fd | None]" = (),
        log: "Log | None" = None,
    ) -> Worker:  # fmt: skip
        """Start a worker. `log`: of the call that it works for, if there is one."""
        made = Worker(self.loop, log or self.log, what, work, done, told, [self.standard.null, *kept])
        self.workers[made.pid] = made
        return made

    def aside(
        self, what: str, call: "Apart", done: "Callable[[int, Exception | None], None]", log: "Log", step: str
    ) -> Aside:
        """Watch a call that is made aside. `step`: its name in the log."""
        made = Aside(self.loop, log, step, what, call, done)
        self.workers[made.pid] = made
        return made

    def reap(self) -> None:
        """Bury the children that have ended, as one SIGCHLD may stand for several. A container in the host's process
        namespace may make orphans as fast as we bury them, so others are served in between."""
        try:
            for _ in range(AT_A_TIME):
                if not self._bury():
                    return
            self.loop.soon(self.reap)
        except BaseException:
            self.loop.after(AGAIN_SECONDS, self.reap)  # the children are still there
            raise

    def _bury(self) -> bool:
        """Bury one that has ended. Its end is recorded first, then it is waited for, then its end is told. What fails
        in between is done again."""
        try:
            found = posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except ChildProcessError:
            return False
        if found is None:
            return False
        pid = found.si_pid
        status = found.si_status << 8 if found.si_code == posix.CLD_EXITED else found.si_status & 0x7F
        process = self.owner(pid)
        if process is None and pid not in self.workers:
            self._catch_up()  # its maker told us of it, then ended, and so made it our child
            process = self.owner(pid)
        now = time.time_ns()
        if process is not None:
            process.end = exit_code(status), now
        mine = process is None and any(each.ended(pid, status, now) for each in self.led)
        posix.waitpid(pid, 0)
        worker = self.workers.pop(pid, None)
        if worker is not None:
            worker.ended(status)
        elif process is not None:
            self.ended(process)
        elif not mine:
            self.other_ended(pid, status)
        return True

    def _catch_up(self) -> None:
        for worker in [*self.workers.values()]:
            worker.hear()
        for each in [*self.led]:
            each.catch_up()

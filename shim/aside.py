"""A system call that may wait for a file system, made aside: the loop goes on meanwhile.

It mounts, unmounts or copies a mount, and costs a tenth of what a worker costs. See linux/apart.py.
"""

import posix
import time
from _signal import SIGKILL

from pyrunc.shim import ttrpc
from pyrunc.shim.ttrpc import Status
from pyrunc.shim.worker import DEATH_SECONDS, HANGS, MOST_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.linux.apart import Apart
    from pyrunc.log import Log
    from pyrunc.shim.loop import Loop, Timer

    Done = Callable[[int, Exception | None], None]


class Aside:
    """One call that is made aside.

    Args:
        step: its name in the log.
        what: its name in errors.
        call: the system call, which has begun.
        done: is called once: with what the call returned, or with why it failed.

    Attributes:
        hangs: it outlives even SIGKILL.
        after: is called when it has ended.
    """

    __slots__ = (
        "after", "began", "call", "called_off", "done", "hangs", "log", "loop", "pid", "step", "timer", "what",
    )  # fmt: skip

    def __init__(self, loop: "Loop", log: "Log", step: str, what: str, call: "Apart", done: "Done") -> None:
        self.loop = loop
        self.log = log
        self.step = step
        self.began = time.time_ns()
        self.what = what
        self.call = call
        self.pid = call.pid
        self.done: Done | None = done
        self.called_off: Status | None = None
        self.hangs = False
        self.after: Callable[[], None] | None = None
        self.timer: Timer | None = loop.after(MOST_SECONDS, self._too_long)

    def hear(self) -> None:
        """It says nothing before its end."""

    def ended(self, _: int) -> None:
        """It has ended, and was waited for. A call that was called off counts as failed even if it was quicker: its
        caller is told that nothing was made."""
        result = self.call.take()
        if self.called_off is not None:
            if self.call.opens and result >= 0:
                posix.close(result)
            self._finish(0, self.called_off)
        elif result < 0:
            self._finish(0, OSError(-result, posix.strerror(-result), self.what))
        else:
            self._finish(result, None)
        if self.after is not None:
            self.after()

    def call_off(self, why: Status) -> None:
        if self.called_off is None and self.done is not None:
            self.called_off = why
            self.loop.cancel(self.timer)
            posix.kill(self.pid, SIGKILL)
            self.timer = self.loop.after(DEATH_SECONDS, self._give_up)

    def _too_long(self) -> None:
        self.call_off(Status(ttrpc.DEADLINE_EXCEEDED, f"{self.what} took more than {MOST_SECONDS:.0f} s"))

    def _give_up(self) -> None:
        assert self.called_off is not None
        self.hangs = True
        self._finish(0, Status(self.called_off.code, f"{self.called_off.message}: {HANGS}"))

    def _finish(self, result: int, error: "Exception | None") -> None:
        if self.done is not None:
            done, self.done = self.done, None
            if self.log.steps_on:
                self.log.took(self.step, self.began, time.time_ns())
            self.loop.cancel(self.timer)
            done(result, error)

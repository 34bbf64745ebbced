"""How long the runtime waits, and for whom: the bounds of all waits that others can prolong.

Hooks are the exception: a hook has its `timeout`, or by config.md as long as it likes. `kill` and `delete --force` end
a hook that hangs.
"""

from pyrunc.errors import Overdue
from pyrunc.linux.pid import state_of

LOOK_SECONDS = 1.0  # between two looks at the process
STOPPED_LOOKS = 3  # while a signal has stopped it
ADDED_LOOKS = 60  # one step of a process that `exec` adds: it makes nothing, and asks nobody but the kernel
FIRST_LOOKS = 600  # one step of a container's first process: its mounts may be copied, or far away
START_LOOKS = 60  # from "go" to execve, where there are no hooks
LOCK_SECONDS = 30.0  # for another verb
POLITE_SECONDS = 1.0  # for the lock's holder, after what it waits for was ended
FORCED_SECONDS = 10.0  # for the same after the holder was killed
DEATH_SECONDS = 10.0  # for a process that was killed
DEATH_LOOKS = 100  # meanwhile, as somebody may have frozen it
RECEIVER_SECONDS = 10.0  # for the receiver of a terminal, a pidfd or a filter's listener to accept our connection
HELPER_SECONDS = 30.0  # for newuidmap and newgidmap, and for what tells an engine's libraries
ERRAND_SECONDS = 30.0  # for a child of ours that is elsewhere

HOW = {"D": "it hangs in a system call", "T": "it is stopped", "t": "it is being traced", "R": "it runs"}


class Patience:
    """With a process on its way to its program. Whoever waits for the process calls `look` whenever it wakes up.

    Looks are counted, and not seconds: while we are stopped ourselves (^Z at a terminal) none are made.
    """

    __slots__ = ("looks", "most", "pid", "progress", "stopped")

    def __init__(self, pid: int, most: int) -> None:
        """`most`: how many looks the same step may take; 0: any number."""
        self.pid = pid
        self.most = most
        self.progress = 0
        self.looks = 0
        self.stopped = 0

    def look(self, what: str, progress: int = 0, may_wait: bool = False) -> None:
        """Raises Overdue.

        Args:
            what: what it is doing, as far as we know.
            progress: changes when it gets further.
            may_wait: it takes as long as it takes.
        """
        state = state_of(self.pid)
        self.stopped = self.stopped + 1 if state == "T" else 0
        if self.stopped >= STOPPED_LOOKS:
            cause = f"its process has been stopped by a signal for {self.stopped * LOOK_SECONDS:.0f} s"
            raise Overdue(what, "", cause, "only somebody who sees it can do that, such as a process of its container")
        self.looks = 0 if may_wait or progress != self.progress else self.looks + 1
        self.progress = progress
        if self.most and self.looks >= self.most:
            how = HOW.get(state, "it waits")
            raise Overdue(what, "", f"its process has not come further for {self.looks * LOOK_SECONDS:.0f} s: {how}")

"""Create as the loop leads it, if it waits only for the kernel and the container's own process.

A worker would be forked, which copies most of the interpreter's pages and takes as long as all the rest. Calls that may
wait for a file system are made aside (rootfs.py). What waits for somebody else is left to a worker (making.py).
"""

import select

from pyrunc.container.container import Container
from pyrunc.container.creation import Creation
from pyrunc.container.patience import LOOK_SECONDS
from pyrunc.errors import Overdue
from pyrunc.shim.children import Led
from pyrunc.shim.rootfs import Mounting
from pyrunc.shim.starting import DEATH_SECONDS, is_ready
from pyrunc.shim.task import ROOTFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.container.state import StateRoot
    from pyrunc.log import Log
    from pyrunc.protobuf import Values
    from pyrunc.shim.aside import Aside
    from pyrunc.shim.children import Children
    from pyrunc.shim.loop import Timer
    from pyrunc.shim.task import Process
    from pyrunc.shim.ttrpc import Status


class Leading(Led):
    """A container that the loop makes.

    Args:
        done: is called once: with the container, or with why it could not be made.
    """

    __slots__ = ("channel", "children", "creation", "done", "init", "mounting", "root", "timer")

    def __init__(
        self, children: "Children", init: "Process", creation: Creation, root: "StateRoot", mounts: "list[Values]",
        done: "Callable[[Container | None, Exception | None], None]", log: "Log",
    ) -> None:  # fmt: skip
        self.children = children
        self.init = init
        self.creation = creation
        self.root = root
        self.done: Callable[[Container | None, Exception | None], None] | None = done
        self.channel = -1
        self.timer: Timer | None = None
        self.mounting = Mounting(children, mounts, f"{init.task.bundle}/{ROOTFS}", self._mounted, log)

    def begin(self) -> None:
        self.children.led.append(self)
        try:
            self.mounting.begin()
        except Exception as failed:
            self._end(failed)

    def _mounted(self, error: "Exception | None") -> None:
        try:
            if error is not None:
                raise error
            self.creation.claim(self.root)
            standard = self.init.task.standard
            standard.lend(self.init.streams.child)
            try:
                self.creation.begin(DEATH_SECONDS)
            finally:
                standard.lend([])
        except Exception as failed:
            return self._end(failed)
        self.init.streams.started()
        self.channel = self.creation.child.channel.socket.fileno()
        self.children.loop.watch(self.channel, select.POLLIN, self._hear)
        self._wait()

    def _wait(self) -> None:
        self.timer = self.children.loop.after(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        try:
            self.creation.child.look()
        except Overdue as error:
            self.creation.child.give_up()
            return self._end(error)
        self._wait()

    def _hear(self, _: int = 0) -> None:
        try:
            if self.creation.hear():
                self._end(None)
        except Exception as error:
            self._end(error)

    # --- its end

    @property
    def stuck(self) -> "Aside | None":
        """A call that outlives even SIGKILL. What was made can be undone only after it has ended."""
        aside = self.mounting.aside
        return aside if aside is not None and aside.hangs else None

    def stop(self, why: "Status") -> None:
        if self.channel < 0:
            return self.mounting.stop(why)
        self.creation.child.give_up()
        self._end(why)

    def ended(self, pid: int, status: int, _: int) -> bool:
        """A process has ended. Returns whether it is the container's own."""
        if self.channel < 0 or self.creation.child.pid != pid:
            return False
        self.creation.child.status = status
        return True

    def catch_up(self) -> None:
        """Hear what the container's process has said by now."""
        while self.done is not None and self.channel >= 0 and is_ready(self.channel):
            self._hear()

    def _end(self, error: "Exception | None") -> None:
        if self.done is None:
            return
        done, self.done = self.done, None
        self.children.led.remove(self)
        self.children.loop.cancel(self.timer)
        if self.channel >= 0:
            self.children.loop.unwatch(self.channel)
        child = getattr(self.creation, "child", None)  # it is there even if the process could not begin
        if child is not None:
            if child.pidfd is not None:
                child.pidfd.close()
            del self.creation.child  # they refer to each other, and would stay until the next collection
        if self.creation.is_claimed:
            self.creation.close()
        if error is not None:
            return done(None, error)
        made = self.creation.container
        container = Container(made.directory, made.record, self.init.task.log)
        container.known_config = made.known_config  # for Start, which is about to come
        done(container, None)

"""The loop: one thread and one poll(2). It calls others when a descriptor is ready, a time has come, or a signal was
caught."""

import _signal
import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.log import Log


class Timer:
    __slots__ = ("action", "due")

    def __init__(self, due: float, action: "Callable[[], None]") -> None:
        self.due = due
        self.action = action


class Loop:
    __slots__ = ("handlers", "log", "masks", "newest", "over", "poll", "signals", "timers", "waiting")

    def __init__(self, log: "Log") -> None:
        self.log = log
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.masks: dict[int, int] = {}
        # Watched since the last poll: its news of these numbers is of earlier descriptors, which are gone
        self.newest: set[int] = set()
        self.timers: list[Timer] = []
        self.waiting: list[Callable[[], None]] = []
        self.signals: dict[int, Callable[[], None]] = {}
        self.over = False

    def watch(self, fd: int, mask: int, handler: "Callable[[int], None]") -> None:
        """Call the handler with poll's events when there are some. POLLERR and POLLHUP come unasked."""
        if self.masks.get(fd) != mask:
            self.poll.register(fd, mask)
            self.masks[fd] = mask
        if fd not in self.handlers:
            self.newest.add(fd)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            del self.masks[fd]
            self.poll.unregister(fd)

    def soon(self, action: "Callable[[], None]") -> None:
        """Call it when all that is ready now has been served."""
        self.waiting.append(action)

    def after(self, seconds: float, action: "Callable[[], None]") -> Timer:
        timer = Timer(time.monotonic() + seconds, action)
        self.timers.append(timer)
        return timer

    def cancel(self, timer: "Timer | None") -> None:
        """Cancel a timer, which then lets go of its action. The action mostly refers to the timer's owner: both would
        stay until the next collection."""
        if timer in self.timers:
            self.timers.remove(timer)
            timer.action = _nothing_more

    def on_signals(self, actions: "dict[int, Callable[[], None]]") -> None:
        """Call these when a signal was caught. Python's own handler only writes the signal's number to a pipe, and the
        loop does the rest."""
        self.signals = actions
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in actions:
            _signal.signal(number, _nothing)

        def caught(_: int) -> None:
            for number in {*posix.read(read, 4096)}:
                if number in actions:
                    actions[number]()

        self.watch(read, select.POLLIN, caught)

    def run(self) -> None:
        while not self.over:
            self.newest.clear()
            for fd, events in self.poll.poll(self._patience()):
                handler = self.handlers.get(fd)  # an earlier handler may have closed it
                if handler is not None and fd not in self.newest:
                    self.call(handler, events)
            now = time.monotonic()
            for timer in [timer for timer in self.timers if timer.due <= now]:
                action = timer.action  # does nothing if another of these has cancelled it
                self.cancel(timer)
                self.call(action)
            waiting, self.waiting = self.waiting, []
            for action in waiting:
                self.call(action)

    def _patience(self) -> "float | None":
        if self.waiting:
            return 0
        if not self.timers:
            return None
        return max(0.0, min(timer.due for timer in self.timers) - time.monotonic()) * 1000 + 1

    def call(self, action: "Callable[..., None]", *arguments: int) -> None:
        """Call it, and log what it raises: a bug in serving one container must not end the shim of the others."""
        try:
            action(*arguments)
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
            self.log.error(f"internal error: {type(error).__name__}: {error} ({place})")


def _nothing_more() -> None:
    """Do nothing: the action of a timer that is over."""


def _nothing(number: int, frame: object) -> None:
    """Do nothing: the pipe tells of the signal."""

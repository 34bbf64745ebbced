"""Events if containerd has given no address for them: containerd's own program takes them, one at a time."""

import posix

from pyrunc.errors import reason
from pyrunc.protobuf import encode
from pyrunc.shim import messages
from pyrunc.shim.events import Event, Publisher, Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.shim.loop import Timer

TIMEOUT_SECONDS = 10.0
SIGNALS = (13, 17)  # SIGPIPE and SIGCHLD: in the shim they are not as a program expects them


class Program(Way):
    __slots__ = ("address", "event", "namespace", "pid", "program", "publisher", "timer")
    at_a_time = 1

    def __init__(self, publisher: Publisher, program: str, address: str, namespace: str) -> None:
        self.publisher = publisher
        self.program = program
        self.address = address
        self.namespace = namespace
        self.event: Event | None = None
        self.pid = 0
        self.timer: Timer | None = None

    def send(self, events: "list[Event]") -> None:
        (self.event,) = events
        words = [
            self.program, "--address", self.address, "publish", "--topic", self.event.topic,
            "--namespace", self.namespace,
        ]  # fmt: skip
        event = posix.memfd_create("event")
        try:
            posix.write(event, encode(messages.ANY, self.event.any))
            posix.lseek(event, 0, 0)
            given = [(posix.POSIX_SPAWN_DUP2, event, 0)]
            self.pid = posix.posix_spawnp(self.program, words, posix.environ, file_actions=given, setsigdef=SIGNALS)
        except OSError as error:
            return self._failed(f"{self.program}: {reason(error)}")
        finally:
            posix.close(event)
        self.timer = self.publisher.loop.after(TIMEOUT_SECONDS, self._give_up)

    def ended(self, pid: int, status: int) -> None:
        if pid != self.pid or self.event is None:
            return
        self.publisher.loop.cancel(self.timer)
        event = self.event
        if status:
            return self._failed(f"{self.program} ended with {posix.waitstatus_to_exitcode(status)}")
        self.event, self.pid = None, 0
        self.publisher.received(event)

    def _failed(self, why: str) -> None:
        self.event, self.pid = None, 0
        self.publisher.failed(why)

    def _give_up(self) -> None:
        posix.kill(self.pid, 9)  # its end is told like any other

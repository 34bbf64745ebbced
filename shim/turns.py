"""Turns: one verb of a container at a time. The others wait in the order in which they were asked for."""

from pyrunc.shim.ttrpc import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.protobuf import Values
    from pyrunc.shim.call import Call
    from pyrunc.shim.loop import Loop


class Verb:
    """A call that changes a container, from its request to its answer.

    Attributes:
        stop: ends what is being done for the call, for a given reason. None: it ends by itself, soon.
    """

    __slots__ = ("call", "stop")

    def __init__(self, call: "Call") -> None:
        self.call = call
        self.stop: Callable[[Status], None] | None = None


class Turns:
    __slots__ = ("loop", "now", "waiting")

    def __init__(self, loop: "Loop") -> None:
        self.loop = loop
        self.now: Verb | None = None
        self.waiting: list[tuple[Verb, Callable[[Verb], None]]] = []

    def ask(self, call: "Call", begin: "Callable[[Verb], None]") -> None:
        verb = Verb(call)
        call.late = lambda why: self._late(verb, why)
        self.waiting.append((verb, begin))
        self._next()

    def _next(self) -> None:
        if self.now is not None or not self.waiting:
            return
        verb, begin = self.waiting.pop(0)
        self.now = verb
        try:
            begin(verb)
        except BaseException as error:
            self.refuse(verb, error)

    def end(self, verb: Verb, answer: "Callable[[], Values | None]") -> None:
        if self.now is verb:
            self.now = None
            verb.stop = None
            if self.waiting:
                self.loop.soon(self._next)
        verb.call.answer(answer)

    def refuse(self, verb: Verb, error: BaseException) -> None:
        self.end(verb, lambda: _throw(error))

    def stop(self, why: Status) -> None:
        """End what is being done."""
        if self.now is not None and self.now.stop is not None:
            self.now.stop(why)

    def _late(self, verb: Verb, why: Status) -> None:
        """Stop or refuse a verb: its caller's deadline has passed."""
        if verb is self.now and verb.stop is not None:
            return verb.stop(why)
        self.waiting = [each for each in self.waiting if each[0] is not verb]
        verb.call.answer(lambda: _throw(why))


def _throw(error: BaseException) -> "Values":
    raise error

"""One hierarchy of errors. Each says what was being done, to what, why it failed, and what to do about it."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


class PyruncError(Exception):
    """An error for the user, in one line: `operation subject: cause; hint`.

    Args:
        operation: what was being done ("mounting", "container").
        subject: to what: a path, an ID, a JSON pointer.
        cause: why it failed, in words.
        hint: what to do about it, where that is known.
    """

    __slots__ = ("cause", "hint", "operation", "subject")

    def __init__(self, operation: str, subject: str = "", cause: str = "", hint: str = "") -> None:
        super().__init__(operation, subject, cause, hint)
        self.operation = operation
        self.subject = subject
        self.cause = cause
        self.hint = hint

    @property
    def fields(self) -> "tuple[str, str, str, str]":
        return self.operation, self.subject, self.cause, self.hint

    def __str__(self) -> str:
        text = f"{self.operation} {self.subject}" if self.subject else self.operation
        if self.cause:
            text = f"{text}: {self.cause}"
        return f"{text}; {self.hint}" if self.hint else text


def packed(*fields: str) -> str:
    """Texts as one, for another process to take apart: the fields of an error, or of another message."""
    return "\0".join(field.replace("\0", "\\x00") for field in fields)


def unpacked(text: str) -> "list[str]":
    return text.split("\0")


class ConfigError(PyruncError):
    """config.json (or process.json) is not what the specification asks for."""


class UsageError(PyruncError):
    """The command line is not one that the verb takes."""


class StateError(PyruncError):
    """The container is not in a state in which this can be done."""


class NoSuchContainer(StateError):
    """No container of that ID. Engines look for `does not exist` in the text."""

    def __init__(self, container_id: str) -> None:
        super().__init__("container", f'"{container_id}"', "container does not exist")


class NotRunning(StateError):
    """There is no process to signal. Engines look for `container not running` in the text."""

    def __init__(self, container_id: str) -> None:
        super().__init__("container", f'"{container_id}"', "container not running")


class StepError(PyruncError):
    """A step between clone and execve failed. The words around it are runc's: engines show and search them."""


class Overdue(StepError):
    """Somebody whom we waited for took too long, and was given up."""


class Interrupted(PyruncError):
    """Whoever asked for it has called it off."""


class CalledOff(BaseException):
    """Whoever asked for it has called it off: raised by a signal's handler, wherever we are. Who has asked is told
    Interrupted. It is no Exception: nothing takes it for a failure of its own, and goes on.
    """


CLEANING_UP = ("__del__", "__exit__", "_destroy", "close", "give_up", "undo", "unlock")


def is_cleaning_up(frame: "FrameType | None") -> bool:
    """Whether a signal has come in the middle of a clean-up, of which an exception would skip the rest. From a
    finalizer it would not even get out.
    """
    while frame is not None and frame.f_code.co_name not in CLEANING_UP:
        frame = frame.f_back
    return frame is not None


def interrupt(error: BaseException, frame: "FrameType | None") -> None:
    """For a signal's handler: raise it here, or after the clean-up that the signal has come in the middle of."""
    if not is_cleaning_up(frame):
        raise error
    raise_later(error, frame)


def raise_later(error: BaseException, frame: "FrameType | None") -> None:
    """Raise it in the frame that goes on, as a debugger stops there: after a clean-up, and after a finalizer.

    Args:
        frame: what runs. Whatever it calls or returns to may be where the error is raised.
    """

    def trace(frame: "FrameType", _: str, __: object) -> None:
        if not is_cleaning_up(frame):
            sys.settrace(None)
            raise error

    while frame is not None:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)


def lose_no_interruption() -> None:
    """What a signal's handler raises in a finalizer would be printed and lost, as that can't raise."""
    sys.unraisablehook = _raise_after


def _raise_after(what: "sys.UnraisableHookArgs") -> None:
    if isinstance(what.exc_value, (KeyboardInterrupt, CalledOff)):
        raise_later(what.exc_value, sys._getframe(1))


def printable(text: str) -> str:
    """In one line, and without what a terminal would obey: text that a container, an image or a hook has written."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    letter, width = ("x", 2) if number < 0x100 else ("u", 4) if number < 0x10000 else ("U", 8)
    return known or f"\\{letter}{number:0{width}x}"


def words(error: OSError) -> str:
    """The kernel's, as Go has them, and as engines look for them."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def reason(error: BaseException) -> str:
    """The cause of a failure in words: an OSError without its number, naming the file where there is one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {words(error)}" if error.filename else words(error)
    if isinstance(error, OverflowError):
        return "a number is larger than the kernel takes"
    return str(error) or type(error).__name__

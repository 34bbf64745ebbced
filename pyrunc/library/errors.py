"""Errors that only the library raises. With pyrunc.errors they are one hierarchy, below PyruncError."""

from pyrunc import errors
from pyrunc.errors import CalledOff, PyruncError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

Output = bytes | str | None


class LibraryError(PyruncError):
    """The base of the errors below. They have attributes, which pickle must keep: multiprocessing pickles errors."""

    def __reduce__(self) -> "tuple[Any, ...]":
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: "type[LibraryError]", words: "tuple[str, ...]", more: "dict[str, Any]") -> LibraryError:
    error = kind.__new__(kind)
    PyruncError.__init__(error, *words)
    error.__dict__.update(more)
    return error


class WorkerError(LibraryError):
    """The worker process, which makes the program's containers, could not be started or has died."""


class TimeoutExpired(LibraryError):
    """The time is up. As with subprocess, the error has the output so far.

    Attributes:
        timeout: in seconds.
    """

    def __init__(self, what: str, timeout: float, stdout: Output = None, stderr: Output = None) -> None:
        super().__init__(what, "", f"it has not ended within {timeout:g} s")
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


class OutputLimitExceeded(LibraryError):
    """The program wrote more than it may, and was killed. The error has the output up to the limit."""

    def __init__(self, what: str, limit: int, stdout: Output = None, stderr: Output = None) -> None:
        super().__init__(what, "", f"it has written more than {limit} bytes", "set output_limit, or give it a file")
        self.limit = limit
        self.stdout = stdout
        self.stderr = stderr


def as_message(error: BaseException) -> "list[str]":
    """An error in the worker, as the words that the caller gets."""
    if isinstance(error, CalledOff):
        return ["Interrupted", "called off", "", str(error), ""]
    if isinstance(error, PyruncError):
        return [type(error).__name__, error.operation, error.subject, error.cause, error.hint]
    if isinstance(error, OSError):
        return ["PyruncError", reason(error), "", "", ""]
    return ["PyruncError", f"internal error: {type(error).__name__}: {reason(error)}", "", "", ""]


def of_message(words: "Sequence[str]") -> PyruncError:
    """The error that `as_message` made those words from."""
    name, operation, subject, cause, hint = words
    kind = getattr(errors, name, PyruncError)
    error: PyruncError = kind.__new__(kind)
    PyruncError.__init__(error, operation, subject, cause, hint)
    return error

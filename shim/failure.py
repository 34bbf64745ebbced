"""The runtime's errors as containerd gets them: a gRPC code, and runc's words where engines look for them."""

from pyrunc.errors import NoSuchContainer, PyruncError, StateError, StepError, reason
from pyrunc.protobuf import Malformed
from pyrunc.shim import ttrpc
from pyrunc.shim.ttrpc import Status


def failure(error: "PyruncError | OSError", start: str = "") -> Status:
    code = ttrpc.UNKNOWN
    if isinstance(error, NoSuchContainer | ProcessLookupError):
        code = ttrpc.NOT_FOUND
    elif isinstance(error, StateError):
        code = ttrpc.FAILED_PRECONDITION
    text = str(error) if isinstance(error, PyruncError) else reason(error)
    if isinstance(error, StepError) and not error.operation.startswith("exec /"):
        text = f"unable to start container process: {text}"  # runc's words, which engines look for
    return Status(code, start + text)


def in_words(error: BaseException, start: str = "") -> Status:
    """Any error, as an answer."""
    if isinstance(error, Status):
        return error
    if isinstance(error, PyruncError | OSError):
        return failure(error, start)
    if isinstance(error, Malformed):
        return Status(ttrpc.INVALID_ARGUMENT, str(error))
    return Status(ttrpc.INTERNAL, f"internal error: {type(error).__name__}: {reason(error)}")

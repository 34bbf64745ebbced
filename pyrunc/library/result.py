"""What is known of a run when it is over."""

from dataclasses import dataclass
from typing import Any, AnyStr, Generic, Self

from pyrunc.library.errors import LibraryError


@dataclass(frozen=True, slots=True)
class Result(Generic[AnyStr]):
    """The result of `run`.

    Attributes:
        args: the program and its arguments.
        returncode: its exit status; -N: signal N ended it.
        stdout, stderr: what it wrote; None where that went elsewhere.
        oom: whether the kernel killed the program, or another of its processes, for want of memory.
        duration: seconds from its start to its end.
        cpu: seconds of CPU time of all its processes.
        peak_memory: bytes that all its processes used at most at one time, including files in memory. About four
            million of them are pyrunc's, which is in the container before the program. Without a cgroup: those of the
            largest process alone.
    """

    args: list[str]
    returncode: int
    stdout: AnyStr | None
    stderr: AnyStr | None
    oom: bool
    duration: float
    cpu: float
    peak_memory: int

    def check_returncode(self) -> Self:
        """Raises ProcessFailed, unless it is 0."""
        if self.returncode:
            raise ProcessFailed(self.args[0], self)
        return self


def returncode(status: int) -> int:
    """A status of waitpid(2) with the sign that subprocess uses."""
    import os

    return os.waitstatus_to_exitcode(status)


def result(args: list[str], told: dict[str, Any], stdout: Any, stderr: Any) -> "Result[Any]":
    return Result(
        args, returncode(told["status"]), stdout, stderr, told["oom"], told["duration"], told["cpu"], told["peak"]
    )


class ProcessFailed(LibraryError):
    """`check=True`, and the exit status is not 0.

    Attributes:
        result: all that is known of the run.
    """

    def __init__(self, what: str, result: "Result[bytes] | Result[str]") -> None:
        code = result.returncode
        cause = f"it was ended by signal {-code}" if code < 0 else f"its exit status is {code}"
        super().__init__(what, "", f"{cause}; it ran out of memory" if result.oom else cause)
        self.result = result
        self.returncode = code
        self.stdout = result.stdout
        self.stderr = result.stderr

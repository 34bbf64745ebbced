"""Control files of a cgroup: read one, write one, write several that bound each other."""

import errno
import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    Write = tuple[str, str]  # a control file, and the text of one write(2) to it

UNIFIED = ""  # the name of v2's hierarchy, as in /proc/PID/cgroup
NAMED = "name=systemd"  # one of v1 without controllers, in which systemd has its units


def read(directory: str, file: str) -> str:
    """A control file's text. Raises PyruncError."""
    try:
        return read_file(f"{directory}/{file}").decode().strip()
    except OSError as error:
        raise PyruncError("reading cgroup file", f"{directory}/{file}", reason(error)) from error


def write(directory: str, file: str, value: str) -> None:
    """Write one value to one control file. Raises PyruncError, which names both and what the kernel said."""
    try:
        write_file(f"{directory}/{file}", value.encode())
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOENT:
            hint = "the kernel or the parent cgroup does not offer this controller"
        elif error.errno == errno.EBUSY:
            hint = _in_use(directory, file)
        raise PyruncError(
            f'writing "{value}" to cgroup file', f"{directory}/{file}", posix.strerror(error.errno or 0), hint
        ) from error


def _in_use(directory: str, file: str) -> str:
    """Why v1 refuses a limit as busy: more memory is in use, and can't be reclaimed. The words are runc's."""
    prefix = file.removesuffix("limit_in_bytes")
    try:
        usage, peak = (read(directory, f"{prefix}{each}_in_bytes") for each in ("usage", "max_usage"))
    except PyruncError:
        return ""  # not a file of memory
    return f"current usage: {usage}, peak usage: {peak}"


def write_all(directory: str, writes: "list[Write]") -> None:
    """Write all values in order, and those that the kernel refuses as invalid once more after the others.

    Some limits bound each other: memory and memory with swap, quota and burst, idle and shares. The order in which they
    can be written depends on their old values.
    """
    refused: list[tuple[Write, PyruncError]] = []
    for file, value in writes:
        try:
            write(directory, file, value)
        except PyruncError as error:
            if errno_of(error) != errno.EINVAL:
                raise
            refused.append(((file, value), error))
    if refused and len(refused) == len(writes):
        raise refused[0][1]
    if refused:
        write_all(directory, [each for each, _ in refused])


def errno_of(error: PyruncError) -> int:
    """The kernel's error number behind one of ours; 0 when there is none."""
    cause = error.__cause__
    return (cause.errno or 0) if isinstance(cause, OSError) else 0

"""Several containers at once: --regex and --all of `delete` and `kill`, as crun has --regex."""

import _signal
import re
import warnings

from pyrunc.cli.call import Call, complain
from pyrunc.errors import NoSuchContainer, UsageError, printable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

SECONDS = 2.0  # of CPU time; (a+)+$ would try for years


def matching(call: Call, pattern: str) -> "list[str]":
    """The IDs of containers in which the expression is found: `^web` begins so, `.` is all."""
    _signal.signal(_signal.SIGVTALRM, lambda *_: _refuse(pattern, "takes too long to try"))
    _signal.setitimer(_signal.ITIMER_VIRTUAL, SECONDS)
    try:
        search = _compiled(pattern).search
        return [name for name in call.state_root.ids() if search(name)]
    except FileNotFoundError:
        return []
    finally:
        _signal.setitimer(_signal.ITIMER_VIRTUAL, 0)


def _compiled(pattern: str) -> "re.Pattern[str]":
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # [[:alpha:]], say, which is POSIX's and means another thing here
        try:
            return re.compile(pattern)
        except (re.error, OverflowError, Warning) as error:
            _refuse(pattern, f"is no regular expression: {error}")
        except RecursionError:
            _refuse(pattern, "is nested too deeply")


def _refuse(pattern: str, cause: str) -> "NoReturn":
    raise UsageError("--regex", f'"{pattern:.100}"', cause, "the syntax is that of Python's re") from None


def each(ids: "list[str]", work: "Callable[[str], None]") -> int:
    """All of them, whatever fails with one. The exit status: 1 if something has."""
    failed = 0
    for container_id in ids:
        try:
            work(container_id)
        except NoSuchContainer:
            pass  # it has gone meanwhile
        except Exception as error:  # also a mistake of ours is no reason to leave the others
            complain(printable(f"pyrunc: {container_id}: {reason(error)}"))
            failed = 1
    return failed

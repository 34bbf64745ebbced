"""Several containers at once: --regex and --all of `delete` and `kill`, as crun has --regex."""

import re

from pyrunc.cli.call import Call, complain
from pyrunc.errors import PyruncError, UsageError, printable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def matching(call: Call, pattern: str) -> "list[str]":
    """The IDs of containers in which the expression is found: `^web` begins so, `.` is all."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError("--regex", f'"{pattern}"', f"is no regular expression: {error}") from error
    try:
        return [name for name in call.state_root.ids() if expression.search(name)]
    except FileNotFoundError:
        return []


def each(ids: "list[str]", work: "Callable[[str], None]") -> int:
    """All of them, whatever fails with one. The exit status: 1 if something has."""
    failed = 0
    for container_id in ids:
        try:
            work(container_id)
        except (PyruncError, OSError) as error:
            complain(printable(f"pyrunc: {container_id}: {reason(error)}"))
            failed = 1
    return failed

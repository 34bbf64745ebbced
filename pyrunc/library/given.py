"""Checks of what a caller gives: each returns the value as we want it, or raises a UsageError that names it.

A caller's mistake must not raise any other error.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyrunc.errors import UsageError

MOST_SECONDS = 2_000_000.0  # poll(2) takes at most 24 days; a longer timeout means for ever


def path(value: Any, name: str) -> str:
    if isinstance(value, str | bytes | os.PathLike):
        return os.fsdecode(value)
    raise UsageError(name, repr(value), "is no path")


def place(value: Any, name: str) -> str:
    """An absolute path in a container."""
    if isinstance(value, str) and value.startswith("/"):
        return value
    raise UsageError(name, repr(value), "is no absolute path")


def words(value: Any, name: str) -> list[str]:
    """A program and its arguments."""
    if isinstance(value, str) and value:
        raise UsageError(name, repr(value), "the program and its arguments are a list of words", _as_words(value))
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        raise UsageError(name, repr(value), "the program and its arguments are a list of words")
    return [path(word, name) for word in value]


def _as_words(text: str) -> str:
    import shlex

    try:
        return str(shlex.split(text))
    except ValueError:
        return ""


def several(value: Any, name: str) -> list[Any]:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return [*value]
    raise UsageError(name, repr(value), "is no list")


def mapping(value: Any, name: str) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise UsageError(name, repr(value), "is no dictionary")


def variables(value: Any, name: str = "env") -> dict[str, str]:
    found = mapping(value, name)
    for variable, text in found.items():
        if not isinstance(variable, str) or not isinstance(text, str) or not variable or "=" in variable:
            raise UsageError(name, repr({variable: text}), "is no name and text of a variable")
    return found


def number(value: Any, name: str, least: float = -math.inf) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
        return value
    raise UsageError(name, repr(value), "is no number" if least == -math.inf else f"is no number from {least:g} on")


def whole(value: Any, name: str, least: float = -math.inf) -> int:
    if not isinstance(value, int):
        raise UsageError(name, repr(value), "is no whole number")
    return int(number(value, name, least))


def above_zero(value: Any, name: str) -> Any:
    if number(value, name) <= 0:
        raise UsageError(name, repr(value), "is not above 0")
    return value


def seconds(value: Any, name: str = "timeout") -> float | None:
    """How long to wait at most; None: for ever."""
    if value is None or value == math.inf:
        return None
    found = float(number(value, name))
    return found if found <= MOST_SECONDS else None


def user(value: Any) -> tuple[int, int]:
    """A user ID and a group ID, from one number for both or from two."""
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2:
        raise UsageError("user", repr(value), "is neither a user ID nor one and a group ID")
    return whole(both[0], "user", 0), whole(both[1], "user", 0)


def text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    raise UsageError(name, repr(value), "is no text")

"""One thing that was looked at."""

from typing import NamedTuple

OK, LESS, NO = "ok", "less", "no"


class Check(NamedTuple):
    """What was looked at, and what came of it.

    Attributes:
        state: OK; LESS: containers run, but something is not available; NO: no container runs.
        name: what was looked at.
        found: what is there.
        follows: what that means for pyrunc, or what to do. "": there is nothing to say.
    """

    state: str
    name: str
    found: str
    follows: str = ""


def text_of(path: str) -> str:
    """A file's text, or "" where there is no file, or we may not read it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""

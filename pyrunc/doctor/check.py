"""One thing that was looked at."""

from typing import NamedTuple

OK, LESS, NO = "ok", "less", "no"


class Check(NamedTuple):
    """
    Attributes:
        state: OK; LESS: containers run, and something can't be asked for; NO: they don't.
        name: what was looked at.
        found: what is there.
        follows: what that means for pyrunc, or what to do. "" where nothing is to be said.
    """

    state: str
    name: str
    found: str
    follows: str = ""


def text_of(path: str) -> str:
    """A file's text, or "" where there is none, or none for us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""

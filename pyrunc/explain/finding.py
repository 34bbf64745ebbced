"""One thing that a configuration grants, or withholds, and how much it matters."""

from typing import NamedTuple

# Worst first. What each means stands in VERDICTS, and in `pyrunc explain --help`.
LEVELS = ("critical", "high", "medium", "low", "note")
VERDICTS = {
    "critical": "Who runs a program in this container can take over the host.",
    "high": "One mistake of the kernel's or of the host's other programs is enough to take over the host.",
    "medium": "The usual walls stand, but more is open than most programs need.",
    "low": "The usual walls stand; little is left to take away.",
    "note": "Nothing stands out.",
}


class Finding(NamedTuple):
    """Something that is granted.

    Attributes:
        level: one of LEVELS.
        topic: "capability", "mount", …: what findings are grouped and compared by, with the subject.
        subject: what is granted: CAP_SYS_ADMIN, a path.
        text: what the container can do by it.
        pointer: where in config.json it stands, or would have to stand.
        hint: what takes it away.
        items: where the subject is several things: (each of them, what the container can do by it, or "").
    """

    level: str
    topic: str
    subject: str
    text: str
    pointer: str
    hint: str = ""
    items: tuple[tuple[str, str], ...] = ()

    def only(self, items: tuple[tuple[str, str], ...]) -> "Finding":
        """The same finding about some of its items."""
        texts = "; ".join(f"{name}: {text}" for name, text in items if text)
        return self._replace(subject=", ".join(name for name, _ in items), text=texts or self.text, items=items)

    @property
    def rank(self) -> int:
        return LEVELS.index(self.level)


class Withheld(NamedTuple):
    """Something that is withheld, in words that go on from "withheld:"."""

    topic: str
    subject: str
    text: str


def of_items(
    level: str, topic: str, items: tuple[tuple[str, str], ...], text: str, pointer: str, hint: str = ""
) -> Finding:
    """One finding for several things of a kind. `text`: what is said of all, where they have no words of their own."""
    return Finding(level, topic, "", text, pointer, hint).only(items)


def softer(level: str, steps: int = 1) -> str:
    """A level that is some steps less grave."""
    return LEVELS[min(LEVELS.index(level) + steps, len(LEVELS) - 1)]

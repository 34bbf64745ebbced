"""Findings in order, and as text or JSON; two configurations side by side."""

import textwrap
from typing import Any, NamedTuple

from pyrunc.errors import printable
from pyrunc.explain import files, rights, system_calls, walls
from pyrunc.explain.finding import LEVELS, VERDICTS, Finding, Withheld
from pyrunc.explain.subject import Subject
from pyrunc.spec.types import Config

PARTS = (rights, files, system_calls, walls)


class Explanation(NamedTuple):
    """What is said of one configuration.

    Attributes:
        name: of the file or the container.
        program: what it runs, and as whom.
        granted: worst first.
        now: of a running container: what the kernel says of its first process.
    """

    name: str
    program: str
    granted: list[Finding]
    withheld: list[Withheld]
    now: list[str]

    @property
    def worst(self) -> str:
        return self.granted[0].level if self.granted else "note"


def explain(config: Config, name: str, now: "list[str] | None" = None) -> Explanation:
    subject = Subject(config)
    granted = [finding for part in PARTS for finding in part.granted(subject)]
    held = [each for part in (walls, rights, system_calls, files) for each in part.withheld(subject)]
    return Explanation(name, _program(subject), sorted(granted, key=lambda finding: finding.rank), held, now or [])


def _program(subject: Subject) -> str:
    words = " ".join(subject.process.get("args") or ["nothing"])
    user = subject.process.get("user") or {}
    who = "root" if subject.is_root else f"user {user['uid']}"
    return f"{words:.120} as {who}"


def compare(new: Explanation, old: Explanation) -> "tuple[list[Finding], list[Finding]]":
    """What the new one grants and the old one does not, or does less; and the other way round."""
    return _beyond(new.granted, old.granted), _beyond(old.granted, new.granted)


def _beyond(these: list[Finding], those: list[Finding]) -> list[Finding]:
    ranks: dict[tuple[str, str], int] = {}
    for finding in those:
        for name, _ in finding.items or ((finding.subject, ""),):
            key = (finding.topic, name)
            ranks[key] = min(ranks.get(key, len(LEVELS)), finding.rank)
    found = []
    for finding in these:
        items = finding.items or ((finding.subject, ""),)
        left = tuple(item for item in items if ranks.get((finding.topic, item[0]), len(LEVELS)) > finding.rank)
        if left:
            found.append(finding.only(left) if finding.items else finding)
    return found


# As text


def text(explanation: Explanation, width: int) -> str:
    verdict = _wrapped(VERDICTS[explanation.worst], "", width)
    lines = [f"{explanation.name}: {explanation.program}", *verdict, ""]
    lines += ["Granted, worst first:", *_table(explanation.granted, width)]
    if explanation.withheld:
        lines += ["", "Withheld:"]
        lines += [line for each in explanation.withheld for line in _wrapped(each.text, "  ", width)]
    if explanation.now:
        lines += ["", "Now:", *(line for each in explanation.now for line in _wrapped(each, "  ", width))]
    return "\n".join(map(printable, lines))


def text_of_two(new: Explanation, old: Explanation, width: int) -> str:
    more, less = compare(new, old)
    lines = [f"{new.name}: {new.program}", f"beside {old.name}: {old.program}", ""]
    if not more and not less:
        return "\n".join(map(printable, [*lines, "Both grant the same."]))
    if more:
        lines += [f"Only {new.name} grants, or grants more of:", *_table(more, width)]
    if less:
        lines += [*([""] if more else []), f"Only {old.name} grants, or grants more of:", *_table(less, width)]
    return "\n".join(map(printable, lines))


def _table(findings: list[Finding], width: int) -> list[str]:
    lines: list[str] = []
    for finding in findings:
        head = f"{finding.topic} {finding.subject}"
        said = finding.text if any(text for _, text in finding.items) else f"{head}: {finding.text}"
        if said == finding.text:
            said = f"{finding.topic}: {said}"
        wrapped = _wrapped(said, " " * 12, width)
        lines.append(f"  {finding.level:<10}{wrapped[0].lstrip()}")
        lines += wrapped[1:]
        where = f"{finding.pointer}: {finding.hint}" if finding.hint else finding.pointer
        lines += _wrapped(f"-> {where}", " " * 12, width)
    return lines


def _wrapped(words: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


# As JSON


def document(explanation: Explanation) -> dict[str, Any]:
    return {
        "name": explanation.name,
        "program": explanation.program,
        "worst": explanation.worst,
        "granted": [_finding(each) for each in explanation.granted],
        "withheld": [each._asdict() for each in explanation.withheld],
        **({"now": explanation.now} if explanation.now else {}),
    }


def document_of_two(new: Explanation, old: Explanation) -> dict[str, Any]:
    more, less = compare(new, old)
    return {
        "name": new.name,
        "beside": old.name,
        "worst": more[0].level if more else "note",
        "more": [_finding(each) for each in more],
        "less": [_finding(each) for each in less],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    found = finding._asdict()
    found["items"] = [name for name, _ in finding.items]
    if not found["items"]:
        del found["items"]
    return found

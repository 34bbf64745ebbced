"""Findings in order, and as text or JSON; two configurations side by side."""

import textwrap
from typing import Any, NamedTuple

from pyrunc.errors import printable
from pyrunc.explain import files, limits, rights, system_calls, walls
from pyrunc.explain.finding import LEVELS, VERDICTS, Finding, Withheld
from pyrunc.explain.subject import Subject
from pyrunc.spec.types import Config

PARTS = (rights, files, system_calls, walls)
LABELS = {"limit": "no limit on", "namespace": "the host's namespace"}  # words for topics that alone say too little
SHOWN = 12  # things of a kind that are listed


class Explanation(NamedTuple):
    """What is said of one configuration.

    Attributes:
        name: that of the file or the container.
        program: what it runs, and as whom.
        granted: the findings, worst first.
        now: what the kernel says of the first process, if the container runs.
        limits: name -> value.
    """

    name: str
    program: str
    granted: list[Finding]
    withheld: list[Withheld]
    now: list[str]
    limits: dict[str, str]

    @property
    def worst(self) -> str:
        return self.granted[0].level if self.granted else "note"


class Comparison(NamedTuple):
    """How a new configuration differs from an old one.

    Attributes:
        more, less: what the new one grants that the old one does not, or grants less of; and the other way round.
        held, lost: what the new one withholds and the old one does not; and the other way round.
        changed: what both have, but not alike: (its name, the new one's words, the old one's words).
    """

    more: list[Finding]
    less: list[Finding]
    held: list[Withheld]
    lost: list[Withheld]
    changed: list[tuple[str, str, str]]

    @property
    def is_nothing(self) -> bool:
        return not any(self)


def explain(
    config: Config, name: str, now: "list[str] | None" = None, rootless: bool = False, base: str = ""
) -> Explanation:
    subject = Subject(config, rootless, base)
    granted = [finding for part in PARTS for finding in part.granted(subject)]
    held = [each for part in (walls, rights, system_calls, files) for each in part.withheld(subject)]
    granted.sort(key=lambda finding: finding.rank)
    return Explanation(name, _program(subject), granted, held, now or [], limits.of(subject))


def _program(subject: Subject) -> str:
    words = " ".join(subject.process.get("args") or ["nothing"])
    user = subject.process.get("user") or {}
    who = "root" if subject.is_root else f"user {user['uid']}"
    return f"{words:.120} as {who}"


def compare(new: Explanation, old: Explanation) -> Comparison:
    held = {(each.topic, each.subject) for each in new.withheld}
    before = {(each.topic, each.subject) for each in old.withheld}
    return Comparison(
        _beyond(new.granted, old.granted),
        _beyond(old.granted, new.granted),
        [each for each in new.withheld if (each.topic, each.subject) not in before],
        [each for each in old.withheld if (each.topic, each.subject) not in held],
        _changed(new, old),
    )


def _changed(new: Explanation, old: Explanation) -> list[tuple[str, str, str]]:
    """Limits that differ, and things with the same level, or withheld by both, whose words differ."""
    found = []
    for name in sorted({*new.limits, *old.limits}):
        ours, theirs = new.limits.get(name, "none"), old.limits.get(name, "none")
        if ours != theirs:
            found.append((name, ours, theirs))
    for these, those in ((_words(new.granted), _words(old.granted)), (_held(new.withheld), _held(old.withheld))):
        for key in these:
            if key in those and these[key] != those[key]:
                found.append((" ".join(key[:2]), "; ".join(these[key]), "; ".join(those[key])))
    return found


def _words(findings: list[Finding]) -> dict[tuple[str, str, str], list[str]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in findings:
        for name, text in each.items or ((each.subject, ""),):
            found.setdefault((each.topic, name, each.level), []).append(text or each.text)
    return found


def _held(withheld: list[Withheld]) -> dict[tuple[str, str, str], list[str]]:
    return {(each.topic, each.subject, ""): [each.text] for each in withheld if each.topic != "limit"}


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
    lines = [*_wrapped(f"{explanation.name}: {explanation.program}", "", width), *verdict, ""]
    lines += ["Granted, worst first:", *_table(explanation.granted, width)]
    if explanation.withheld:
        lines += ["", "Withheld:", *_list(explanation.withheld, width)]
    if explanation.now:
        lines += ["", "Now:", *(line for each in explanation.now for line in _wrapped(each, "  ", width))]
    return "\n".join(map(printable, lines))


def text_of_two(new: Explanation, old: Explanation, width: int) -> str:
    found = compare(new, old)
    lines = _wrapped(f"{new.name}: {new.program}", "", width)
    lines += _wrapped(f"beside {old.name}: {old.program}", "", width)
    if found.is_nothing:
        return "\n".join(map(printable, [*lines, "", "Both grant and withhold the same, with the same limits."]))
    changed = [
        line
        for what, ours, theirs in found.changed
        for line in _wrapped(f"{what}: {ours}; of {old.name}: {theirs}", "  ", width)
    ]
    for head, part in (
        (f"Only {new.name} grants, or grants more of:", _table(found.more, width)),
        (f"Only {old.name} grants, or grants more of:", _table(found.less, width)),
        (f"Only {new.name} withholds:", _list(found.held, width)),
        (f"Only {old.name} withholds:", _list(found.lost, width)),
        (f"Otherwise, of {new.name}:", changed),
    ):
        if part:
            lines += ["", *_wrapped(head, "", width), *part]
    return "\n".join(map(printable, lines))


def _list(withheld: list[Withheld], width: int) -> list[str]:
    return [line for each in withheld for line in _wrapped(each.text, "  ", width)]


def _table(findings: list[Finding], width: int) -> list[str]:
    """Findings as lines. A hint that several in a row share is printed once, after the last of them."""
    lines: list[str] = []
    for number, finding in enumerate(findings):
        wrapped = _wrapped(_said(finding), " " * 12, width)
        lines.append(f"  {finding.level:<10}{wrapped[0].lstrip()}")
        lines += wrapped[1:]
        following = findings[number + 1] if number + 1 < len(findings) else None
        if following is None or _way_out(following) != _way_out(finding):
            lines += _wrapped(f"-> {_way_out(finding)[1]}", " " * 12, width)
    return lines


def _way_out(finding: Finding) -> tuple[str, str]:
    return finding.level, f"{finding.pointer}: {finding.hint}" if finding.hint else finding.pointer


def _said(finding: Finding) -> str:
    label = LABELS.get(finding.topic, finding.topic)
    names = [name for name, _ in finding.items] or [finding.subject]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN + 1 else ""
    if not any(text for _, text in finding.items):
        return f"{label} {', '.join(names[:SHOWN] if more else names)}{more}: {finding.text}"
    return f"{label} {finding.text}" if finding.topic in LABELS else f"{label}: {finding.text}"


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
        "limits": explanation.limits,
        **({"now": explanation.now} if explanation.now else {}),
    }


def document_of_two(new: Explanation, old: Explanation) -> dict[str, Any]:
    found = compare(new, old)
    return {
        "name": new.name,
        "beside": old.name,
        "worst": found.more[0].level if found.more else "note",
        "more": [_finding(each) for each in found.more],
        "less": [_finding(each) for each in found.less],
        "held": [each._asdict() for each in found.held],
        "lost": [each._asdict() for each in found.lost],
        "changed": [{"what": what, "new": ours, "old": theirs} for what, ours, theirs in found.changed],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    found = finding._asdict()
    found["items"] = [name for name, _ in finding.items]
    if not found["items"]:
        del found["items"]
    return found

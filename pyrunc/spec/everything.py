"""Everything that is wrong with a config.json at once, for `pyrunc validate`.

Reports by schema and by rules stand side by side: rules are for documents of the right shape, so that what the schema
refuses is cut out of a copy first, and the rules see the rest. Besides: members that nobody knows, which the
specification wants ignored, but which are mistakes where they look like one that is known.
"""

import copy
import difflib
from collections.abc import Iterable
from typing import Any

from pyrunc.spec import _checker, lenient, report, rules
from pyrunc.spec.report import Path_, Problem
from pyrunc.spec.schema import expanded

TOLERATED = "create takes this nevertheless, as other runtimes do"
TRIES = 8  # what is cut out may leave something that lacks a member
LIKE = 0.75  # argz and args


class Found:
    """What there is to say of a document, as paths in it.

    Attributes:
        mistakes: what makes it wrong. doubts: what does not.
    """

    def __init__(self, document: object) -> None:
        self.mistakes = [*report.unfit_strings(document), *misspelt_capabilities(document)]
        strict = [] if _checker.config(document) else report.against_schema(document, "config")
        likely, unknown = unknown_members(document)
        tolerated = lenient.tolerated(document)
        fatal = [] if _checker.config(tolerated) else report.against_schema(tolerated, "config")
        self.mistakes += [each if each in fatal else each._replace(hint=TOLERATED) for each in strict]
        self.mistakes += likely
        self.doubts = unknown
        rest = Rest(tolerated)
        if rest.is_valid:
            self.mistakes += rest.heard(rules.config(rest.document))
            told = rest.heard(rules.warnings(rest.document))
            self.doubts += [each for each in told if not each.cause.startswith("unknown capability")]


def given_twice(text: str) -> list[Problem]:
    """Members of one name: parsers differ in which they take, and readers see the first."""
    twice: list[Path_] = []
    report.positions(text, twice)
    return [Problem(path, "it is given twice: the last counts") for path in dict.fromkeys(twice)]


class Rest:
    """A document without what its schema refuses.

    Attributes:
        cut: where something was cut out, as paths in the original.
    """

    def __init__(self, document: object) -> None:
        self.document: Any = copy.deepcopy(document)
        self.cut: list[Path_] = []
        self.gone: dict[Path_, list[int]] = {}  # of a list, by its path in the original: which items
        for _ in range(TRIES):
            if _checker.config(self.document):
                break
            paths = {problem.path for problem in report.against_schema(self.document, "config")}
            for path in sorted(paths, key=_last_items_first, reverse=True):
                self._cut(path)
        self.is_valid = _checker.config(self.document)

    def _cut(self, path: Path_) -> None:
        if not path:
            if isinstance(self.document, dict):  # the one thing that a document must have
                self.document["ociVersion"] = "1.0.0"
            return
        original = self.original(path)
        place: Any = self.document
        try:
            for step in path[:-1]:
                place = place[step]
            del place[path[-1]]
        except (KeyError, IndexError, TypeError):
            return  # it went with what it was in
        self.cut.append(original)
        if isinstance(path[-1], int):
            self.gone.setdefault(original[:-1], []).append(original[-1])  # type: ignore[arg-type]

    def original(self, path: Path_) -> Path_:
        """A path of the rest as it is in the whole."""
        whole: Path_ = ()
        for step in path:
            if isinstance(step, int):
                for index in sorted(self.gone.get(whole, ())):
                    step += index <= step
            whole = (*whole, step)
        return whole

    def heard(self, found: Iterable[rules.Problem]) -> list[Problem]:
        """What rules say, but for what they say only because something was cut out."""
        problems = [each._replace(path=self.original(each.path)) for each in report.against_rules([*found])]
        return [each for each in problems if not any(self._follows(each, path) for path in self.cut)]

    def _follows(self, problem: Problem, cut: Path_) -> bool:
        if cut[:2] == ("linux", "namespaces") and "namespace" in problem.cause:
            return True
        short = min(len(cut), len(problem.path))
        return cut[:short] == problem.path[:short]


def _last_items_first(path: Path_) -> "tuple[tuple[bool, int, str], ...]":
    return tuple((isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in path)


def unknown_members(document: object) -> "tuple[list[Problem], list[Problem]]":
    """Those that look like a known one, and the others."""
    likely: list[Problem] = []
    unknown: list[Problem] = []
    left: list[tuple[Path_, object, Any]] = [((), document, expanded(report.FOLDER, "config"))]
    while left:
        path, value, schema = left.pop()
        if isinstance(value, list):
            left += [((*path, index), item, schema.get("items", {})) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            continue
        known = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        for name, member in value.items():
            if name in known or isinstance(others, dict):
                left.append(((*path, name), member, known.get(name, others)))
            elif known and not schema.get("patternProperties"):
                close = like(name, known)
                if close and close not in value:
                    likely.append(Problem((*path, name), f'no member is called "{name}"', f"is it {close}?"))
                else:
                    unknown.append(Problem((*path, name), "the specification has no such member: it is ignored"))
    return likely, unknown


def misspelt_capabilities(document: object) -> list[Problem]:
    """config.md, capabilities: names that no kernel has are ignored, which is not what who wrote them wants."""
    process = document.get("process") if isinstance(document, dict) else None
    sets = process.get("capabilities") if isinstance(process, dict) else None
    found = []
    for kind, names in sets.items() if isinstance(sets, dict) else ():
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and name.upper() not in rules.CAPABILITIES:
                path: Path_ = ("process", "capabilities", kind, index)
                found.append(Problem(path, f'no kernel has a capability "{name}"', guess(name, rules.CAPABILITIES)))
    return found


def guess(name: str, known: Iterable[str]) -> str:
    """A hint: what was meant, or what happens."""
    close = like(name, known)
    return f"is it {close}? {TOLERATED}" if close else TOLERATED


def like(name: str, known: Iterable[str]) -> str:
    """The known name that a name looks like, whatever the case of its letters, or ""."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, LIKE)
    return by_lower[close[0]] if close else ""

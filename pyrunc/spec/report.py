"""What is wrong with a configuration, in words: where, what was expected, what was found, and what to do.

    config.json:41:17 /linux/resources/memory/limit: expected an integer, found "512m"; the unit is bytes

It is imported once something is refused, or by `pyrunc validate`: off the path it may import jsonschema and its
dependencies (263 M instructions). The schemas are those that the checker is compiled from. Their
descriptions are written for this: what follows "; " in one is the hint of an error there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyrunc.errors import ConfigError, printable
from pyrunc.spec import jsonc, rules
from pyrunc.spec.schema import expanded

INSTALLED = Path(__file__).parent / "schemas"
SOURCE_TREE = Path(__file__).parents[2] / "oci-spec-schemas"
FOLDER = INSTALLED if INSTALLED.is_dir() else SOURCE_TREE
LONGEST = 60  # characters of a value that a message shows

Path_ = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong, at `path` in the document."""

    path: Path_
    cause: str
    hint: str = ""


TYPES = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


# Finding what is wrong


def against_schema(document: object, kind: str) -> list[Problem]:
    """Everything in `document` that its schema refuses; `kind` is one of schema.ENTRIES."""
    try:
        import jsonschema  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return [Problem((), f"it does not follow the schema of {kind}", "install jsonschema to be told why")]

    def ecma_pattern(_: object, pattern: str, text: object, __: object) -> Iterator[Any]:
        # JSON Schema's patterns are ECMA 262's, where $ is the very end. In Python a line feed may follow.
        if isinstance(text, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), text):
            yield jsonschema.ValidationError("")

    validator = jsonschema.validators.extend(jsonschema.Draft4Validator, {"pattern": ecma_pattern})
    errors = validator(expanded(FOLDER, kind)).iter_errors(document)
    problems = [Problem(tuple(error.absolute_path), *_words(error)) for error in errors]
    return problems or [Problem((), f"it does not follow the schema of {kind}")]


def _words(error: Any) -> tuple[str, str]:
    """The cause and the hint of one of jsonschema's errors."""
    found = shown(error.instance)
    hint = str(error.schema.get("description", "")).partition("; ")[2]
    keyword, value = error.validator, error.validator_value
    match keyword:
        case "type":
            expected = TYPES[value]
        case "enum":
            expected = f"one of {', '.join(value)}"
            if isinstance(error.instance, str):
                found += _close_to(error.instance, value)
        case "required":
            missing = next(name for name in value if f"'{name}'" in error.message)
            return f'expected a member "{missing}", found none', hint
        case "minimum" | "maximum":
            least, most = error.schema.get("minimum"), error.schema.get("maximum")
            expected = f"{least} or more" if most is None else f"{least} to {most}"
        case "pattern":
            expected = f"text that matches {value}"
        case "minItems":
            expected = f"a list of {value} or more"
        case _:
            return str(error.message), hint
    return f"expected {expected}, found {found}", hint


def _close_to(value: str, allowed: list[str]) -> str:
    """A guess at what was meant."""
    import difflib

    close = difflib.get_close_matches(value, allowed, 1)
    return f" (is it {close[0]}?)" if close else ""


def against_rules(found: list[rules.Problem]) -> list[Problem]:
    """What rules.py found, with paths in place of pointers."""
    return [Problem(_path(pointer), cause, hint) for pointer, cause, hint in found]


UNREAD = ("annotations", "listenerMetadata")  # handed on: never a path, an argument or a variable


def unfit_strings(document: object) -> list[Problem]:
    """Strings that the kernel can't be given: they have a NUL inside, or half of a surrogate pair."""
    problems: list[Problem] = []
    left: list[tuple[Path_, object]] = [((), document)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left += [((*path, name), member) for name, member in reversed(value.items())]
            problems += [Problem(path, f"a member's name: {cause}") for cause in map(_unfit, value) if cause]
        elif isinstance(value, list):
            left += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]
        elif (
            isinstance(value, str)
            and (cause := _unfit(value))
            and not (cause == NUL and any(name in path for name in UNREAD))
        ):
            problems.append(Problem(path, cause))
    return problems


NUL = "NUL (\\u0000) can't be part of a path, an argument or a variable"


def _unfit(text: str) -> str:
    if "\0" in text:
        return NUL
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x} is half of a character"
    return ""


# Saying it


def error(name: str, text: str, problems: list[Problem]) -> ConfigError:
    """One error for all that is wrong: the first thing, and how much more there is."""
    first = sorted(lines(name, text, problems), key=lambda line: line.offset)[0]
    more = f"(and {len(problems) - 1} more: pyrunc validate lists all)" if len(problems) > 1 else ""
    hint = " ".join(part for part in (first.hint, more) if part and first.hint)
    cause = first.cause if first.hint else " ".join(part for part in (first.cause, more) if part)
    return ConfigError(first.where, first.pointer, cause, hint)


class Line(NamedTuple):
    """A problem with its place in the file."""

    offset: int
    where: str
    pointer: str
    cause: str
    hint: str

    def __str__(self) -> str:
        return str(ConfigError(self.where, self.pointer, self.cause, self.hint))


def lines(name: str, text: str, problems: list[Problem]) -> list[Line]:
    """`problems` with line and column. A place is that of a value, counted from 1, in characters."""
    offsets = positions(text)
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    placed = []
    for problem in problems:
        path = problem.path
        while path not in offsets:  # the document's root is always there
            path = path[:-1]
        offset = offsets[path]
        line = _last_not_above(starts, offset)
        where = f"{name}:{line + 1}:{offset - starts[line] + 1}"
        subject, cause = printable(pointer(problem.path)), printable(problem.cause)
        placed.append(Line(offset, where, subject, cause, problem.hint))
    return placed


def _last_not_above(starts: list[int], offset: int) -> int:
    import bisect

    return bisect.bisect_right(starts, offset) - 1


TOKEN = re.compile(r'[ \t\n\r]*([{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+)')


def positions(text: str, twice: "list[Path_] | None" = None) -> dict[Path_, int]:
    """Where each value of a JSON text starts. The text has been parsed before: it is known to be correct.

    A stack instead of recursion, so that no nesting is too deep. A name given twice counts where it is last; `twice`
    gets the paths of such.
    """
    offsets: dict[Path_, int] = {(): 0}
    stack: list[str | int] = []  # the path of the value that comes next
    containers: list[str] = []  # "{" or "[" around it
    name_is_next = False
    for token in TOKEN.finditer(text):
        symbol = token[1]
        if symbol in ("}", "]"):
            containers.pop()
            stack.pop()
            name_is_next = False
        elif symbol == ",":
            name_is_next = containers[-1] == "{"
            if not name_is_next:
                stack[-1] = int(stack[-1]) + 1
        elif symbol == ":":
            name_is_next = False
        elif name_is_next:
            stack[-1] = str(jsonc.loads(symbol))
        else:
            if twice is not None and stack and tuple(stack) in offsets:
                twice.append(tuple(stack))
            offsets[tuple(stack)] = token.start(1)
            if symbol in ("{", "["):
                containers.append(symbol)
                stack.append(0)
                name_is_next = symbol == "{"
    return offsets


def pointer(path: Path_) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _path(text: str) -> Path_:
    """The path of a JSON pointer. What looks like an index is one: no rule points at a member so called."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]
    return tuple(int(step) if step.isdecimal() else step for step in steps)


def shown(value: object) -> str:
    """A value, briefly."""
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "[]"
    text = jsonc.dumps_pretty(value) if value is None or isinstance(value, (bool, str)) else repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"

"""Translate the patterns of the schemas to conditions in Python, at build time, so that no checker needs `re`.

Such a pattern has one repeated class of characters at most, and single characters before and behind it. Any other
pattern ends the build.
"""

import json
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NoReturn

from pyrunc.spec.schema import Unsupported


def matches(pattern: str, value: str) -> str:
    """A condition equal to a search for `pattern` in `value`, as ECMA 262 reads it (`$` is the very end)."""
    tokens = list(_parser.parse(pattern))
    if [_characters(token) for token in tokens] == [("\n", True)]:
        return f'{value}.strip("\\n")'
    if len(tokens) < 2 or tokens[0] != (sre.AT, sre.AT_BEGINNING) or tokens[-1] != (sre.AT, sre.AT_END):
        _refuse(pattern)
    tokens = tokens[1:-1]
    repeats = [index for index, (operation, _) in enumerate(tokens) if operation is sre.MAX_REPEAT]
    if len(repeats) > 1:
        _refuse(pattern)
    if not repeats:
        ones = [_one(token, f"{value}[{index}]", pattern) for index, token in enumerate(tokens)]
        return " and ".join([f"len({value}) == {len(tokens)}", *ones])
    before, behind = tokens[: repeats[0]], tokens[repeats[0] + 1 :]
    least, most, repeated = tokens[repeats[0]][1]
    if most is not sre.MAXREPEAT or len(repeated) != 1:
        _refuse(pattern)
    shortest = len(before) + least + len(behind)
    conditions = [f"len({value}) >= {shortest}"] if shortest else []
    prefix = _literal(before)
    if prefix:
        conditions.append(f"{value}.startswith({quoted(prefix)})")
    else:
        conditions += [_one(token, f"{value}[{index}]", pattern) for index, token in enumerate(before)]
    conditions += [_one(token, f"{value}[{i}]", pattern) for i, token in enumerate(behind, -len(behind))]
    middle = f"{value}[{len(before) or ''}:{-len(behind) or ''}]" if before or behind else value
    characters, negated = _characters(repeated[0]) or _refuse(pattern)
    if negated:
        conditions += [f"{quoted(character)} not in {middle}" for character in characters]
    else:
        conditions.append(f"not {middle}.strip({quoted(characters)})")
    return " and ".join(conditions)


def _one(token: Any, value: str, pattern: str) -> str:
    """A condition on one character."""
    characters, negated = _characters(token) or _refuse(pattern)
    return f"{value} {'not in' if negated else 'in'} {quoted(characters)}"


def _literal(tokens: list[Any]) -> str:
    """The text that `tokens` spell, if they spell one."""
    if all(operation is sre.LITERAL for operation, _ in tokens):
        return "".join(chr(code) for _, code in tokens)
    return ""


def _characters(token: Any) -> tuple[str, bool] | None:
    """The characters that a token stands for, or with True all others; None for a token of another kind."""
    operation, argument = token
    if operation is sre.LITERAL:
        return chr(argument), False
    if operation is sre.NOT_LITERAL:
        return chr(argument), True
    if operation is sre.ANY:
        return "\n", True
    if operation is sre.MAX_REPEAT and argument[:2] == (1, sre.MAXREPEAT) and len(argument[2]) == 1:
        return _characters(argument[2][0])  # where it is searched for, once is as good as more
    if operation is not sre.IN:
        return None
    negated = argument[0] == (sre.NEGATE, None)
    characters = ""
    for kind, what in argument[negated:]:
        if kind is sre.LITERAL:
            characters += chr(what)
        elif kind is sre.RANGE:
            characters += "".join(map(chr, range(what[0], what[1] + 1)))
        else:
            return None
    return characters, negated


def _refuse(pattern: str) -> NoReturn:
    raise Unsupported(f"the pattern {pattern}")


def quoted(value: str) -> str:
    return json.dumps(value)

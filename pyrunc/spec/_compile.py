"""Compile the JSON Schemas of oci-spec-schemas/ to Python, at build time: _compile.py SCHEMAS OUTPUT REST.

The result says yes or no, fast and without an import: no regular expression, no table to build. What is wrong
with a document that it refuses is then told by jsonschema, from the same schemas (report.py), off the path.
Loading code costs more than running it, so that what create needs is one module, OUTPUT, and REST another,
which is imported for the rare document that has another platform's object in it.

Compiled is the part of draft 4 that our schemas use, for values as json.loads makes them: an integer is an
int that is no bool, and 1.0 is none. Whatever else a schema may say ends the build: nothing is left out in
silence.
"""

import sys

if __name__ == "__main__":  # types.py beside this script must not stand in for the standard library's
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("spec")]

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NoReturn

Schema = dict[str, Any]

ENTRIES = {
    "config": ("config-schema.json", ""),
    "process": ("config-schema.json", "/definitions/process"),  # what exec --process reads
    "resources": ("config-linux.json", "/resources"),  # what update --resources reads
}
REST = {
    "state": ("state-schema.json", ""),
    "features": ("features-schema.json", ""),
    "solaris": ("config-solaris.json", "/solaris"),  # these five are members of config
    "windows": ("config-windows.json", "/windows"),
    "vm": ("config-vm.json", "/vm"),
    "zos": ("config-zos.json", "/zos"),
    "freebsd": ("config-freebsd.json", "/freebsd"),
}

HEADER = '''\
"""Does a document follow its schema? Generated from oci-spec-schemas/ by _compile.py: edit those."""


def strings(value):
    if value.__class__ is not list:
        return False
    for item in value:
        if item.__class__ is not str:
            return False
    return True
'''

STRINGS = {"type": "array", "items": {"type": "string"}}

KEYWORDS = {
    "string": {"enum", "pattern"},
    "integer": {"minimum", "maximum"},
    "boolean": set(),
    "array": {"items", "minItems"},
    "object": {"properties", "required", "additionalProperties", "patternProperties"},
}


class Unsupported(Exception):
    """A schema says something that this compiler doesn't translate."""


# Reading: a schema as one tree, without references.


@functools.cache
def expanded(folder: Path, entry: str) -> Schema:
    """The schema called `entry`, every `$ref` replaced by what it refers to. Read once: not to be changed.

    A description beside a `$ref` takes the place of the other's; all else there draft 4 ignores too.
    """
    name, pointer = {**ENTRIES, **REST}[entry]
    return _Reader(folder).resolve(name, pointer, ())


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}

    def resolve(self, name: str, pointer: str, within: tuple[str, ...]) -> Schema:
        """The schema at `pointer` in the file `name`; `within` are the references being resolved."""
        reference = f"{name}#{pointer}"
        if reference in within:
            raise Unsupported(f"{reference} contains itself")
        if name not in self.files:
            self.files[name] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        node = self.files[name]
        for step in pointer.split("/")[1:]:
            node = node[step]
        schema: Schema = self.expand(node, name, (*within, reference))
        return schema

    def expand(self, node: Any, name: str, within: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self.expand(item, name, within) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            other, _, pointer = node["$ref"].partition("#")
            target = self.resolve(other or name, pointer, within)
            return {**target, "description": node["description"]} if "description" in node else target
        return {key: self.expand(value, name, within) for key, value in node.items() if key != "definitions"}


# Writing: a function for an object, lines inside it for all else.


class _Writer:
    def __init__(self) -> None:
        self.functions: dict[str, str] = {}  # a schema's text -> the function's name
        self.bodies: list[str] = []
        self.enums: dict[tuple[str, ...], str] = {}

    def function(self, schema: Schema, path: tuple[str, ...]) -> str:
        """The name of a function that tells whether its argument follows `schema`."""
        if schema == STRINGS:
            return "strings"
        text = json.dumps(schema, sort_keys=True)
        if text not in self.functions:
            wanted = "_".join(path[-2:])
            name = wanted if wanted not in self.functions.values() else "_".join(path)
            if name in self.functions.values():
                raise Unsupported(f"two functions would be called {name}")
            self.functions[text] = name
            lines = self.object_lines(schema, path)
            body = [f"def {name}(value):", *("    " + line for line in lines), "    return True"]
            self.bodies.append("\n".join(line.rstrip() for line in body))
        return self.functions[text]

    def object_lines(self, schema: Schema, path: tuple[str, ...]) -> list[str]:
        wrong = " or ".join(
            ["value.__class__ is not dict", *(f"{_text(name)} not in value" for name in schema.get("required", ()))]
        )
        lines = [f"if {wrong}:", "    return False"]
        for name, member in schema.get("properties", {}).items():
            if path == ("config",) and name in REST:
                lines += [
                    f"if {_text(name)} in value:",
                    "    from pyrunc.spec import _checker_rest",
                    "",
                    f"    if not _checker_rest.{name}(value[{_text(name)}]):",
                    "        return False",
                ]
            elif simple := self.simple(member, f"value[{_text(name)}]"):
                lines += [f"if {_text(name)} in value and {simple}:", "    return False"]
            else:
                lines += [
                    f"if {_text(name)} in value:",
                    f"    item = value[{_text(name)}]",
                    *self.indented(member, "item", (*path, name)),
                ]
        if schema.get("additionalProperties"):
            if "properties" in schema:
                raise Unsupported(f"{path}: additionalProperties beside properties")
            lines += [
                "for item in value.values():",
                *self.indented(schema["additionalProperties"], "item", (*path, "each")),
            ]
        for pattern, member in schema.get("patternProperties", {}).items():
            refused = self.simple(member, "item")
            if not refused:
                raise Unsupported(f"{path}: patternProperties of anything but simple values")
            lines += [
                "for name, item in value.items():",
                f"    if {refused} and {matches(pattern, 'name')}:",
                "        return False",
            ]
        return lines

    def indented(self, schema: Schema, value: str, path: tuple[str, ...]) -> list[str]:
        return ["    " + line for line in self.lines(schema, value, path)]

    def lines(self, schema: Schema, value: str, path: tuple[str, ...]) -> list[str]:
        """Lines that return False where the local variable `value` doesn't follow `schema`."""
        kind = schema["type"]
        if kind == "array" and schema != STRINGS:
            return self.array_lines(schema, value, path)
        if kind == "object" or kind == "array":
            return [f"if not {self.function(schema, path)}({value}):", "    return False"]
        wrong = [f"{value}.__class__ is not {PYTHON[kind]}", *self.conditions(schema, value)]
        return [f"if {' or '.join(wrong)}:", "    return False"]

    def array_lines(self, schema: Schema, value: str, path: tuple[str, ...]) -> list[str]:
        wrong = f"{value}.__class__ is not list"
        if "minItems" in schema:
            wrong += f" or len({value}) < {schema['minItems']}"
        lines = [f"if {wrong}:", "    return False"]
        items = schema.get("items", [])
        if isinstance(items, dict):
            lines += [f"for each in {value}:", *self.indented(items, "each", path)]
        else:
            for index, item in enumerate(items):
                lines += [
                    f"if len({value}) > {index}:",
                    f"    each = {value}[{index}]",
                    *self.indented(item, "each", (*path, str(index))),
                ]
        return lines

    def simple(self, schema: Schema, value: str) -> str:
        """A condition, true of what is refused, that looks at `value` once; "" where there is more to say."""
        check(schema)
        wanted = {key for key in schema if key != "type"}
        if wanted or schema["type"] not in PYTHON:
            return ""
        return f"{value}.__class__ is not {PYTHON[schema['type']]}"

    def conditions(self, schema: Schema, value: str) -> list[str]:
        """What is refused beside the wrong type, in an order that `or` may follow."""
        refused = []
        if "minimum" in schema and "maximum" in schema:
            refused.append(f"not {schema['minimum']} <= {value} <= {schema['maximum']}")
        elif "minimum" in schema:
            refused.append(f"{value} < {schema['minimum']}")
        elif "maximum" in schema:
            refused.append(f"{value} > {schema['maximum']}")
        if "enum" in schema:
            refused.append(f"{value} not in {self.enum(schema['enum'])}")
        if "pattern" in schema:
            refused.append(f"not ({matches(schema['pattern'], value)})")
        return refused

    def enum(self, values: list[str]) -> str:
        """The name of a set."""
        return self.enums.setdefault(tuple(sorted(values)), f"ENUM_{len(self.enums)}")


PYTHON = {"string": "str", "integer": "int", "boolean": "bool"}


def check(schema: Schema) -> None:
    """Refuse what isn't compiled."""
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in KEYWORDS:
        raise Unsupported(f"a schema of type {kind!r}")
    if unknown := set(schema) - KEYWORDS[kind] - {"type"}:
        raise Unsupported(f"{', '.join(sorted(unknown))} for a schema of type {kind}")
    if not all(isinstance(value, str) for value in schema.get("enum", ())):
        raise Unsupported("an enum of anything but strings")
    parts = [
        schema.get("items", []),
        schema.get("additionalProperties", []),
        *schema.get("properties", {}).values(),
        *schema.get("patternProperties", {}).values(),
    ]
    for part in parts:
        for each in part if isinstance(part, list) else [part]:
            check(each)


def bare(node: Any, *, names: bool = False) -> Any:
    """A schema without the words for its readers. `names`: the keys of `node` are members, not keywords."""
    if isinstance(node, list):
        return [bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: bare(value, names=key in {"properties", "patternProperties"} and not names)
        for key, value in node.items()
        if names or key not in {"description", "$schema"}
    }


# Patterns: one repeated class of characters at most, with single characters before and behind it.


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
        conditions.append(f"{value}.startswith({_text(prefix)})")
    else:
        conditions += [_one(token, f"{value}[{index}]", pattern) for index, token in enumerate(before)]
    conditions += [_one(token, f"{value}[{i}]", pattern) for i, token in enumerate(behind, -len(behind))]
    middle = f"{value}[{len(before) or ''}:{-len(behind) or ''}]" if before or behind else value
    characters, negated = _characters(repeated[0]) or _refuse(pattern)
    if negated:
        conditions += [f"{_text(character)} not in {middle}" for character in characters]
    else:
        conditions.append(f"not {middle}.strip({_text(characters)})")
    return " and ".join(conditions)


def _one(token: Any, value: str, pattern: str) -> str:
    """A condition on one character."""
    characters, negated = _characters(token) or _refuse(pattern)
    return f"{value} {'not in' if negated else 'in'} {_text(characters)}"


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


def _text(value: str) -> str:
    return json.dumps(value)


def compiled(folder: Path, entries: Iterable[str]) -> str:
    """The text of a module with a function for each of `entries`."""
    writer = _Writer()
    parts_first = [*REST, *reversed(ENTRIES)]  # so that what they share is called after them
    for entry in sorted(entries, key=parts_first.index):
        schema = bare(expanded(folder, entry))
        check(schema)
        writer.function(schema, (entry,))
    enums = [f"{name} = {{{', '.join(map(_text, values))}}}" for values, name in writer.enums.items()]
    return "\n\n\n".join([HEADER.rstrip("\n"), "\n".join(enums), *writer.bodies]) + "\n"


if __name__ == "__main__":
    schemas, output, rest = map(Path, sys.argv[1:])
    output.write_text(compiled(schemas, ENTRIES), encoding="utf-8")
    rest.write_text(compiled(schemas, REST), encoding="utf-8")

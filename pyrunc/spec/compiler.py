"""Compile the JSON Schemas to Python, at build time: python -m pyrunc.spec.compiler SCHEMAS OUTPUT REST.

The result says yes or no, fast and without an import: it has no regular expression and no table to build. Where it
says no, jsonschema tells from the same schemas what is wrong (report.py), off the path.

Loading code costs more than running it. So what create needs is one module, OUTPUT. REST is another, which is imported
for the rare document that has another platform's object in it.

Compiled is the part of draft 4 that our schemas use. Values are those that json.loads makes: an integer is an int that
is no bool, and 1.0 is none. Whatever else a schema may say ends the build: nothing is left out in silence.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyrunc.spec.patterns import matches, quoted
from pyrunc.spec.schema import ENTRIES, REST, Schema, Unsupported, expanded

HEADER = '''\
"""Does a document follow its schema? Generated from oci-spec-schemas/ by pyrunc/spec/compiler.py: edit those."""


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


def compiled(folder: Path, entries: Iterable[str]) -> str:
    """The text of a module with a function for each of `entries`."""
    writer = Writer()
    parts_first = [*REST, *reversed(ENTRIES)]  # so that what they share is called after them
    for entry in sorted(entries, key=parts_first.index):
        schema = bare(expanded(folder, entry))
        check(schema)
        writer.function(schema, (entry,))
    enums = [f"{name} = {{{', '.join(map(quoted, values))}}}" for values, name in writer.enums.items()]
    return "\n\n\n".join([HEADER.rstrip("\n"), "\n".join(enums), *writer.bodies]) + "\n"


# A function for an object, lines inside it for all else.


class Writer:
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
            ["value.__class__ is not dict", *(f"{quoted(name)} not in value" for name in schema.get("required", ()))]
        )
        lines = [f"if {wrong}:", "    return False"]
        for name, member in schema.get("properties", {}).items():
            if path == ("config",) and name in REST:
                lines += [
                    f"if {quoted(name)} in value:",
                    "    from pyrunc.spec import _checker_rest",
                    "",
                    f"    if not _checker_rest.{name}(value[{quoted(name)}]):",
                    "        return False",
                ]
            elif simple := self.simple(member, f"value[{quoted(name)}]"):
                lines += [f"if {quoted(name)} in value and {simple}:", "    return False"]
            else:
                lines += [
                    f"if {quoted(name)} in value:",
                    f"    item = value[{quoted(name)}]",
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


if __name__ == "__main__":
    schemas, output, rest = map(Path, sys.argv[1:])
    output.write_text(compiled(schemas, ENTRIES), encoding="utf-8")
    rest.write_text(compiled(schemas, REST), encoding="utf-8")

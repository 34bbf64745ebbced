"""pyrunc.spec.jsonc against the json package, and what the start-up path imports."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.spec import jsonc
from unit import spec_support

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_is_written_reads_as_it_was(value: object) -> None:
    assert jsonc.loads(jsonc.dumps(value)) == value
    assert jsonc.loads(jsonc.dumps_pretty(value)) == value


@given(values)
def test_it_reads_and_writes_as_json_does(value: object) -> None:
    def plain(text: str) -> str:
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return text

    assert jsonc.loads(" \r\n\t" + json.dumps(value) + "\n") == value
    assert jsonc.dumps(value) == plain(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    assert jsonc.dumps_pretty(value) == plain(json.dumps(value, ensure_ascii=False, indent=2))


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\u', max_size=20))
def test_it_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda _: 1 / 0)
    except ZeroDivisionError:
        return
    except json.JSONDecodeError as error:
        with pytest.raises(jsonc.BadJSON) as refused:
            jsonc.loads(text)
        assert (refused.value.line, refused.value.column) == (error.lineno, error.colno)
    else:
        assert jsonc.loads(text) == expected


# CPython 3.13 speaks of the comma, its predecessors of what they miss after it.
TRAILING_COMMA = (
    (8, "Illegal trailing comma before end of object")
    if sys.version_info >= (3, 13)
    else (9, "Expecting property name enclosed in double quotes")
)


@pytest.mark.parametrize(
    ("text", "line", "column", "cause"),
    [
        ("", 1, 1, "Expecting value"),
        ('{"a": 1,}', 1, *TRAILING_COMMA),
        ('{"a": 1} x', 1, 10, "Extra data"),
        ('["NaN",\n NaN]', 2, 2, "NaN is not JSON"),
        ('{"a":\n\n -Infinity}', 3, 2, "-Infinity is not JSON"),
        ('["\x01"]', 1, 3, "Invalid control character at"),
        ("[" * 100_000, 1, 1, "nested too deeply"),
        ("[1,\n" + "9" * 5000 + "]", 2, 1, "4300 digits"),
        ("\ufeff{}", 1, 1, "BOM"),
    ],
)
def test_an_error_says_where(text: str, line: int, column: int, cause: str) -> None:
    with pytest.raises(jsonc.BadJSON, match="line") as refused:
        jsonc.loads(text)
    assert (refused.value.line, refused.value.column) == (line, column)
    assert cause in refused.value.cause


def test_pretty_is_go_s_marshalindent() -> None:
    value = {"a": [], "b": {}, "c": [1, {"d": None}], "e": "<é&>"}
    assert jsonc.dumps_pretty(value) == (
        '{\n  "a": [],\n  "b": {},\n  "c": [\n    1,\n    {\n      "d": null\n    }\n  ],\n'
        '  "e": "\\u003cé\\u0026\\u003e"\n}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", {"a": object()}])
def test_what_json_has_not_is_not_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsonc.dumps(value)
    with pytest.raises((TypeError, ValueError)):
        jsonc.dumps_pretty(value)


def test_loading_a_configuration_imports_nothing_heavy(tmp_path: Path) -> None:
    """docs/architecture.md: each of these costs as much as a bare interpreter, or more."""
    for name, module in (("_checker", spec_support.checker), ("_checker_rest", spec_support.rest)):
        if getattr(module, "__file__", None) is None:
            pytest.skip(f"pyrunc.spec.{name} has not been built")
    document = {**spec_support.CONFIG, "linux": {"namespaces": [{"type": "uts"}]}}
    descriptor = spec_support.bundle(tmp_path, document)
    program = f"""
import sys
sys.path.insert(0, {str(Path(jsonc.__file__).parents[2])!r})
from pyrunc.spec import load
load.config({descriptor})
print(*sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], pass_fds=[descriptor], capture_output=True, text=True, check=True
    )
    os.close(descriptor)
    heavy = {"json", "re", "os", "enum", "typing", "functools", "collections", "pyrunc.spec.report"}
    assert not heavy & set(answer.stdout.split())

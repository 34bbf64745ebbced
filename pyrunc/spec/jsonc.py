"""JSON without `import json`, by the C scanner and encoder that the json package is built on.

`import json` costs 26 M instructions, mostly for `re`; a bare interpreter costs 16 M (docs/architecture.md).
`_json` is compiled into CPython or beside it, and has what the start-up path needs. It can't say what is wrong
with a text: for that json is imported after all, off the path.
"""

from _json import encode_basestring, make_encoder, make_scanner

WHITESPACE = " \t\n\r"  # RFC 8259, section 2; str.strip() alone would take others too


def _refuse_constant(name: str) -> object:
    """NaN, Infinity and -Infinity are JavaScript, not JSON."""
    raise ValueError(f"{name} is not JSON")


class _Scanning:
    """What make_scanner reads its settings from: those of json.loads, but for the constants."""

    __slots__ = ()
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = _refuse_constant


_scan = make_scanner(_Scanning)  # type: ignore[arg-type]   # typeshed wants a scanner


class BadJSON(ValueError):
    """A text is not JSON: `cause`, at `line` and `column`, both counted from 1."""

    def __init__(self, line: int, column: int, cause: str) -> None:
        super().__init__(f"line {line} column {column}: {cause}")
        self.line = line
        self.column = column
        self.cause = cause


def loads(text: str) -> object:
    """The value that `text` says, or BadJSON."""
    stripped = text.strip(WHITESPACE)
    try:
        value, end = _scan(stripped, 0)
    except RecursionError:
        raise BadJSON(1, 1, "arrays and objects are nested too deeply") from None
    except (StopIteration, ValueError, SystemError):
        # SystemError: the scanner takes its exception from json.decoder, and stumbles if that isn't imported.
        raise _explained(text) from None
    if end != len(stripped):
        raise _explained(text)
    return value


def _explained(text: str) -> BadJSON:
    """Why `text` is not JSON, and where, from the json package."""
    import json
    import re

    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return BadJSON(error.lineno, error.colno, error.msg)
    except ValueError as error:  # a constant, or more digits than int() takes: json doesn't say where
        cause = str(error)
    else:
        cause = "this is not JSON"
    strings_blanked = re.sub(r'"(?:[^"\\]|\\.)*"', lambda string: " " * len(string[0]), text)
    number = re.search(r"NaN|-?Infinity|\d{4301}", strings_blanked)
    offset = number.start() if number else 0
    return BadJSON(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset), cause)


def _refuse_type(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _compact(value: object) -> str:
    return "".join(_encode(value, 0))


# No memo of the containers seen: our values come from JSON or from literals, where no cycle can be.
_encode = make_encoder(None, _refuse_type, encode_basestring, None, ":", ",", False, False, False)


def _escaped(text: str) -> str:
    """As Go's encoder leaves it: safe inside HTML and JavaScript. These characters occur in strings only."""
    for character, escape in ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return text


ESCAPES = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


def dumps(value: object) -> str:
    """`value` on one line, as Go's json.Marshal writes it (members in their order; text not made ASCII)."""
    return _escaped(_compact(value))


def dumps_pretty(value: object, indent: str = "  ") -> str:
    """`value` as Go's json.MarshalIndent writes it: a member a line, empty containers closed at once."""
    parts: list[str] = []
    _write(value, "\n", indent, parts.append)
    return _escaped("".join(parts))


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _write(value: object, newline: str, indent: str, write: "Callable[[str], None]") -> None:
    """Append the text of `value`; `newline` is a line's end and the indentation of what follows it."""
    if isinstance(value, dict) and value:
        separator = "{" + newline + indent
        for key, member in value.items():
            write(separator)
            write(encode_basestring(key))
            write(": ")
            _write(member, newline + indent, indent, write)
            separator = "," + newline + indent
        write(newline + "}")
    elif isinstance(value, (list, tuple)) and value:
        separator = "[" + newline + indent
        for item in value:
            write(separator)
            _write(item, newline + indent, indent, write)
            separator = "," + newline + indent
        write(newline + "]")
    else:
        write(_compact(value))

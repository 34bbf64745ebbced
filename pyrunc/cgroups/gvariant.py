"""GVariant's text format, as far as properties of units need it: 'text', true, 5, uint64 5, 1.5, ['a', 'b'], (1, 'x')

https://docs.gtk.org/glib/gvariant-text-format.html
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "handle": "h", "int64": "x",
    "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
NUMBERS = "ynqiuxtd"
BITS = {
    "y": (0, 8),
    "n": (-15, 15),
    "q": (0, 16),
    "i": (-31, 31),
    "u": (0, 32),
    "h": (0, 32),
    "x": (-63, 63),
    "t": (0, 64),
}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}


def parse(text: str) -> "tuple[str, Any]":
    """(its D-Bus signature, the value). Raises ValueError."""
    reader = _Reader(text)
    found = reader.value("")
    if reader.rest():
        raise ValueError(f"there is more after it: {reader.rest()}")
    return found


class _Reader:
    __slots__ = ("position", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def rest(self) -> str:
        return self.text[self.position :].strip()

    def peek(self) -> str:
        while self.text[self.position : self.position + 1].isspace():
            self.position += 1
        return self.text[self.position : self.position + 1]

    def take(self, wanted: str) -> bool:
        if self.peek() == wanted:
            self.position += 1
            return True
        return False

    def word(self) -> str:
        self.peek()
        start = self.position
        while self.text[self.position : self.position + 1].isalnum() or self.text[
            self.position : self.position + 1
        ] in (*"+-._",):
            self.position += 1
        return self.text[start : self.position]

    def value(self, kind: str) -> "tuple[str, Any]":
        """Read one value.

        Args:
            kind: its signature, where it is known; "" where the text says it.
        """
        next_one = self.peek()
        if next_one == "@":
            self.position += 1
            start = self.position
            while self.peek_raw() not in ("", " "):
                self.position += 1
            return self.value(self.text[start : self.position])
        if next_one in ("'", '"'):
            return self.string(kind)
        if next_one == "[":
            return self.array(kind)
        if next_one == "(":
            return self.tuple(kind)
        word = self.word()
        if word in KEYWORDS:
            return self.value(KEYWORDS[word])
        if word in ("true", "false") and kind in ("", "b"):
            return "b", word == "true"
        return self.number(word, kind)

    def peek_raw(self) -> str:
        return self.text[self.position : self.position + 1]

    def number(self, word: str, kind: str) -> "tuple[str, Any]":
        if kind == "d" or (not kind and ("." in word or ("e" in word and "x" not in word))):
            return "d", float(word)
        if kind and kind not in BITS:
            raise ValueError(f'"{word}" is no value of type {kind}')
        try:
            found = int(word, 0)
        except ValueError:
            raise ValueError(f'"{word}" is no value') from None
        kind = kind or "i"
        low, high = BITS[kind]
        if not (-(1 << -low) if low else 0) <= found < 1 << high:
            raise ValueError(f"{word} is out of range")
        return kind, found

    def string(self, kind: str) -> "tuple[str, str]":
        if kind not in ("", "s", "o", "g"):
            raise ValueError(f"a string is no value of type {kind}")
        quote = self.peek()
        found = ""
        self.position += 1
        while True:
            letter = self.peek_raw()
            self.position += 1
            if letter == quote:
                return kind or "s", found
            if letter == "\\":
                letter = self.peek_raw()
                self.position += 1
                letter = ESCAPES.get(letter, letter)
            if not letter:
                raise ValueError("a string has no end")
            found += letter

    def array(self, kind: str) -> "tuple[str, list[Any]]":
        inner = kind[1:]
        found = []
        self.take("[")
        while not self.take("]"):
            inner, each = self.value(inner)
            found.append(each)
            if not self.take(",") and self.peek() != "]":
                raise ValueError("an array has no end")
        if not inner:
            raise ValueError("the type of an empty array must be said: @as []")
        return f"a{inner}", found

    def tuple(self, _: str) -> "tuple[str, tuple[Any, ...]]":
        signatures, found = "", []
        self.take("(")
        while not self.take(")"):
            signature, each = self.value("")
            signatures += signature
            found.append(each)
            if not self.take(",") and self.peek() != ")":
                raise ValueError("a tuple has no end")
        return f"({signatures})", tuple(found)

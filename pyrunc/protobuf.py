"""Protocol buffers, as much of them as containerd's and CRIU's messages use: a message is a table, its values are a
dictionary.

The library of that name costs 45 ms and 6 MB at import, and containerd runs the shim's program twice a container.
What is read is checked as if it came from an enemy: lengths, numbers, texts, before anything is done.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Kind = int | dict[int, tuple[str, "Kind"]] | list["Kind"]
    Message = dict[int, tuple[str, Kind]]  # number: (name, kind); a list's kind is that of its elements
    Values = dict[str, Any]

STRING, BYTES, BOOL, UINT32, UINT64, INT32, INT64 = range(7)
DEFAULTS = {STRING: "", BYTES: b"", BOOL: False, UINT32: 0, UINT64: 0, INT32: 0, INT64: 0}

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not in proto3
MAX_NUMBER = (1 << 29) - 1


class Malformed(ValueError):
    """These bytes are no message."""


def encode(message: "Message", values: "Mapping[str, Any]", zeros: bool = False) -> bytes:
    """What is missing, None, zero or empty is not written, as proto3 has it.

    Args:
        zeros: write zero and "" too, as proto2 has it: there they are not the same as nothing.
    """
    out = bytearray()
    for number, (name, kind) in message.items():
        value = values.get(name)
        if value is None:
            continue
        if isinstance(kind, list):
            _encode_list(out, number, kind[0], value, zeros)
        elif value or zeros or isinstance(kind, dict):
            _encode_one(out, number, kind, value, zeros)
    return bytes(out)


def _encode_list(out: bytearray, number: int, kind: "Kind", values: "list[Any]", zeros: bool) -> None:
    if isinstance(kind, int) and kind not in (STRING, BYTES):
        if values:
            packed = bytearray()
            for value in values:
                _put(packed, _as_unsigned(value))
            _put_bytes(out, number, packed)
        return
    for value in values:
        _encode_one(out, number, kind, value, zeros)


def _encode_one(out: bytearray, number: int, kind: "Kind", value: "Any", zeros: bool) -> None:
    if isinstance(kind, dict):
        _put_bytes(out, number, encode(kind, value, zeros))
    elif kind == STRING:
        _put_bytes(out, number, value.encode("utf-8", "replace"))
    elif kind == BYTES:
        _put_bytes(out, number, value)
    else:
        _put(out, number << 3 | VARINT)
        _put(out, _as_unsigned(value))


def _as_unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF  # a negative number is ten bytes of two's complement


def _put_bytes(out: bytearray, number: int, data: "bytes | bytearray") -> None:
    _put(out, number << 3 | LENGTH)
    _put(out, len(data))
    out += data


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def decode(message: "Message", data: bytes) -> "Values":
    """All members of the message, with their defaults where they were not sent. Raises Malformed."""
    values = empty(message)
    _merge(message, data, values)
    return values


def empty(message: "Message") -> "Values":
    values: Values = {}
    for name, kind in message.values():
        values[name] = DEFAULTS[kind] if isinstance(kind, int) else [] if isinstance(kind, list) else None
    return values


def _merge(message: "Message", data: bytes, values: "Values") -> None:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if not 0 < number <= MAX_NUMBER:
            raise Malformed(f"{number} is no number of a field")
        value: int | bytes
        if wire == VARINT:
            value, position = _varint(data, position)
        elif wire in (LENGTH, FIXED32, FIXED64):
            size = {FIXED32: 4, FIXED64: 8}.get(wire, 0)
            if wire == LENGTH:
                size, position = _varint(data, position)
            if size > len(data) - position:
                raise Malformed(f"field {number} is cut off")
            value = data[position : position + size]
            position += size
        else:
            raise Malformed(f"field {number} has wire type {wire}")
        if number in message:
            name, kind = message[number]
            _take(values, name, kind, wire, value)


def _take(values: "Values", name: str, kind: "Kind", wire: int, value: "int | bytes") -> None:
    """Of a field that comes twice the last one counts; messages are merged, lists grow."""
    if isinstance(kind, list):
        element = kind[0]
        if isinstance(element, int) and element not in (STRING, BYTES) and isinstance(value, bytes) and wire == LENGTH:
            position = 0
            while position < len(value):
                number, position = _varint(value, position)
                values[name].append(_scalar(element, number, name))
        elif isinstance(element, dict):
            values[name].append(decode(element, _bytes(value, wire, name)))
        else:
            assert isinstance(element, int)
            values[name].append(_scalar(element, value if wire in (VARINT, LENGTH) else None, name))
    elif isinstance(kind, dict):
        if values[name] is None:
            values[name] = empty(kind)
        _merge(kind, _bytes(value, wire, name), values[name])
    else:
        values[name] = _scalar(kind, value if wire in (VARINT, LENGTH) else None, name)


def _bytes(value: "int | bytes", wire: int, name: str) -> bytes:
    if wire != LENGTH or not isinstance(value, bytes):
        raise Malformed(f"{name} is not of its type")
    return value


def _scalar(kind: int, value: "int | bytes | None", name: str) -> "str | bytes | int":
    if kind in (STRING, BYTES):
        if not isinstance(value, bytes):
            raise Malformed(f"{name} is not of its type")
        if kind == BYTES:
            return value
        if b"\0" in value:
            raise Malformed(f"{name} has a NUL in it")  # here every text is a path, a name or a word for people
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed(f"{name} is not UTF-8") from None
    if not isinstance(value, int):
        raise Malformed(f"{name} is not of its type")
    if kind == BOOL:
        return value != 0
    if kind in (UINT32, INT32):
        value &= 0xFFFFFFFF
        return value - (1 << 32) if kind == INT32 and value >> 31 else value
    return value - (1 << 64) if kind == INT64 and value >> 63 else value


def _varint(data: bytes, position: int) -> "tuple[int, int]":
    """A number, and where it ends: seven bits a byte, the lowest first; 64 bits of it count."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise Malformed("it is cut off in a number")
        if shift > 63:
            raise Malformed("a number is longer than ten bytes")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7

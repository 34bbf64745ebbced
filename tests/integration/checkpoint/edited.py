"""CRIU's images, read and written again: two magic numbers, then messages, each behind its length."""

import struct


class Image:
    """A file. `messages` are lists of (number, value), which `save` writes again."""

    def __init__(self, path):
        data = path.read_bytes()
        self.path, self.magic, self.messages = path, data[:8], []
        position = 8
        while position < len(data):
            (size,) = struct.unpack_from("<I", data, position)
            self.messages.append(fields(data[position + 4 : position + 4 + size]))
            position += 4 + size

    def save(self):
        bodies = [joined(message) for message in self.messages]
        self.path.write_bytes(self.magic + b"".join(struct.pack("<I", len(body)) + body for body in bodies))


def changed(message, number, change):
    """With each value of that number as `change` makes it: a number, or of a message within its fields."""
    return [
        (
            each,
            (joined(change(fields(value))) if isinstance(value, bytes) else change(value)) if each == number else value,
        )
        for each, value in message
    ]


def replaced(message, **values):
    """With other values for `_NUMBER`; None takes it away."""
    wanted = {int(name[1:]): value for name, value in values.items()}
    return [(n, v) for n, v in message if n not in wanted] + [(n, v) for n, v in wanted.items() if v is not None]


def fields(data):
    """(number, value) of a message's fields: a number, or bytes."""
    found, position = [], 0
    while position < len(data):
        key, position = varint(data, position)
        if key & 7 == 0:
            value, position = varint(data, position)
        else:
            assert key & 7 == 2
            size, position = varint(data, position)
            value = data[position : position + size]
            position += size
        found.append((key >> 3, value))
    return found


def varint(data, position):
    value = shift = 0
    while True:
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
        shift += 7


def joined(found):
    return b"".join(
        number_of(number << 3) + number_of(value)
        if isinstance(value, int)
        else number_of(number << 3 | 2) + number_of(len(value)) + value
        for number, value in found
    )


def number_of(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])

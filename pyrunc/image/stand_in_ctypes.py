"""What pyseccomp asks of ctypes, over cffi: the image has no ctypes, which is a shared object, but libseccomp is in it.

A library is a table of addresses (linked.c). tests/unit/test_stand_ins.py compiles the same profiles with this and with
the real one.
"""

from pyrunc.image import _linked  # type: ignore[attr-defined,unused-ignore]
from pyrunc.linux._kernel import ffi as _ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Type(type):
    """A C type: `name` as C has it, `size` in bytes, which is its alignment too but for structures and arrays."""

    name: str
    size: int
    alignment: int

    def __mul__(cls, count: int) -> "_Type":
        return _Type(f"{cls.__name__}_Array_{count}", (_Array,), {"of": cls, "count": count, "size": cls.size * count})


class _Value(metaclass=_Type):
    """A value in memory of its own, or in that of the structure or array that it is part of."""

    name = "void"
    size = alignment = 0

    def __init__(self, memory: "Any" = None, offset: int = 0) -> None:
        self.memory = _ffi.new("char[]", max(self.size, 1)) if memory is None else memory
        self.offset = offset

    @property
    def bytes(self) -> "Any":
        return _ffi.buffer(self.memory)[self.offset : self.offset + self.size]

    @property
    def value(self) -> int:
        return int.from_bytes(self.bytes, "little", signed=self.name.startswith("int"))

    @value.setter
    def value(self, value: int) -> None:
        data = value.to_bytes(self.size, "little", signed=self.name.startswith("int"))
        _ffi.buffer(self.memory)[self.offset : self.offset + self.size] = data


def _scalar(name: str, size: int) -> _Type:
    return _Type(name, (_Value,), {"name": name, "size": size, "alignment": size})


c_int = c_int32 = _scalar("int32_t", 4)
c_uint = c_uint32 = _scalar("uint32_t", 4)
c_int64 = _scalar("int64_t", 8)
c_uint64 = _scalar("uint64_t", 8)
c_uint8 = _scalar("uint8_t", 1)
c_void_p = _scalar("void *", 8)
c_char_p = _scalar("char *", 8)


class _Array(_Value):
    of: _Type
    count: int

    def __getitem__(self, index: int) -> "Any":
        if not 0 <= index < self.count:
            raise IndexError("invalid index")
        return _read(self.of, self.memory, self.offset + index * self.of.size)


class Structure(_Value):
    """`_fields_`: (name, type) each, laid out as C does."""

    places: "dict[str, tuple[_Type, int]]"
    _fields_: "list[tuple[str, Any]]"

    def __init_subclass__(cls) -> None:
        cls.places, end, widest = {}, 0, 1
        for name, kind in cls._fields_:
            alignment = getattr(kind, "of", kind).alignment
            end = _up(end, alignment)
            cls.places[name] = kind, end
            end += kind.size
            widest = max(widest, alignment)
        cls.size, cls.alignment = _up(end, widest), widest

    def __getattr__(self, name: str) -> "Any":
        kind, place = type(self).places[name]
        return _read(kind, self.memory, self.offset + place)

    def __setattr__(self, name: str, value: "Any") -> None:
        if name not in type(self).places:
            return super().__setattr__(name, value)
        kind, place = type(self).places[name]
        kind(self.memory, self.offset + place).value = value


def _up(number: int, alignment: int) -> int:
    return (number + alignment - 1) // alignment * alignment


def _read(kind: "Any", memory: "Any", offset: int) -> "Any":
    found = kind(memory, offset)
    return found if issubclass(kind, Structure | _Array) else found.value


def POINTER(kind: _Type) -> _Type:  # noqa: N802  # ctypes' own name
    return c_void_p


def byref(value: _Value) -> _Value:
    return value


def string_at(address: int) -> bytes:
    return bytes(_ffi.string(_ffi.cast("char *", address)))


class _Function:
    def __init__(self, address: int) -> None:
        self.address = address
        self.argtypes: tuple[_Type, ...] | None = None
        self.restype: _Type | None = c_int

    def __call__(self, *arguments: "Any") -> "Any":
        kinds = self.argtypes
        if kinds is None:
            kinds = tuple(c_char_p if isinstance(each, bytes) else c_uint for each in arguments)
        if len(kinds) != len(arguments):
            raise TypeError(f"this function takes {len(kinds)} arguments, not {len(arguments)}")
        names = ", ".join(kind.name for kind in kinds)
        result = self.restype.name if self.restype is not None else "void"
        function = _ffi.cast(f"{result}(*)({names})", self.address)
        found = function(*(_argument(kind, each) for kind, each in zip(kinds, arguments, strict=True)))
        if self.restype is c_void_p:
            return int(_ffi.cast("uintptr_t", found)) or None
        return found


def _argument(kind: _Type, value: "Any") -> "Any":
    if isinstance(value, _Value):
        return _ffi.cast("char *", value.memory) + value.offset
    if isinstance(value, bytes):
        return _ffi.from_buffer(value + b"\0")
    if kind is c_void_p:
        return _ffi.cast("void *", value or 0)
    bits = 8 * kind.size
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind.name.startswith("int") and value >> (bits - 1) else value


class CDLL:
    """Whatever library it is: all that are linked in."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> _Function:
        if name not in _linked.FUNCTIONS:
            raise AttributeError(name)
        function = _Function(_linked.FUNCTIONS[name])
        setattr(self, name, function)
        return function

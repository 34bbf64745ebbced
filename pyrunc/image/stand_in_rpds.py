"""What jsonschema's dependencies ask of rpds, which is a shared object: maps, sets and lists that are never changed.

Copies in place of tries: a validation makes a few dozen of them. tests/unit/test_stand_ins.py compares them with the
real ones.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class HashTrieMap(Mapping):  # type: ignore[type-arg]
    __slots__ = ("_items",)

    def __init__(self, value: "Any" = (), **more: "Any") -> None:
        self._items: dict[Any, Any] = dict(value, **more)

    @classmethod
    def convert(cls, value: "Any") -> "HashTrieMap":
        return value if isinstance(value, cls) else cls(value)

    @classmethod
    def fromkeys(cls, keys: "Iterable[Hashable]", value: "Any" = None) -> "HashTrieMap":
        return cls(dict.fromkeys(keys, value))

    def __getitem__(self, key: Hashable) -> "Any":
        return self._items[key]

    def __iter__(self) -> "Iterator[Any]":
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"HashTrieMap({self._items!r})"

    def insert(self, key: Hashable, value: "Any") -> "HashTrieMap":
        return HashTrieMap({**self._items, key: value})

    def remove(self, key: Hashable) -> "HashTrieMap":
        items = dict(self._items)
        del items[key]
        return HashTrieMap(items)

    def discard(self, key: Hashable) -> "HashTrieMap":
        return self.remove(key) if key in self._items else self

    def update(self, *others: "Any", **more: "Any") -> "HashTrieMap":
        items = dict(self._items)
        for other in others:
            items.update(other)
        return HashTrieMap({**items, **more})


class HashTrieSet(Set):  # type: ignore[type-arg]
    __slots__ = ("_items",)

    def __init__(self, value: "Iterable[Hashable]" = ()) -> None:
        self._items: dict[Hashable, None] = dict.fromkeys(value)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> "Iterator[Any]":
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return f"HashTrieSet({{{', '.join(map(repr, self._items))}}})"

    def insert(self, item: Hashable) -> "HashTrieSet":
        return HashTrieSet([*self._items, item])

    def remove(self, item: Hashable) -> "HashTrieSet":
        if item not in self._items:
            raise KeyError(item)
        return HashTrieSet(each for each in self._items if each != item)

    def discard(self, item: Hashable) -> "HashTrieSet":
        return self.remove(item) if item in self._items else self

    def update(self, *others: "Iterable[Hashable]") -> "HashTrieSet":
        return HashTrieSet([*self._items, *(item for other in others for item in other)])


class List:
    __slots__ = ("_items",)

    def __init__(self, value: "Any" = (), *more: "Any") -> None:
        self._items: tuple[Any, ...] = (value, *more) if more else tuple(value)

    def __iter__(self) -> "Iterator[Any]":
        return iter(self._items)

    def __reversed__(self) -> "Iterator[Any]":
        return iter(self._items[::-1])

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, List) and self._items == other._items

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"List([{', '.join(map(repr, self._items))}])"

    @property
    def first(self) -> "Any":
        if not self._items:
            raise IndexError("empty list has no first element")
        return self._items[0]

    @property
    def rest(self) -> "List":
        return List(self._items[1:])

    def push_front(self, item: "Any") -> "List":
        return List([item, *self._items])

    def drop_first(self) -> "List":
        if not self._items:
            raise IndexError("empty list has no first element")
        return self.rest

"""Documents that are wrong in one to three places, made from right ones."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from pyrunc.spec import schema
from unit.spec_support import DOCUMENTS, SCHEMAS, accepts

INTERESTING: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.0,
    1.5,
    -0.0,
    1e30,
    float("inf"),
    127,
    128,
    255,
    256,
    511,
    512,
    65535,
    65536,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64 - 1,
    2**64,
    10**30,
    "",
    "x",
    "\n",
    "/",
    "0-3,7",
    "c",
    "cc",
    "u\n",
    "MB:",
    "MB:0=1\n",
    "MB:\n1",
    "RLIMIT_",
    "RLIMIT_x",
    "RLIMIT_AS\n",
    "CAP_",
    "CAP_A_B",
    "0MB",
    "64KB",
    "1TB",
    "1GB\n",
    "٣MB",
    [],
    [None],
    [[]],
    [{}],
    ["x"],
    [1],
    {},
    {"": 1},
    {"\n": 1},
    {"x": 1},
    {"x": None},
]


def _words(schema: Any) -> Iterator[str]:
    """All names and enum values in a schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from schema.get("enum", ())
        for part in schema.values():
            yield from _words(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _words(part)


WORDS = sorted({word for kind in DOCUMENTS for word in _words(schema.expanded(SCHEMAS, kind))})
KEPT = {  # what is required: in small documents too
    "ociVersion",
    "cwd",
    "kernel",
    "layerFolders",
    "ociVersionMin",
    "ociVersionMax",
    "id",
    "status",
    "bundle",
}


def _branches(document: dict[str, Any], depth: int = 3) -> Iterator[dict[str, Any]]:
    """Small documents, which are judged quickly. Each has one member of `document`, or of an object in it."""
    kept = {name: member for name, member in document.items() if name in KEPT}
    for name, member in document.items():
        if isinstance(member, dict) and depth > 1:
            for branch in _branches(member, depth - 1):
                yield {**kept, name: branch}
        yield {**kept, name: member}


def _seeds(kind: str) -> list[dict[str, Any]]:
    """Valid documents only: a mistake would hide a mutation. No two have an object in common."""
    documents = [*_branches(DOCUMENTS[kind]), DOCUMENTS[kind]]
    return [json.loads(json.dumps(document)) for document in documents if accepts(kind, document)]


SEEDS = {kind: _seeds(kind) for kind in DOCUMENTS}


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    places = []
    left = [document]
    while left:
        value = left.pop()
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in items:
            places.append((value, key))
            if isinstance(member, (dict, list)):
                left.append(member)
    return places


def mutate(document: Any, chance: random.Random) -> Any:
    """`document` with one to three changes, somewhere."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = _places(document)
        if not places:
            return chance.choice(INTERESTING)
        container, key = chance.choice(places)
        value = container[key]
        match chance.randrange(8):
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = copy.deepcopy(chance.choice(INTERESTING))
            case 3:
                container[key] = chance.choice(WORDS)
            case 4 if isinstance(value, str):
                changed = (value + "\n", value[:-1], "\n" + value, value * 2, value.lower())
                container[key] = chance.choice(changed)
            case 4 if isinstance(value, int):
                container[key] = chance.choice((value + 1, value - 1, -value, float(value), str(value)))
            case 5 if isinstance(value, list) and value:
                added = copy.deepcopy(chance.choice([*INTERESTING, *value]))
                value.insert(chance.randrange(len(value) + 1), added)
            case 6 if isinstance(value, dict):
                value[chance.choice(WORDS)] = copy.deepcopy(chance.choice([*INTERESTING, *value.values()]))
            case _:
                container[key] = copy.deepcopy(value_at(chance.choice(places)))
    return document


def value_at(place: tuple[Any, Any]) -> Any:
    container, key = place
    try:
        return container[key]
    except (KeyError, IndexError):
        return None

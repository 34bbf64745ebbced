"""Our schemas, the checker compiled from them, and the specification's schemas give the same verdicts."""

import copy
import functools
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]
import pytest
import referencing
import referencing.jsonschema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyrunc.spec import compiler, patterns
from pyrunc.spec import schema as schemas
from unit.mutations import INTERESTING, SEEDS, WORDS, mutate
from unit.spec_support import CONFIG, DOCUMENTS, SCHEMAS, accepts

OFFICIAL = os.environ.get("PYRUNC_OFFICIAL_SCHEMAS", "")
needs_official = pytest.mark.skipif(
    not OFFICIAL, reason="PYRUNC_OFFICIAL_SCHEMAS is not set to the schema/ folder of the runtime-spec"
)
FILES = {"config": "config-schema.json", "state": "state-schema.json", "features": "features-schema.json"}

Verdict = Callable[[object], bool]


# The three judges


def _ecma_pattern(_: object, pattern: str, text: object, __: object) -> Iterator[jsonschema.ValidationError]:
    """In draft 4 and in Go's validator $ is the end of the text. Python lets a line feed follow."""
    if isinstance(text, str) and not re.search(pattern.replace("$", r"\Z"), text):
        yield jsonschema.ValidationError(f"{text!r} is not {pattern}")


Validator = jsonschema.validators.extend(jsonschema.Draft4Validator, {"pattern": _ecma_pattern})


@functools.cache
def judge(folder: Path, kind: str) -> Verdict:
    """jsonschema's verdict by the schemas in a folder, references and all."""
    registry: Any = referencing.Registry()
    for file in sorted(folder.glob("*.json")):
        text = file.read_text(encoding="utf-8")
        text = text.replace('"#definitions/', '"#/definitions/')  # see README.md, irqs
        contents = json.loads(text)
        contents.pop("$schema", None)  # or jsonschema would go on with its own Draft4Validator from here
        resource = referencing.jsonschema.DRAFT4.create_resource(contents)
        registry = registry.with_resource(f"http://schemas/{file.name}", resource)
    validator = Validator({"$ref": f"http://schemas/{FILES[kind]}"}, registry=registry.crawl())
    return lambda document: bool(validator.is_valid(document))


# What all judge

EXAMPLES, MUTATIONS_EACH = 440, 50  # together 22,000
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def compare(number: int, judges: Callable[[str], list[Verdict]], counted: dict[str, int]) -> None:
    """Let all judges judge the mutations that `number` stands for."""
    chance = random.Random(number)
    for _ in range(MUTATIONS_EACH):
        kind = chance.choice(("config",) * 6 + ("state", "features"))
        document = mutate(chance.choice(SEEDS[kind]), chance)
        verdicts = [verdict(document) for verdict in judges(kind)]
        assert len(set(verdicts)) == 1, (kind, verdicts, document)
        counted[kind] = counted.get(kind, 0) + 1
        counted[str(verdicts[0])] = counted.get(str(verdicts[0]), 0) + 1


@needs_official
def test_mutated_documents_are_judged_as_the_official_schemas_do() -> None:
    counted: dict[str, int] = {}

    @many
    @given(st.integers(0, 2**64))
    def run(number: int) -> None:
        compare(
            number,
            lambda kind: [judge(Path(OFFICIAL), kind), judge(SCHEMAS, kind), functools.partial(accepts, kind)],
            counted,
        )

    run()
    assert counted["True"] + counted["False"] >= 20_000
    assert min(counted["True"], counted["False"]) > 4_000  # or the mutations would show little


def _replacements(kind: str) -> Iterator[dict[str, Any]]:
    """Each place of the seeds once: with each interesting value, and removed."""
    seen: set[tuple[Any, ...]] = set()
    for seed in SEEDS[kind]:
        for path in _paths(seed):
            if path in seen:
                continue
            seen.add(path)
            document = copy.deepcopy(seed)
            container: Any = document
            for step in path[:-1]:
                container = container[step]
            before = container[path[-1]]
            for value in INTERESTING:
                container[path[-1]] = value
                yield document
            container[path[-1]] = before
            if isinstance(container, dict) and isinstance(before, str):
                for word in WORDS:
                    container[path[-1]] = word
                    yield document
            del container[path[-1]]
            yield document


def _paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(document, (dict, list)):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield (*path, key)
            yield from _paths(value, (*path, key))


@needs_official
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_member_is_judged_alike_whatever_its_value(kind: str) -> None:
    checker: Verdict = functools.partial(accepts, kind)
    judges = [judge(Path(OFFICIAL), kind), judge(SCHEMAS, kind), checker]
    for document in _replacements(kind):
        verdicts = [verdict(document) for verdict in judges]
        assert len(set(verdicts)) == 1, (verdicts, document)


@settings(many, max_examples=60)
@given(st.integers(0, 2**64))
def test_the_checker_judges_as_the_schemas_that_it_is_made_from(number: int) -> None:
    compare(number, lambda kind: [judge(SCHEMAS, kind), functools.partial(accepts, kind)], {})


@needs_official
def test_the_official_samples_are_judged_as_their_folders_say() -> None:
    samples = sorted(Path(OFFICIAL).glob("test/*/*/*.json"))
    assert samples
    for sample in samples:
        kind, expected = sample.parts[-3], sample.parts[-2] == "good"
        try:
            document = json.loads(sample.read_text(encoding="utf-8"))
        except ValueError:
            assert not expected
            continue
        assert judge(Path(OFFICIAL), kind)(document) is expected, sample
        assert judge(SCHEMAS, kind)(document) is expected, sample
        assert accepts(kind, document) is expected, sample


# Ours alone


def _members(schema: Any, document: Any, path: str) -> Iterator[str]:
    """The members that a schema names and a document lacks."""
    for name, member in schema.get("properties", {}).items():
        if not isinstance(document, dict) or name not in document:
            yield f"{path}/{name}"
        else:
            yield from _members(member, document[name], f"{path}/{name}")
    items = schema.get("items")
    if isinstance(items, dict) and document:
        together: dict[str, Any] = {}
        for item in document:
            together |= item if isinstance(item, dict) else {}
        yield from _members(items, together, f"{path}/each")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_seeds_have_every_member(kind: str) -> None:
    assert list(_members(schemas.expanded(SCHEMAS, kind), DOCUMENTS[kind], "")) == []


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_seeds_are_accepted(kind: str) -> None:
    assert accepts(kind, DOCUMENTS[kind])
    assert judge(SCHEMAS, kind)(DOCUMENTS[kind])


def test_parts_can_be_checked_by_themselves() -> None:
    assert accepts("process", CONFIG["process"])
    assert not accepts("process", {**CONFIG["process"], "cwd": 1})
    assert accepts("resources", CONFIG["linux"]["resources"])
    assert not accepts("resources", {"memory": {"limit": "512m"}})


def test_the_checker_imports_nothing_but_its_other_half() -> None:
    text = compiler.compiled(SCHEMAS, schemas.ENTRIES)
    imports = {line.strip() for line in text.splitlines() if "import" in line and '"""' not in line}
    assert imports == {"from pyrunc.spec import _checker_rest"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {"type": "number"},
        {"type": "string", "format": "uri"},
        {"type": "integer", "enum": [1]},
        {"type": "object", "oneOf": []},
        {"type": "array", "items": {"type": "string", "uniqueItems": True}},
    ],
)
def test_a_schema_that_the_compiler_does_not_know_ends_the_build(schema: dict[str, Any]) -> None:
    with pytest.raises(schemas.Unsupported):
        compiler.check(schema)


@pytest.mark.parametrize("pattern", ["a", "^a|b$", "^(a)$", "^a*b*$", r"^\d+$", "^a{2,3}$", "a$", "^a"])
def test_a_pattern_that_the_compiler_does_not_know_ends_the_build(pattern: str) -> None:
    with pytest.raises(schemas.Unsupported):
        patterns.matches(pattern, "text")


PATTERNS = [
    "^RLIMIT_[A-Z]+$",
    "^[0-9, -]*$",
    "^[1-9][0-9]*[KMG]B$",
    r"^MB:[^\n]*$",
    "^[cbup]$",
    "^CAP_[A-Z_]+$",
    ".",
]


@given(st.sampled_from(PATTERNS), st.text(alphabet="RLIMT_ACP09,- KMGB:\ncbuZ1é", max_size=12))
def test_a_compiled_pattern_matches_what_the_pattern_does(pattern: str, text: str) -> None:
    expected = re.search(pattern.replace("$", r"\Z"), text) is not None
    assert bool(eval(patterns.matches(pattern, "text"), {"text": text})) is expected

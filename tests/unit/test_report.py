"""What the user is told about a configuration that is wrong, and what is let through."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrunc.errors import ConfigError
from pyrunc.spec import everything, load, report, rules
from pyrunc.spec.default import default
from unit.mutations import SEEDS, mutate
from unit.spec_support import CONFIG, accepts, bundle, edited

BASE: dict[str, Any] = {**default()}
LIMIT = "/linux/resources/memory/limit"


def refusal(directory: Path, document: object, **layout: Any) -> str:
    """The error of load.config, in one line."""
    descriptor = bundle(directory, document, **layout)
    try:
        with pytest.raises(ConfigError) as refused:
            load.config(descriptor)
    finally:
        os.close(descriptor)
    text = str(refused.value)
    assert text.isprintable()
    return text


def loaded(directory: Path, document: object) -> Any:
    descriptor = bundle(directory, document)
    try:
        return load.config(descriptor)
    finally:
        os.close(descriptor)


# One line


def test_an_error_names_place_pointer_expectation_finding_and_unit(tmp_path: Path) -> None:
    document = {"ociVersion": "1.3.0", "linux": {"resources": {"memory": {"limit": "512m"}}}}
    assert refusal(tmp_path, document, indent=2) == (
        f'config.json:6:18 {LIMIT}: expected an integer, found "512m"; the unit is bytes'
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("/process/cwd", ..., '/process: expected a member "cwd", found none'),
        ("/process/cwd", 5, "/process/cwd: expected a string, found 5; an absolute path"),
        ("/process/cwd", "tmp", '/process/cwd: expected an absolute path, found "tmp"'),
        ("/process/terminal", "yes", '/process/terminal: expected true or false, found "yes"'),
        ("/process/args", "sh", '/process/args: expected a list, found "sh"; a list of strings'),
        ("/process/user", [], "/process/user: expected an object, found []"),
        ("/process/user/uid", -1, "uid: expected 0 to 4294967295, found -1; names are not looked up"),
        ("/process/user/uid", 1.0, "/process/user/uid: expected an integer, found 1.0; names are not looked up"),
        ("/process/user/uid", True, "expected an integer, found true"),
        ("/linux/namespaces/0/type", "nets", 'found "nets"'),
        ("/linux/seccomp", {"defaultAction": "SCMP_ACT_ERNO"}, '"SCMP_ACT_ERNO" (is it SCMP_ACT_ERRNO?)'),
        ("/linux/sysctl", {"net.a/b": 1}, "/linux/sysctl/net.a~1b: expected a string, found 1"),
        ("/linux/sysctl", {"net.x": None}, "/linux/sysctl/net.x: expected a string, found null"),
        ("/process/rlimits/0/type", "NOFILE", 'expected text that matches ^RLIMIT_[A-Z]+$, found "NOFILE"'),
        ("/process/rlimits/0/type", "RLIMIT_CORE\n", "expected text that matches"),
        ("/hostname", "x" * 64, ""),
        ("/hostname", "x" * 65, "/hostname: expected at most 64 bytes, found 65"),
    ],
)
def test_an_error_says_what_was_expected(tmp_path: Path, path: str, value: object, expected: str) -> None:
    document = edited(BASE, path, value)
    if expected:
        assert expected in refusal(tmp_path, document)
    else:
        assert loaded(tmp_path, document) == document


def test_several_errors_are_counted_and_the_first_in_the_file_is_told(tmp_path: Path) -> None:
    document = edited(edited(edited(BASE, "/linux/resources/pids", {}), "/process/cwd", 1), "/hostname", [])
    text = refusal(tmp_path, document, indent="\t")
    assert "/process/cwd: expected a string, found 1" in text
    assert text.endswith("(and 2 more: pyrunc validate lists all)")
    document = edited(edited(BASE, "/process/env", ["A"]), "/root/path", "")
    assert refusal(tmp_path, document).endswith('found "A" (and 1 more: pyrunc validate lists all)')


def test_without_jsonschema_there_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert "install jsonschema" in refusal(tmp_path, {"ociVersion": 1})


# Files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "config.json:1:1: not JSON: Expecting value"),
        (
            '{\n "a": 1,\n}',
            "config.json:2:8: not JSON: " if sys.version_info >= (3, 13) else "config.json:3:1: not JSON: ",
        ),
        ("[]", "config.json:1:1: expected an object, found []"),
        ("null", "config.json:1:1: expected an object, found null"),
        ("{}", 'config.json:1:1: expected a member "ociVersion", found none'),
        ('{"ociVersion": "1.0.0"} {}', "config.json:1:25: not JSON: Extra data"),
        ('{"ociVersion": NaN}', "config.json:1:16: not JSON: NaN"),
        ("[" * 100_000, "config.json:1:1: not JSON: arrays and objects are nested too deeply"),
        ('{"a": ' * 900 + "1" + "}" * 900, 'expected a member "ociVersion"'),
        (b'{"a":\n "\xc3\xa9\xff"}', "config.json:2:4: byte 0xff is not UTF-8"),
        ("\ufeff{}", "config.json:1:1: not JSON: "),
        (" " * (8 << 20) + "{}", "reading config.json: it is larger than 8 MiB"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path,
    content: str | bytes,
    expected: str,
) -> None:
    assert expected in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (
            lambda path: None,
            "reading config.json: no such file or directory; .* is no bundle, a folder with config.json in it",
        ),
        (lambda path: path.mkdir(), "reading config.json: this is not a regular file"),
        (os.mkfifo, "reading config.json: this is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "reading config.json: this is not a regular file"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, prepare: Any, expected: str) -> None:
    prepare(tmp_path / "config.json")
    descriptor = os.open(tmp_path, os.O_PATH)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=expected):
        load.config(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(descriptor)


# Strings that the kernel can't take


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (edited(BASE, "/process/args/0", "a\0b"), "/process/args/0: NUL"),
        (edited(BASE, "/linux/sysctl", {"net\0": ""}), "/linux/sysctl: a member's name: NUL"),
        (edited(BASE, "/mounts/0/source", "\ud800"), "/mounts/0/source: \\ud800 is half of a character"),
        (edited(BASE, "/annotations", {"a": "\udfff"}), "/annotations/a: \\udfff is half of a character"),
        (edited(BASE, "/annotations", {"\ud800": "b"}), "/annotations: a member's name: \\ud800 is half"),
    ],
)
def test_unfit_strings_are_refused(tmp_path: Path, document: object, expected: str) -> None:
    assert expected in refusal(tmp_path, document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/annotations", {"a": "\0"}),
        ("/process/args/0", "\\u0000"),
        ("/process/args/0", "\U0001f600"),
        ("/hostname", "<é>"),
    ],
)
def test_fit_strings_are_not(tmp_path: Path, path: str, value: object) -> None:
    document = edited(BASE, path, value)
    assert loaded(tmp_path, document) == document


# What is let through, though the schemas say no


@pytest.mark.parametrize(
    ("path", "value", "becomes"),
    [
        ("/hooks", None, ...),
        ("/process/capabilities", None, ...),
        ("/linux/resources/devices", None, ...),
        ("/linux/seccomp", {"defaultAction": "SCMP_ACT_LOG", "flags": None}, {"defaultAction": "SCMP_ACT_LOG"}),
        (
            "/linux/seccomp",
            {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]},
            {"defaultAction": "SCMP_ACT_LOG", "syscalls": []},
        ),
        ("/linux/rootfsPropagation", "rslave", "rslave"),
        ("/linux/rootfsPropagation", "", ""),
        (
            "/linux/devices",
            [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 0o20666}],
            [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 0o666}],
        ),
    ],
)
def test_what_runc_takes_is_taken(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    path: str,
    value: object,
    becomes: object,
) -> None:
    document = edited(BASE, path, value)
    expected = edited(edited(BASE, path, 0), path, becomes)
    assert not accepts("config", document)
    assert loaded(tmp_path, document) == expected
    assert told(edited(BASE, path, value))[0].endswith("; create takes this nevertheless, as other runtimes do")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/process/cwd", None),
        ("/ociVersion", None),
        ("/process/args", [None]),
        ("/annotations", {"a": None}),
        ("/linux/resources", {"unified": {"memory.max": None}}),
        ("/linux/rootfsPropagation", "xslave"),
        ("/linux/rootfsPropagation", ["rslave"]),
        ("/linux", None),
        ("/linux/netDevices", {"eth0": None}),
    ],
)
def test_other_nulls_are_not(tmp_path: Path, path: str, value: object) -> None:
    assert refusal(tmp_path, edited(BASE, path, value))


# The list of everything


def told(document: object) -> list[str]:
    """What `validate` says: the pointers of mistakes, in order."""
    text = json.dumps(document)
    lines = report.lines("config.json", text, everything.Found(json.loads(text)).mistakes)
    return [f"{line.pointer}: {line.cause}; {line.hint}" for line in sorted(lines, key=lambda line: line.offset)]


def test_validate_lists_all_in_order() -> None:
    document = edited(edited(BASE, "/process/cwd", "x"), "/mounts/1/destination", "dev")
    document = edited(document, "/process/args", [])
    document = edited(document, "/linux/sysctl", {"vm.x": "1", "kernel.hostname": "a"})
    assert [line.split(": ")[0] for line in told(document)] == [
        "/process/args",
        "/process/cwd",
        "/linux/sysctl/vm.x",
        "/linux/sysctl/kernel.hostname",
    ]
    assert len(everything.Found(document).doubts) == 1


def test_mistakes_by_schema_and_by_rules_stand_together() -> None:
    document = edited(edited(BASE, "/hostname", 7), "/process/cwd", "x")
    limits = [{"type": 7, "soft": 1, "hard": 1}, {"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]
    lines = told(edited(document, "/process/rlimits", limits))
    assert [line.split(": ")[0] for line in lines] == [
        "/process/cwd",
        "/process/rlimits/0/type",
        "/process/rlimits/1/type",  # not 0: what is cut out for the rules moves no pointer
        "/hostname",
    ]


def test_what_follows_from_a_mistake_is_not_told() -> None:
    assert len(told(edited(BASE, "/root", {"path": 5}))) == 1
    assert len(told(edited(BASE, "/process/args", "sh"))) == 1
    broken = [{"type": "mount"}, {"type": "utz"}]
    assert len(told(edited(BASE, "/linux/namespaces", broken))) == 1  # though hostname has no UTS namespace left


def test_misspelt_names() -> None:
    document = edited(BASE, "/process/argz", ["sh"])
    del document["process"]["args"]
    lines = told(document)
    assert '/process/argz: no member is called "argz"; is it args?' in lines
    lines = told(edited(BASE, "/process/capabilities/bounding", ["CAP_SYSADMIN", "cap_chown"]))
    assert len(lines) == 1
    assert lines[0].startswith('/process/capabilities/bounding/0: no kernel has a capability "CAP_SYSADMIN"; is it')
    found = everything.Found(edited(BASE, "/process/xyzzy", 1))
    assert not found.mistakes  # the specification wants unknown members ignored
    assert [doubt.path for doubt in found.doubts] == [("process", "xyzzy")]


def test_nothing_is_wrong_with_a_good_one() -> None:
    found = everything.Found(BASE)
    assert (found.mistakes, found.doubts) == ([], [])


# Places


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"indent": 4},
        {"separators": (",", ":")},
        {"indent": "\t", "ensure_ascii": False},
    ],
)
def test_positions_are_those_of_the_values(layout: dict[str, Any]) -> None:
    document = {
        "a": [1, {'b"{[,:': "}"}, [], {}, [[None]]],
        "é\u2028": {"c": {"d": "x"}},
        "e": True,
        "": 1.5,
    }
    text = json.dumps(document, **layout)
    found = report.positions(text)
    assert len(found) == 15
    decoder = json.JSONDecoder()
    for path, offset in found.items():
        value: Any = document
        for step in path:
            value = value[step]
        assert decoder.raw_decode(text, offset)[0] == value


def test_the_last_of_two_members_counts() -> None:
    assert report.positions('{"a": 1, "a": 2}')[("a",)] == 14


# Nothing else ever happens


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64))
def test_any_document_is_loaded_or_refused_with_a_reason(tmp_path: Path, number: int) -> None:
    chance = random.Random(number)
    for _ in range(15):
        document = mutate(chance.choice([*SEEDS["config"], CONFIG, BASE]), chance)
        descriptor = bundle(tmp_path, document)
        try:
            valid: Any = load.config(descriptor)
        except ConfigError as refused:
            assert str(refused).isprintable()
            assert "it does not follow the schema" not in str(refused)  # said if jsonschema finds nothing
        else:
            rules.warnings(valid)
        finally:
            os.close(descriptor)

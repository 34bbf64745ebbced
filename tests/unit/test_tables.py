"""Options of mounts, signals, flags, conversions of limits: what stands in tables."""

import pytest

from pyrunc.cgroups.blkio import io_weight
from pyrunc.cgroups.cpu import weight_of_shares
from pyrunc.cgroups.limits import or_max
from pyrunc.cli.arguments import Flag, Usage, parse
from pyrunc.cli.signals import number_of
from pyrunc.errors import UsageError
from pyrunc.init.attributes import numbers
from pyrunc.init.mounts import normal
from pyrunc.init.options import Options
from pyrunc.linux import mount

USAGE = Usage(
    "verb",
    "ID",
    flags=(Flag("name", "n", help="", value="X"), Flag("on", help=""), Flag("many", help="", value="X", many=True)),
)


@pytest.mark.parametrize(
    ("words", "name", "on", "many", "rest"),
    [
        (["a"], "", False, [], ["a"]),
        (["--name", "x", "a"], "x", False, [], ["a"]),
        (["-name=x", "a"], "x", False, [], ["a"]),
        (["-n", "x", "a", "--on"], "x", True, [], ["a"]),
        (["--on=false", "a"], "", False, [], ["a"]),
        (["--many", "1,2", "--many=3", "a"], "", False, ["1,2", "3"], ["a"]),
        (["--", "--on"], "", False, [], ["--on"]),
        (["-", "a"], "", False, [], ["-", "a"]),
    ],
)
def test_flags_are_taken_as_go_takes_them(words, name, on, many, rest):
    arguments = parse(USAGE, words)
    assert (arguments.text("name"), arguments.on("on"), arguments.texts("many"), arguments.rest) == (
        name,
        on,
        many,
        rest,
    )


@pytest.mark.parametrize("words", [["--nope"], ["---on"], ["--name"], ["--on=perhaps"]])
def test_a_wrong_flag_is_an_error(words):
    with pytest.raises(UsageError):
        parse(USAGE, words)


def test_flags_end_at_the_first_argument_of_a_verb_that_takes_a_command():
    assert parse(Usage("exec", stop=True), ["id", "ls", "--all"]).rest == ["id", "ls", "--all"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("0", 0),
        ("RTMIN+1", 35),
        ("RTMAX", 64),
        ("SIGRTMAX-1", 63),
    ],
)
def test_signals_by_number_and_name(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize("text", ["", "65", "-1", "KILLL", "SIG", "BLOCK", "_DFL", "9x", "RTMIN+31"])
def test_what_is_no_signal(text):
    with pytest.raises(UsageError, match="unknown signal"):
        number_of(text)


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (1024, "100"), (262144, "10000"), (0, "1"), (10**9, "10000")])
def test_shares_as_a_weight(shares, weight):
    assert weight_of_shares(shares) == weight


def test_conversions():
    assert [io_weight(10), io_weight(1000), or_max(-1), or_max(0), or_max(7)] == ["1", "10000", "max", "0", "7"]
    assert numbers("0-2, 5") == [0, 1, 2, 5]
    assert [normal(p) for p in ("/a/../b", "a//b/.", "/../..", "")] == ["/b", "/a/b", "/", "/"]


def test_options_of_a_mount():
    options = Options(["rbind", "ro", "nosuid", "rro", "rshared", "size=1m", "foo", "noatime", "exec"])
    assert (options.bind, options.recursive, options.atime) == (True, True, True)
    assert options.set == mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOATIME
    assert options.clear == mount.MOUNT_ATTR__ATIME | mount.MOUNT_ATTR_NOEXEC  # atime is one field
    assert options.all_set == mount.MOUNT_ATTR_RDONLY
    assert options.propagation == [mount.MS_SHARED | mount.MS_REC]
    assert options.data == [("size", "1m"), ("foo", None)]


def test_the_last_of_two_options_that_exclude_each_other_counts():
    options = Options(["ro", "rw"])
    assert (options.set, options.clear) == (0, mount.MOUNT_ATTR_RDONLY)

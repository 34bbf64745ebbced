"""Tables: options of mounts, signals, flags, conversions of limits."""

import json

import pytest

from pyrunc.cgroups import controllers
from pyrunc.cgroups.blkio import io_weight
from pyrunc.cgroups.controller import Controller, or_max
from pyrunc.cgroups.controllers import CONTROLLERS
from pyrunc.cgroups.cpu import weight_of_shares
from pyrunc.cgroups.v1 import CgroupV1
from pyrunc.cgroups.v2 import CgroupV2
from pyrunc.cli.arguments import Flag, Usage, parse
from pyrunc.cli.signals import number_of
from pyrunc.errors import PyruncError, UsageError
from pyrunc.init.mounts import normal
from pyrunc.linux import mount
from pyrunc.linux.mount_options import MountOptions
from pyrunc.linux.process import numbers
from unit.spec_support import SCHEMAS

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
    options = MountOptions(["rbind", "ro", "nosuid", "rro", "rshared", "size=1m", "foo", "noatime", "exec"])
    assert (options.bind, options.recursive, options.atime) == (True, True, True)
    assert options.set == mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOATIME
    assert options.clear == mount.MOUNT_ATTR__ATIME | mount.MOUNT_ATTR_NOEXEC  # atime is one field
    assert options.all_set == mount.MOUNT_ATTR_RDONLY
    assert options.propagation == [mount.MS_SHARED | mount.MS_REC]
    assert options.data == [("size", "1m"), ("foo", None)]


def test_the_last_of_two_options_that_exclude_each_other_counts():
    options = MountOptions(["ro", "rw"])
    assert (options.set, options.clear) == (0, mount.MOUNT_ATTR_RDONLY)


# --- limits

VALUES = {"cpus": "0", "mems": "0", "disableOOMKiller": True}  # of the others: 20
DEVICE = {"major": 8, "minor": 0, "weight": 20, "rate": 20}
THROTTLES = [f"throttle{way}{unit}Device" for way in ("Read", "Write") for unit in ("Bps", "IOPS")]
LISTS = {key: [DEVICE] for key in ("weightDevice", *THROTTLES)} | {"priorities": [{"name": "lo", "priority": 3}]}
WHOLE = {
    "unified": {"memory.high": "20"},
    "rdma": {"mlx5_0": {"hcaHandles": 20}},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 20}],
}
# What limits nothing by itself, or nothing any more (config-linux.md#memory).
NO_LIMITS = {("memory", "kernel"), ("memory", "useHierarchy"), ("memory", "checkBeforeUpdate")}
ROWS = {
    (controller.member, name): (on_v1, on_v2) for controller in CONTROLLERS for name, on_v1, on_v2 in controller.limits
}


def asked(member, name):
    """linux.resources with one limit."""
    if not name:
        return {member: WHOLE[member]}
    value = {**VALUES, **LISTS}.get(name, 20)
    return {member: {name: value, **({"limit": 10} if name == "swap" else {})}}


def cgroup_of(unified, folder):
    if unified:
        return CgroupV2({"": str(folder)})
    return CgroupV1({controller.names[0]: str(folder) for controller in CONTROLLERS})


@pytest.mark.parametrize("unified", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize(("member", "name"), ROWS)
def test_a_limit_is_written_or_refused(member, name, unified, tmp_path):
    """The row itself refuses what its version of cgroups has nothing for."""
    cgroup = cgroup_of(unified, tmp_path)
    if ROWS[member, name][unified] is not None:
        assert [each for _, writes in cgroup.plan(asked(member, name)) for each in writes]
    else:
        with pytest.raises(PyruncError, match=f"{member}.*cgroup v{1 + unified} has nothing like it"):
            cgroup.plan(asked(member, name))


@pytest.mark.parametrize("unified", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize(("member", "name"), ROWS)
def test_a_limit_that_no_controller_holds_is_refused(member, name, unified):
    with pytest.raises(PyruncError, match=member):
        (CgroupV2 if unified else CgroupV1)({}).plan(asked(member, name))


@pytest.mark.parametrize("unified", [False, True], ids=["v1", "v2"])
def test_a_row_that_only_the_other_version_has(unified, monkeypatch, tmp_path):
    """This holds for the next row that somebody adds, too."""
    here = ("memory.high", str)
    new = Controller("memory", "memory", (("newest", here, None) if unified else ("newest", None, here),))
    monkeypatch.setattr(controllers, "CONTROLLERS", (*CONTROLLERS, new))
    with pytest.raises(PyruncError, match=f"memory.newest: cgroup v{1 + unified} has nothing like it"):
        cgroup_of(unified, tmp_path).plan({"memory": {"newest": 5}})
    assert cgroup_of(unified, tmp_path).plan({"memory": {"newest": 0}}) == []  # engines write what they don't want
    assert cgroup_of(not unified, tmp_path).plan({"memory": {"newest": 5}}) == [(str(tmp_path), [("memory.high", "5")])]


def test_each_property_stands_in_one_row():
    """With two rows it would be written twice, or refused by one and written by the other."""
    rows = [(controller.member, row[0]) for controller in CONTROLLERS for row in controller.limits]
    assert len(rows) == len({*rows})


def test_every_property_of_the_specification_is_in_a_table():
    schema = json.loads((SCHEMAS / "config-linux.json").read_text())
    members = schema["resources"]["properties"]
    wanted = set()
    for member, its in members.items():
        if member != "devices":
            wanted |= {(member, name) for name in its.get("properties") or [""]}
    assert wanted - NO_LIMITS == set(ROWS)


@pytest.mark.parametrize("unified", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("limit", [0, -1, 10])
@pytest.mark.parametrize("swap", [None, 0, -1, 10, 20])
def test_where_the_kernel_does_not_count_swap(limit, swap, unified, tmp_path):
    """Swap has no limit there, and on v2 no swap beside the memory can be had. Others are written, and fail."""
    if unified and swap and swap > limit and limit <= 0 < swap:
        pytest.skip("refused in any case")
    memory = {"limit": limit, **({} if swap is None else {"swap": swap})}
    file = "memory.swap.max" if unified else "memory.memsw.limit_in_bytes"
    writes = [each for _, found in cgroup_of(unified, tmp_path).plan({"memory": memory}) for each in found]
    can_be_had = (swap or 0) <= 0 or (unified and swap == limit)
    assert (file in dict(writes)) is not can_be_had
    (tmp_path / file).touch()
    writes = [each for _, found in cgroup_of(unified, tmp_path).plan({"memory": memory}) for each in found]
    assert (file in dict(writes)) is (bool(swap) or limit == -1)

"""Names of units, and limits as properties of theirs. What systemd makes of them: tests/integration/cgroups/"""

import pytest

from pyrunc.cgroups import gvariant, scope, systemd
from pyrunc.cgroups import systemd_properties as properties
from pyrunc.errors import PyruncError

INFINITY = 2**64 - 1


@pytest.mark.parametrize(
    ("path", "user", "slice_name", "name"),
    [
        ("", False, "system.slice", "pyrunc-web.scope"),
        ("", True, "user.slice", "pyrunc-web.scope"),
        ("system.slice:docker:abc", False, "system.slice", "docker-abc.scope"),
        ("kubepods-pod1.slice:cri-containerd:abc", False, "kubepods-pod1.slice", "cri-containerd-abc.scope"),
        (":libpod:abc", True, "user.slice", "libpod-abc.scope"),
        ("-:p:abc", False, "-.slice", "p-abc.scope"),
        ("a.slice::abc", False, "a.slice", "abc.scope"),
    ],
)
def test_names_of_units(path, user, slice_name, name):
    assert systemd.unit_of(path, "web", user) == {"name": name, "slice": slice_name, "user": user}


@pytest.mark.parametrize(
    ("path", "control_group"),
    [
        ("", "/system.slice/pyrunc-web.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("-:p:n", "/p-n.scope"),
    ],
)
def test_where_systemd_puts_a_scope(path, control_group):
    assert systemd.control_group_to_be(systemd.unit_of(path, "web", False)) == control_group


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a:b:c:d", "a:b:", "a:b:c.slice", "a:b:c/d", "../a:b:c"])
def test_what_is_no_name_of_a_unit(path):
    with pytest.raises(PyruncError, match="cgroupsPath"):
        systemd.unit_of(path, "web", False)


def test_a_name_in_the_path_of_an_object():
    assert systemd.escaped("docker-1a.scope") == "docker_2d1a_2escope"
    assert systemd.escaped("1é") == "_31_c3_a9"


V2 = [
    ({"memory": {"limit": 5, "swap": 7, "reservation": 3}}, {"MemoryMax": 5, "MemorySwapMax": 2, "MemoryLow": 3}),
    ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
    ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
    ({"cpu": {"quota": 25000, "period": 50000}}, {"CPUQuotaPerSecUSec": 500_000, "CPUQuotaPeriodUSec": 50000}),
    ({"cpu": {"quota": 12345}}, {"CPUQuotaPerSecUSec": 130_000}),
    ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": INFINITY}),
    ({"cpu": {"cpus": "0-2,9", "mems": "0"}}, {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x01"}),
    ({"pids": {"limit": 7}}, {"TasksMax": 7}),
    ({"pids": {"limit": 0}}, {"TasksMax": 1}),
    ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
    ({"blockIO": {"weight": 1000}}, {"IOWeight": 10000}),
    (
        {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}},
        {"IOReadBandwidthMax": [("/dev/block/8:0", 5)]},
    ),
    ({"unified": {"memory.high": "5", "memory.min": "max", "x.y": "1"}}, {"MemoryHigh": 5, "MemoryMin": INFINITY}),
    ({"unified": {"memory.max": "512M", "memory.low": "1k"}}, {"MemoryMax": 512 << 20, "MemoryLow": 1024}),
    ({"unified": {"cpu.max": "max 200000"}}, {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 200000}),
    ({"pids": {"limit": 7}, "unified": {"pids.max": "9"}}, {"TasksMax": 9}),
    ({"devices": [{"allow": False, "access": "rwm"}]}, {}),
]


@pytest.mark.parametrize(("resources", "expected"), V2, ids=[str(row[0]) for row in V2])
def test_limits_of_v2(resources, expected):
    assert {name: value for name, (_, value) in properties.properties(resources, True)} == expected


@pytest.mark.parametrize(
    "resources",
    [
        {"unified": {"memory.max": "lots"}},
        {"unified": {"memory.max": ""}},
        {"unified": {"memory.max": "M"}},
        {"unified": {"memory.max": "-5"}},
        {"unified": {"cpu.max": "lots 5"}},
        {"unified": {"cpu.max": "5 lots"}},
        {"unified": {"cpuset.cpus": "0-"}},
        {"unified": {"cpu.weight": "1e3"}},
        {"cpu": {"cpus": "0\n1"}},
        {"cpu": {"mems": "0-99999999"}},
    ],
)
def test_a_value_that_is_none_is_told(resources):
    with pytest.raises(PyruncError, match="is no value of it"):
        properties.properties(resources, True)


def test_a_quota_that_no_property_has_room_for():
    found = dict(properties.properties({"cpu": {"quota": 2**63 - 1}}, True))
    assert found["CPUQuotaPerSecUSec"] == ("t", 2**64 - 1)


def test_limits_of_v1():
    resources = {"memory": {"limit": 5}, "cpu": {"shares": 7}, "blockIO": {"weight": 100}}
    found = dict(properties.properties(resources, False))
    assert (found["MemoryLimit"], found["CPUShares"], found["BlockIOWeight"]) == (("t", 5), ("t", 7), ("t", 100))


def test_devices_of_v1():
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": False, "type": "c", "major": 10, "access": "w"},
    ]
    found = properties.allowed_devices(rules)
    assert ("/dev/char/10:229", "r") in found
    assert ("block-8", "r") in found
    assert ("char-*", "m") in found
    assert ("/dev/char/1:3", "rwm") in found
    assert not [place for place, access in found if place == "char-*" and "w" in access]


def test_a_quota_becomes_one_that_systemd_can_hold():
    assert properties.round_up({"cpu": {"quota": 12345}})["cpu"]["quota"] == 13000
    assert properties.round_up({"cpu": {"quota": -1}}) == {"cpu": {"quota": -1}}


@pytest.mark.parametrize(
    ("text", "signature", "value"),
    [
        ("'x'", "s", "x"),
        ('"a\'b\\n"', "s", "a'b\n"),
        ("true", "b", True),
        ("5", "i", 5),
        ("-5", "i", -5),
        ("uint64 5", "t", 5),
        ("byte 0x1f", "y", 31),
        ("1.5", "d", 1.5),
        ("double 2", "d", 2.0),
        ("['a', 'b']", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("@at [1, 2]", "at", [1, 2]),
        ("[uint32 1, 2]", "au", [1, 2]),
        ("('a', uint64 1)", "(st)", ("a", 1)),
        ("[('a', true)]", "a(sb)", [("a", True)]),
        ("objectpath '/x'", "o", "/x"),
    ],
)
def test_gvariants_text(text, signature, value):
    assert gvariant.parse(text) == (signature, value)


@pytest.mark.parametrize(
    "text", ["", "x", "'x", "[1, 'x']", "[", "(1", "uint32 -1", "byte 256", "1 2", "[]", "uint64 'x'"]
)
def test_what_is_no_gvariant(text):
    with pytest.raises(ValueError, match=r"."):
        gvariant.parse(text)


def test_annotations():
    found = properties.of_annotations(
        {
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.TimeoutStopSec": "1.5",
            "org.systemd.property.TimeoutStopUSec": "uint64 7",
            "other": "x",
        }
    )
    assert found == [
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TimeoutStopUSec", ("t", 1_500_000)),
        ("TimeoutStopUSec", ("t", 7)),
    ]


@pytest.mark.parametrize("name", ["", "Ab", "A-b-c", "A.bcd", "Aé123"])
def test_annotations_that_name_no_property(name):
    with pytest.raises(PyruncError, match="no name of a property"):
        properties.of_annotations({f"org.systemd.property.{name}": "1"})


@pytest.mark.parametrize("text", ["x y", "[" * 5000, "double inf", "1e300", "-1", "double nan"])
def test_an_annotation_that_says_nothing(text):
    with pytest.raises(PyruncError, match="no GVariant text"):
        properties.of_annotations({"org.systemd.property.AbcSec": text})


@pytest.mark.parametrize(
    ("unified", "text", "found"),
    [
        (True, "0::/a.slice/x.scope/inner\n", {"": "/c/a.slice/x.scope/inner"}),
        (True, "1:name=systemd:/a.slice/x.scope\n0::/a.slice/x.scope\n",
         {"name=systemd": "/n/a.slice/x.scope", "": "/c/a.slice/x.scope"}),
        (True, "1:name=systemd:/\n0::/a.slice/x.scope\n", {"": "/c/a.slice/x.scope"}),
        (False, "3:cpu,cpuacct:/a.slice/x.scope\n2:pids:/\n1:name=systemd:/a.slice/x.scope\n0::/a.slice/x.scope\n",
         {"cpu,cpuacct": "/u/a.slice/x.scope", "name=systemd": "/n/a.slice/x.scope", "": "/c/a.slice/x.scope"}),
    ],
)  # fmt: skip
def test_a_process_finds_where_systemd_has_put_it(unified, text, found):
    """Where it is elsewhere, it is in the caller's cgroup, or the root."""
    mounts = {"": "/c", "name=systemd": "/n", "cpu,cpuacct": "/u", "pids": "/p"}
    unit = {"name": "x.scope", "slice": "a.slice", "user": False}
    cgroup = scope.kind(unified)({}, mounts, unit)
    cgroup.learn(text)
    assert cgroup.paths == found

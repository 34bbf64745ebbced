"""What `pyrunc explain` says of configurations, and how bad it finds it."""

import copy
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from pyrunc.explain import report
from pyrunc.explain.system_calls import Filter
from pyrunc.spec import _checker, rules
from pyrunc.spec.default import default
from pyrunc.spec.jsonc import dumps
from pyrunc.spec.rules import CAPABILITIES
from unit.mutations import SEEDS, mutate
from unit.spec_support import CONFIG

GOOD: dict[str, Any] = {
    **default(),
    "process": {
        **default()["process"],
        "user": {"uid": 1000, "gid": 1000},
        "capabilities": {},
        "apparmorProfile": "some",
    },
}
GOOD["linux"] = {
    **GOOD["linux"],
    "maskedPaths": [*GOOD["linux"]["maskedPaths"], "/proc/interrupts", "/sys/devices/virtual/powercap"],
    "resources": {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": 1 << 26, "swap": 1 << 26},
        "pids": {"limit": 100},
        "cpu": {"quota": 100000, "period": 100000},
    },
    "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
}


def explained(**changes: Any) -> report.Explanation:
    """Of a configuration that grants nothing, with members of `process`, `linux`, or of the document changed."""
    document = copy.deepcopy(GOOD)
    for name, value in changes.items():
        place = document["process"] if name in document["process"] else document["linux"]
        (document if name in document or name == "hooks" else place)[name] = value
    return report.explain(document, "it")  # type: ignore[arg-type]


def levels(topic: str, **changes: Any) -> set[tuple[str, str]]:
    return {(each.level, each.subject) for each in explained(**changes).granted if each.topic == topic}


def bind(source: str, *options: str, at: str = "/x") -> dict[str, Any]:
    return {"destination": at, "type": "bind", "source": source, "options": ["rbind", *options]}


def test_a_tight_one_grants_nothing_of_note() -> None:
    assert explained().worst == "note", explained().granted


def test_the_worst_comes_first() -> None:
    ranks = [each.rank for each in explained(capabilities={"bounding": [*CAPABILITIES]}, mounts=[bind("/")]).granted]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("mount", "level"),
    [
        (bind("/", "rw"), "critical"),
        (bind("/", "ro"), "critical"),  # /proc, /sys and /run are mounts of their own below it, and stay writable
        (bind("/", "rro"), "high"),
        ({**bind("/", "ro"), "options": ["bind", "ro"]}, "high"),
        (bind("//etc", "rw"), "critical"),
        (bind("/srv/./../etc", "rw"), "critical"),
        (bind("/proc/sys", "rw"), "critical"),
        (bind("/proc/sys/kernel/core_pattern", "rw"), "critical"),
        (bind("/proc/sys/net", "rw"), "high"),
        ({"destination": "/d", "type": "overlay", "source": "x", "options": ["upperdir=/etc"]}, "critical"),
        ({"destination": "/d", "type": "overlay", "source": "x", "options": ["lowerdir=/"]}, "high"),
        (bind("/etc/", "rw"), "critical"),
        (bind("/etc/ssl", "ro"), "medium"),
        (bind("/var/run/docker.sock", "ro"), "critical"),
        (bind("/run/containerd/containerd.sock", "ro"), "critical"),
        (bind("/srv/data", "rw"), "low"),
        (bind("/srv/data", "ro"), "note"),
        (bind("/var/lib/docker/volumes/v/_data", "rw"), "low"),
        ({"destination": "/d", "type": "devtmpfs", "source": "x"}, "critical"),
        ({"destination": "/sys", "type": "sysfs", "source": "x"}, "high"),
    ],
)
def test_mounts(mount: dict[str, Any], level: str) -> None:
    found = levels("mount", mounts=[mount], user={"uid": 0, "gid": 0})
    assert {each for each, _ in found} == {level}


def test_capabilities_by_whom_they_are_over_and_how_they_are_got() -> None:
    every = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    root = {"uid": 0, "gid": 0}
    assert levels("capability", capabilities=every, user=root) == {("critical", "CAP_SYS_ADMIN")}
    assert levels("capability", capabilities=every, noNewPrivileges=False) == {("high", "CAP_SYS_ADMIN")}  # by setuid
    assert levels("capability", capabilities=every) == set()  # a user without ambient ones and without setuid programs
    own = [*GOOD["linux"]["namespaces"], {"type": "user"}]
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    changes = {"namespaces": own, "uidMappings": mappings, "gidMappings": mappings}
    assert levels("capability", capabilities=every, user=root, **changes) == {("medium", "CAP_SYS_ADMIN")}
    assert levels("user", user=root, **changes) == set()
    mappings[0]["hostID"] = 0
    assert levels("user", user=root, **changes) == {("medium", "root")}  # a namespace, and yet the host's root
    mappings[:] = [{"containerID": 0, "hostID": 100000, "size": 1}, {"containerID": 1, "hostID": 0, "size": 1}]
    assert levels("user", user=root, **changes) == {("medium", "root")}  # its root can become its user 1
    assert levels("user", user={"uid": 1, "gid": 1}, **changes) == {("medium", "root")}
    assert not levels("user", user={"uid": 2, "gid": 2}, **changes)


def test_namespaces_of_the_host() -> None:
    missing = [each for each in GOOD["linux"]["namespaces"] if each["type"] != "pid"]
    assert ("high", "pid") in levels("namespace", namespaces=missing)
    by_path = [*missing, {"type": "pid", "path": "/proc/1/ns/pid"}]
    assert ("high", "pid") in levels("namespace", namespaces=by_path)
    every = {kind: ["CAP_SYS_PTRACE"] for kind in ("bounding", "effective", "permitted")}
    found = levels("capability", namespaces=missing, capabilities=every, user={"uid": 0, "gid": 0})
    assert found == {("critical", "CAP_SYS_PTRACE")}


def test_kernel_files() -> None:
    found = levels("kernel file", readonlyPaths=[], user={"uid": 0, "gid": 0})
    assert {("critical", "/proc/sys"), ("critical", "/proc/sysrq-trigger")} <= found
    assert not levels("kernel file", readonlyPaths=["/proc"], user={"uid": 0, "gid": 0})


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/p", "type": "proc", "source": "proc"},
        {"destination": "/x/../p/", "type": "proc", "source": "proc"},
        bind("/proc/.", at="/p"),
    ],
)
def test_kernel_files_at_another_place(mount: dict[str, Any]) -> None:
    root = {"uid": 0, "gid": 0}
    found = levels("kernel file", mounts=[*GOOD["mounts"], mount], user=root)
    assert {("critical", "/p/sys"), ("critical", "/p/sysrq-trigger")} <= found
    assert not levels("kernel file", mounts=[*GOOD["mounts"], mount], user=root, readonlyPaths=["/p", "/proc"],
                      maskedPaths=["/p", *GOOD["linux"]["maskedPaths"]])  # fmt: skip


def test_where_links_lead(tmp_path: Path) -> None:
    """By a link, and by links on the way to it. What is a socket is known by looking, without opening it."""
    (tmp_path / "data").symlink_to("/etc")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "loop").symlink_to("loop")
    root = {"uid": 0, "gid": 0}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "some.service"))
        os.mkfifo(tmp_path / "fifo")
        for name, level in (
            ("data", "critical"),
            ("here/here/data", "critical"),
            ("data/passwd", "high"),
            ("some.service", "medium"),
            ("fifo", "low"),
            ("loop", "low"),
            ("nothing", "low"),
        ):
            found = levels("mount", mounts=[bind(f"{tmp_path}/{name}", "rw")], user=root)
            assert {each for each, _ in found} == {level}, name
    text = report.text(explained(mounts=[bind(f"{tmp_path}/data", "rw")], user=root), 1000)
    assert "at /x; it leads to /etc now" in text
    (tmp_path / "rootfs").symlink_to("/")
    document: Any = {**copy.deepcopy(GOOD), "root": {"path": "rootfs"}}
    found_at = report.explain(document, "it", base=str(tmp_path))
    assert found_at.granted[0][:3] == ("critical", "root file system", "/")
    assert report.explain(document, "it").worst == "note"


def test_other_names_of_the_hosts_root() -> None:
    root = {"uid": 0, "gid": 0}
    for path in ("/proc/1/root", "/proc/self/root/", "/proc/1/root/../root/."):
        assert {level for level, _ in levels("mount", mounts=[bind(path, "rw")], user=root)} == {"critical"}


ROOTLESS = [
    {"containerID": 0, "hostID": 1, "size": 1000},
    {"containerID": 1000, "hostID": 0, "size": 1},
    {"containerID": 1001, "hostID": 1001, "size": 64536},
]


def test_keep_id_of_podman() -> None:
    """hostID 0 is the user himself, where the engine has no privileges; a file alone does not tell."""
    own = {"namespaces": [*GOOD["linux"]["namespaces"], {"type": "user"}], "uidMappings": ROOTLESS}
    found = explained(**own)
    assert ("medium", "root") in {(each.level, each.subject) for each in found.granted}
    assert "--rootless true" in report.text(found, 1000)
    config: Any = {**GOOD, "linux": {**GOOD["linux"], **own}}
    found = report.explain(config, "it", rootless=True)
    users = [(each.level, each.subject) for each in found.granted if each.topic == "user"]
    assert users == [("low", "without privileges")]


def test_devices_that_are_alike_are_one() -> None:
    disks = [{"type": "b", "path": f"/dev/sd{letter}", "major": 8, "minor": 16 * n} for n, letter in enumerate("abc")]
    consoles = [{"type": "c", "path": f"/dev/tty{n}", "major": 4, "minor": n} for n in range(64)]
    unknown = {"type": "c", "path": "/dev/x", "major": 250, "minor": 0}
    found = levels("device", devices=[*disks, *consoles, unknown])
    assert {("critical", "/dev/sda, /dev/sdb, /dev/sdc"), ("medium", "/dev/x")} <= found
    text = " ".join(report.text(explained(devices=consoles), 100).split())
    assert "/dev/tty11 and 52 more: the host's consoles" in text


def test_nothing_is_said_twice() -> None:
    every = {kind: [*CAPABILITIES] for kind in ("bounding", "effective", "permitted")}
    found = report.text(explained(capabilities=every, user={"uid": 0, "gid": 0}, resources={}, readonlyPaths=[]), 100)
    assert "limit no limit" not in found
    assert "no limit on memory: " in " ".join(found.split())
    assert found.count("leave it out of all sets") == 3  # after the critical, the high and the medium ones


def test_every_line_fits() -> None:
    config: Any = {**copy.deepcopy(GOOD), "process": {**GOOD["process"], "args": ["word"] * 100}}
    one = report.explain(config, "a/long/path/of/a/bundle/somewhere")
    for text in (report.text(one, 60), report.text_of_two(one, explained(), 60)):
        assert max(map(len, text.splitlines())) <= 60


def test_devices() -> None:
    every = {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}
    root = {"uid": 0, "gid": 0}
    resources = {**GOOD["linux"]["resources"], "devices": [{"allow": True, "access": "rwm"}]}
    assert levels("device", resources=resources, capabilities=every, user=root) == {("critical", "all")}
    assert levels("device", resources=resources) == {("medium", "all")}
    disk = {"type": "b", "path": "/dev/sda", "major": 8, "minor": 0}
    assert levels("device", devices=[disk]) == {("critical", "/dev/sda")}
    assert not levels("device")
    for rule in ({"type": "b", "major": 8, "access": "rw"}, {"major": 8, "access": "rw"}):
        nothing = GOOD["linux"]["resources"]["devices"]
        resources = {**GOOD["linux"]["resources"], "devices": [*nothing, {"allow": True, **rule}]}
        assert ("critical", "b 8:*") in levels("device", resources=resources)


def test_limits() -> None:
    assert levels("limit", resources={}) == {
        ("medium", "memory, processes"),
        ("low", "CPU time"),
    }
    unified = {"unified": {"memory.max": "100000000", "pids.max": "9", "cpu.max": "100 100", "memory.swap.max": "0"}}
    assert not levels("limit", resources=unified)


def test_system_calls() -> None:
    assert explained(seccomp=None).worst == "high"
    allow = {"defaultAction": "SCMP_ACT_ALLOW"}
    assert ("high", "by default") in levels("system call", seccomp=allow)
    clone = {"names": ["clone"], "action": "SCMP_ACT_ALLOW"}
    mask = {"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}
    assert Filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [clone]}).lets_through("clone")
    assert not Filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{**clone, "args": [mask]}]}).lets_through(
        "clone"
    )
    other = {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}
    assert Filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{**clone, "args": [other]}]}).lets_through("clone")


NEW_USER = 0x10000000
SAFE = {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
HARM = {"index": 0, "value": NEW_USER, "valueTwo": NEW_USER, "op": "SCMP_CMP_MASKED_EQ"}
OTHER = {"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize(
    ("default", "conditions", "through"),
    [
        ("SCMP_ACT_ERRNO", [SAFE, OTHER], False),
        ("SCMP_ACT_ERRNO", [{**SAFE, "index": 1}], True),  # that is its stack
        ("SCMP_ACT_ERRNO", [SAFE, {**SAFE, "value": 1}], True),  # alternatives
        ("SCMP_ACT_ERRNO", [SAFE, {**SAFE, "value": NEW_USER}], False),
        ("SCMP_ACT_ALLOW", [HARM], False),
        ("SCMP_ACT_ALLOW", [HARM, OTHER], True),  # refused is but a part
        ("SCMP_ACT_ALLOW", [HARM, {**HARM, "value": 1, "valueTwo": 1}], False),
        ("SCMP_ACT_ALLOW", [SAFE], True),  # refused is what does no harm
    ],
)
def test_conditions_on_a_call(default: str, conditions: list[dict[str, Any]], through: bool) -> None:
    action = "SCMP_ACT_ALLOW" if default == "SCMP_ACT_ERRNO" else "SCMP_ACT_ERRNO"
    rule = {"names": ["unshare"], "action": action, "args": conditions}
    assert Filter({"defaultAction": default, "syscalls": [rule]}).lets_through("unshare") is through


def test_a_hook_in_the_image() -> None:
    hooks = {"createRuntime": [{"path": "/images/a/bin/x"}], "poststop": [{"path": "/usr/bin/x"}]}
    assert levels("hook", root={"path": "/images/a"}, hooks=hooks) == {
        ("critical", "/images/a/bin/x"),
        ("note", "/usr/bin/x"),
    }


def test_secrets_are_named_and_not_shown() -> None:
    text = report.text(explained(env=["DB_PASSWORD=hunter2", "PATH=/bin"]), 100)
    assert "DB_PASSWORD" in text
    assert "hunter2" not in text


def test_two_side_by_side() -> None:
    few = {kind: ["CAP_CHOWN", "CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    more = {kind: [*names, "CAP_MKNOD"] for kind, names in few.items()}
    root = {"uid": 0, "gid": 0}
    old, new = explained(capabilities=few, user=root), explained(capabilities=more, user=root, mounts=[])
    found = report.compare(new, old)
    assert [each.subject for each in found.more] == ["CAP_MKNOD"]
    assert not [each for each in found.less if each.topic == "capability"]
    assert report.compare(new, new).is_nothing
    assert "Both grant and withhold the same, with the same limits." in report.text_of_two(new, new, 100)


def resources(**changes: Any) -> dict[str, Any]:
    return {**GOOD["linux"]["resources"], **changes}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"resources": resources(memory={"limit": 1 << 30, "swap": 1 << 30})},
            "memory.limit: 1073741824; of it: 67108864",
        ),
        ({"resources": resources(pids={"limit": 7})}, "pids.limit: 7; of it: 100"),
        ({"resources": resources(blockIO={"weight": 10})}, "blockIO.weight: 10; of it: none"),
        ({"resources": resources(unified={"memory.high": "9"})}, "unified.memory.high: 9; of it: none"),
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}]}, "RLIMIT_CORE: 0, at most 1; of it: none"),
        ({"sysctl": {"net.a": "1"}}, "kernel parameter: net.a: set to 1"),
        ({"apparmorProfile": "other"}, "security module AppArmor: what the AppArmor profile other forbids"),
        ({"maskedPaths": []}, "Only it withholds: sight of /proc/kcore"),
        ({"noNewPrivileges": False}, "Only it withholds: new rights by set-user-ID programs"),
        (
            {"readonlyPaths": ["/proc/sys"]},
            "kernel file read-only: writing to /proc/sys; of it: writing to /proc/sys, ",
        ),
    ],
)
def test_what_is_withheld_and_limited_is_compared(change: dict[str, Any], said: str) -> None:
    words = " ".join(report.text_of_two(explained(**change), explained(), 100).split())
    assert said in words, words
    assert "the same" not in words


def test_what_an_image_says_does_not_steer_the_terminal() -> None:
    assert "\x1b" not in report.text(explained(args=["\x1b[2J"], mounts=[bind("/a\x1b[2J\n")]), 100)


def test_everything_that_a_schema_takes_can_be_explained() -> None:
    found = report.explain(CONFIG, "it")  # type: ignore[arg-type]
    assert report.document(found)["granted"]


def test_whatever_is_valid_can_be_explained() -> None:
    chance = random.Random(0)
    seen = 0
    for _ in range(2500):
        document: Any = mutate(chance.choice([*SEEDS["config"], CONFIG, GOOD]), chance)
        if not _checker.config(document) or rules.config(document):
            continue
        seen += 1
        explained = report.explain(document, "it")
        assert report.text(explained, 80)
        assert dumps(report.document(explained))
    assert seen > 10

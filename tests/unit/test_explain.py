"""What `pyrunc explain` says of configurations, and how bad it finds it."""

import copy
import random
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


def test_devices() -> None:
    every = {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}
    root = {"uid": 0, "gid": 0}
    resources = {**GOOD["linux"]["resources"], "devices": [{"allow": True, "access": "rwm"}]}
    assert levels("device", resources=resources, capabilities=every, user=root) == {("critical", "all")}
    assert levels("device", resources=resources) == {("medium", "all")}
    disk = {"type": "b", "path": "/dev/sda", "major": 8, "minor": 0}
    assert levels("device", devices=[disk]) == {("critical", "/dev/sda")}
    assert not levels("device")


def test_limits() -> None:
    assert levels("limit", resources={}) == {
        ("medium", "no limit on memory, no limit on processes"),
        ("low", "no limit on CPU time"),
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
    gained, lost = report.compare(new, old)
    assert [each.subject for each in gained] == ["CAP_MKNOD"]
    assert not [each for each in lost if each.topic == "capability"]
    assert report.compare(new, new) == ([], [])
    assert "Both grant the same." in report.text_of_two(new, new, 100)


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

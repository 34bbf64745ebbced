"""What the specification demands beyond the schema, rule by rule."""

import copy
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pyrunc.spec import rules, rules_rare
from pyrunc.spec.default import default
from pyrunc.spec.types import Config, IDMapping
from unit.spec_support import CONFIG, accepts, edited

BASE: dict[str, Any] = {**default()}
USER = [{"type": "user"}, {"type": "mount"}]
ROOT_ONLY = [{"containerID": 0, "hostID": 1000, "size": 1}]
NET = {"type": "network"}
SOCKETS = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}


def linux(**members: Any) -> dict[str, Any]:
    """The default configuration with another `linux`; Ellipsis removes a member."""
    document = copy.deepcopy(BASE)
    document["linux"] |= members
    document["linux"] = {name: member for name, member in document["linux"].items() if member is not ...}
    return document


def process(**members: Any) -> dict[str, Any]:
    document = copy.deepcopy(BASE)
    document["process"] |= members
    return document


def pointers(document: dict[str, Any]) -> list[str]:
    assert accepts("config", document), "this is for the schema to refuse"
    return [pointer for pointer, _, _ in rules.config(cast("Config", document))]


def mapping(*ranges: tuple[int, int, int]) -> list[dict[str, int]]:
    return [dict(zip(("containerID", "hostID", "size"), each, strict=True)) for each in ranges]


def device(**members: Any) -> dict[str, Any]:
    return {"type": "c", "path": "/dev/x", "major": 1, "minor": 3} | members


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("the version is no number", edited(BASE, "/ociVersion", "latest"), ["/ociVersion"]),
    ("the version is empty", edited(BASE, "/ociVersion", ""), ["/ociVersion"]),
    ("the version has two parts", edited(BASE, "/ociVersion", "1.0"), ["/ociVersion"]),
    ("the version is too new", edited(BASE, "/ociVersion", "2.0.0"), ["/ociVersion"]),
    ("no root", edited(BASE, "/root", ...), [""]),
    ("an empty root path", edited(BASE, "/root/path", ""), ["/root/path"]),
    ("an empty destination", edited(BASE, "/mounts/0/destination", ""), ["/mounts/0/destination"]),
    ("hostname without its namespace", linux(namespaces=[{"type": "mount"}]), ["/hostname"]),
    ("domainname too", edited(linux(namespaces=[{"type": "mount"}]), "/domainname", "d"), ["/hostname", "/domainname"]),
    ("a hostname of 65 bytes", edited(BASE, "/hostname", "x" * 65), ["/hostname"]),
    ("a domainname of 65 bytes in 33 letters", edited(BASE, "/domainname", "ü" * 32 + "x"), ["/domainname"]),
    ("a hook's path is relative", edited(BASE, "/hooks", {"poststop": [{"path": "a"}]}), ["/hooks/poststop/0/path"]),
    ("a mount with half a mapping", edited(BASE, "/mounts/0/uidMappings", ROOT_ONLY), ["/mounts/0"]),
    ("idmap from nowhere", edited(BASE, "/mounts/0/options", ["bind", "idmap"]), ["/mounts/0/options"]),
    ("cwd is relative", process(cwd="tmp"), ["/process/cwd"]),
    ("cwd is empty", process(cwd=""), ["/process/cwd"]),
    ("args is empty", process(args=[]), ["/process/args"]),
    ("args is missing", edited(BASE, "/process/args", ...), ["/process"]),
    ("a variable without a value", process(env=["A=b", "C"]), ["/process/env/1"]),
    ("a variable without a name", process(env=["=b"]), ["/process/env/0"]),
    ("an empty variable", process(env=[""]), ["/process/env/0"]),
    ("uid -1", process(user={"uid": 2**32 - 1, "gid": 0}), ["/process/user/uid"]),
    ("gid -1", process(user={"uid": 0, "gid": 2**32 - 1}), ["/process/user/gid"]),
    ("a group -1", process(user={"additionalGids": [1, 2**32 - 1]}), ["/process/user/additionalGids/1"]),
    (
        "65,537 groups",
        process(user={"uid": 0, "gid": 0, "additionalGids": [7] * 65537}),
        ["/process/user/additionalGids"],
    ),
    ("a terminal of 65,536 rows", process(consoleSize={"height": 65536, "width": 1}), ["/process/consoleSize/height"]),
    (
        "a limit twice",
        process(rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2),
        ["/process/rlimits/1/type"],
    ),
    ("an unknown limit", process(rlimits=[{"type": "RLIMIT_X", "soft": 0, "hard": 0}]), ["/process/rlimits/0/type"]),
    ("soft above hard", process(rlimits=[{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), ["/process/rlimits/0/soft"]),
    ("oomScoreAdj too low", process(oomScoreAdj=-1001), ["/process/oomScoreAdj"]),
    ("nice too high", process(scheduler={"policy": "SCHED_OTHER", "nice": 20}), ["/process/scheduler/nice"]),
    ("a policy that Linux has not", process(scheduler={"policy": "SCHED_ISO"}), ["/process/scheduler/policy"]),
    (
        "a deadline that is too short",
        process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1023, "deadline": 2000}),
        ["/process/scheduler"],
    ),
    (
        "a period of 64 bits",
        process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 2000, "period": 2**63}),
        ["/process/scheduler"],
    ),
    (
        "a priority for none",
        process(scheduler={"policy": "SCHED_BATCH", "priority": 1}),
        ["/process/scheduler/priority"],
    ),
    ("realtime without one", process(scheduler={"policy": "SCHED_FIFO"}), ["/process/scheduler"]),
    (
        "a deadline without a runtime",
        process(scheduler={"policy": "SCHED_DEADLINE", "deadline": 9}),
        ["/process/scheduler"],
    ),
    ("a runtime for none", process(scheduler={"policy": "SCHED_OTHER", "runtime": 9}), ["/process/scheduler"]),
    ("ioPriority 8", process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 8}), ["/process/ioPriority/priority"]),
    ("CPUs backwards", process(execCPUAffinity={"initial": "3-1"}), ["/process/execCPUAffinity/initial"]),
    ("CPUs half", process(execCPUAffinity={"final": "0-,1"}), ["/process/execCPUAffinity/final"]),
    ("a namespace twice", linux(namespaces=[*BASE["linux"]["namespaces"], {"type": "pid"}]), ["/linux/namespaces/5"]),
    (
        "a namespace's path is relative",
        linux(namespaces=[*BASE["linux"]["namespaces"][1:], {"type": "pid", "path": "x"}]),
        ["/linux/namespaces/4/path"],
    ),
    (
        "masks without a mount namespace",
        linux(namespaces=[{"type": "uts"}]),
        ["/linux/maskedPaths", "/linux/readonlyPaths"],
    ),
    ("mappings without a user namespace", linux(uidMappings=ROOT_ONLY), ["/linux/uidMappings"]),
    ("a user namespace without mappings", edited(linux(namespaces=USER), "/hostname", ...), ["/linux", "/linux"]),
    (
        "root not mapped",
        edited(linux(namespaces=USER, uidMappings=ROOT_ONLY, gidMappings=mapping((1, 1, 1))), "/hostname", ...),
        ["/linux/gidMappings", "/process/user/gid"],
    ),
    (
        "the user not mapped",
        edited(
            edited(linux(namespaces=USER, uidMappings=ROOT_ONLY, gidMappings=ROOT_ONLY), "/hostname", ...),
            "/process/user/uid",
            7,
        ),
        ["/process/user/uid"],
    ),
    ("offsets without a namespace", linux(timeOffsets={"monotonic": {"secs": 1}}), ["/linux/timeOffsets"]),
    (
        "offsets for a joined namespace",
        linux(
            namespaces=[*BASE["linux"]["namespaces"], {"type": "time", "path": "/x"}],
            timeOffsets={"boottime": {"secs": 1}},
        ),
        ["/linux/timeOffsets"],
    ),
    (
        "an unknown clock",
        linux(namespaces=[*BASE["linux"]["namespaces"], {"type": "time"}], timeOffsets={"tai": {}}),
        ["/linux/timeOffsets/tai"],
    ),
    (
        "too many nanoseconds",
        linux(
            namespaces=[*BASE["linux"]["namespaces"], {"type": "time"}], timeOffsets={"boottime": {"nanosecs": 10**9}}
        ),
        ["/linux/timeOffsets/boottime/nanosecs"],
    ),
    ("a device without a number", linux(devices=[{"type": "b", "path": "/dev/x", "major": 1}]), ["/linux/devices/0"]),
    ("a major of 13 bits", linux(devices=[device(major=4096)]), ["/linux/devices/0/major"]),
    ("a minor of 21 bits", linux(devices=[device(minor=1 << 20)]), ["/linux/devices/0/minor"]),
    ("a negative minor", linux(devices=[device(minor=-1)]), ["/linux/devices/0/minor"]),
    (
        "a device of -1",
        linux(devices=[device(uid=2**32 - 1, gid=2**32 - 1)]),
        ["/linux/devices/0/uid", "/linux/devices/0/gid"],
    ),
    ("a newline in a cgroup's name", linux(cgroupsPath="/a\nb"), ["/linux/cgroupsPath"]),
    (
        "an error that is cut off",
        linux(seccomp={"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095}),
        ["/linux/seccomp/defaultErrnoRet"],
    ),
    (
        "an error that is 0 in 16 bits",
        linux(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536}],
            }
        ),
        ["/linux/seccomp/syscalls/0/errnoRet"],
    ),
    ("a path twice", linux(devices=[device(), device(minor=5)]), ["/linux/devices/1/path"]),
    (
        "no network namespace",
        linux(namespaces=[{"type": "uts"}, {"type": "mount"}], netDevices={"eth0": {}}),
        ["/linux/netDevices"],
    ),
    ("no name of a device", linux(netDevices={"eth0": {"name": "a/b"}}), ["/linux/netDevices/eth0"]),
    ("too long a name", linux(netDevices={"sixteencharacter": {}}), ["/linux/netDevices/sixteencharacter"]),
    ("too many bytes in a name", linux(netDevices={"eth0": {"name": "ä" * 8}}), ["/linux/netDevices/eth0"]),
    ("a pattern for what is there", linux(netDevices={"eth%d": {}}), ["/linux/netDevices/eth%d"]),
    ("another pattern than a number", linux(netDevices={"eth0": {"name": "c%s"}}), ["/linux/netDevices/eth0"]),
    ("two patterns", linux(netDevices={"eth0": {"name": "c%d%d"}}), ["/linux/netDevices/eth0"]),
    ("the loopback device", linux(netDevices={"lo": {"name": "c0"}}), ["/linux/netDevices/lo"]),
    ("a second loopback device", linux(netDevices={"eth0": {"name": "lo"}}), ["/linux/netDevices/eth0/name"]),
    (
        "two devices of a name",
        linux(netDevices={"eth0": {"name": "eth1"}, "eth1": {}}),
        ["/linux/netDevices/eth1/name"],
    ),
    ("nodes missing", linux(memoryPolicy={"mode": "MPOL_BIND"}), ["/linux/memoryPolicy"]),
    ("nodes too many", linux(memoryPolicy={"mode": "MPOL_LOCAL", "nodes": "0"}), ["/linux/memoryPolicy/nodes"]),
    ("nodes misspelt", linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "a"}), ["/linux/memoryPolicy/nodes"]),
    ("mode missing", linux(memoryPolicy={}), ["/linux/memoryPolicy"]),
    (
        "flags that exclude each other",
        linux(
            memoryPolicy={"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}
        ),
        ["/linux/memoryPolicy/flags"],
    ),
    ("a personality's flags", linux(personality={"domain": "LINUX", "flags": ["x"]}), ["/linux/personality/flags"]),
    ("a personality without domain", linux(personality={}), ["/linux/personality"]),
    ("a class that is a path", linux(intelRdt={"closID": "../x"}), ["/linux/intelRdt/closID"]),
    (
        "schemata of two lines",
        linux(intelRdt={"schemata": ["L3:0=f", "MB:0=9\nL3:0=1"]}),
        ["/linux/intelRdt/schemata/1"],
    ),
    (
        "metadata for nobody",
        linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
        ["/linux/seccomp/listenerMetadata"],
    ),
    ("notify for nobody", linux(seccomp=SOCKETS), ["/linux/seccomp/syscalls/0/action"]),
    ("notify as default", linux(seccomp={"defaultAction": "SCMP_ACT_NOTIFY"}), ["/linux/seccomp/defaultAction"]),
    (
        "notify on write",
        linux(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": "/s",
                "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}],
            }
        ),
        ["/linux/seccomp/syscalls/0/names"],
    ),
    (
        "a number for an action without",
        linux(seccomp={"defaultAction": "SCMP_ACT_LOG", "defaultErrnoRet": 1}),
        ["/linux/seccomp/defaultErrnoRet"],
    ),
    (
        "a seventh argument",
        linux(
            seccomp={
                "defaultAction": "SCMP_ACT_LOG",
                "syscalls": [
                    {"names": ["a"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}
                ],
            }
        ),
        ["/linux/seccomp/syscalls/0/args/0/index"],
    ),
    ("unified with a slash", linux(resources={"unified": {"../x.y": "1"}}), ["/linux/resources/unified/..~1x.y"]),
    ("unified without a dot", linux(resources={"unified": {"memory": "1"}}), ["/linux/resources/unified/memory"]),
    ("rdma of two words", linux(resources={"rdma": {"a b": {}}}), ["/linux/resources/rdma/a b"]),
    (
        "an interface of two lines",
        linux(resources={"network": {"priorities": [{"name": "a\nb", "priority": 1}]}}),
        ["/linux/resources/network/priorities/0/name"],
    ),
    (
        "a device rule's type",
        linux(resources={"devices": [{"allow": True, "type": "x", "access": "r"}]}),
        ["/linux/resources/devices/0/type"],
    ),
    (
        "a device rule without access",
        linux(resources={"devices": [{"allow": True}]}),
        ["/linux/resources/devices/0/access"],
    ),
    (
        "less memory than no limit",
        linux(resources={"memory": {"limit": -2, "swap": -1, "reservation": -3}}),
        ["/linux/resources/memory/limit", "/linux/resources/memory/reservation"],
    ),
    (
        "numbers that no device has",
        linux(resources={"devices": [{"allow": True, "access": "r", "major": 1 << 32, "minor": -2}]}),
        ["/linux/resources/devices/0/major", "/linux/resources/devices/0/minor"],
    ),
]


@pytest.mark.parametrize(("document", "expected"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(document: dict[str, Any], expected: list[str]) -> None:
    assert sorted(pointers(document)) == sorted(expected)


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("the default", BASE),
    ("rootless", {**default(rootless=True, uid=1000, gid=1000)}),
    ("no process: start is for that", edited(BASE, "/process", ...)),
    ("Docker's version", edited(BASE, "/ociVersion", "1.0.2-dev")),
    ("a build's version", edited(BASE, "/ociVersion", "1.2.0-rc.1+dev")),
    ("an empty hostname", edited(linux(namespaces=[{"type": "mount"}]), "/hostname", "")),
    ("relative destinations and masks", edited(linux(maskedPaths=["proc/kcore"]), "/mounts/0/destination", "proc")),
    ("an empty value, and = in one", process(env=["A=", "B=c=d", "E=\n"])),
    ("uid above 2^31", process(user={"uid": 2**31, "gid": 2**32 - 2})),
    ("unknown capabilities", process(capabilities={"bounding": ["CAP_X"]})),
    ("a deadline", process(scheduler={"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 1024})),
    ("realtime", process(scheduler={"policy": "SCHED_RR", "priority": 99})),
    (
        "a path and mappings, as CRI-O gives them",
        linux(
            namespaces=[*BASE["linux"]["namespaces"], {"type": "user", "path": "/proc/1/ns/user"}],
            uidMappings=ROOT_ONLY,
            gidMappings=ROOT_ONLY,
        ),
    ),
    (
        "idmap with a user namespace",
        edited(
            linux(
                namespaces=[*BASE["linux"]["namespaces"], {"type": "user"}],
                uidMappings=ROOT_ONLY,
                gidMappings=ROOT_ONLY,
            ),
            "/mounts/0/options",
            ["ridmap"],
        ),
    ),
    ("crun's receiver", edited(linux(seccomp=SOCKETS), "/annotations", {"run.oci.seccomp.receiver": "/s"})),
    ("the root class", linux(intelRdt={"closID": "/"})),
    ("the same device twice", linux(devices=[device(), device(type="u")])),
    ("the largest device", linux(devices=[device(major=4095, minor=(1 << 20) - 1, uid=2**32 - 2, gid=2**32 - 2)])),
    ("the longest names", edited(edited(BASE, "/hostname", "x" * 64), "/domainname", "ü" * 32)),
    (
        "the largest errors",
        linux(
            seccomp={
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 4094,
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535}],
            }
        ),
    ),
    ("a pipe", linux(devices=[{"type": "p", "path": "/dev/p"}])),
    ("a pattern for a name", linux(netDevices={"eth0": {"name": "c%d"}})),
    ("a pattern for two", linux(netDevices={"eth0": {"name": "c%d"}, "eth1": {"name": "c%d"}})),
    ("two names that change places", linux(netDevices={"eth0": {"name": "eth1"}, "eth1": {"name": "eth0"}})),
    ("above its cgroup", linux(cgroupsPath="../../x")),
    ("other kinds of hooks", edited(BASE, "/hooks", {"x": 1, "y": ["z"], "z": [{"path": "/a"}, {}]})),
]


@pytest.mark.parametrize("document", [case[1] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_accepted(document: dict[str, Any]) -> None:
    assert pointers(document) == []


@pytest.mark.parametrize(
    ("ranges", "wrong"),
    [
        ([(0, 0, 65536), (65536, 100000, 1)], []),
        ([(0, 1000, 0)], ["/0/size"]),
        ([(0, 1000, 10), (5, 5000, 10)], ["/1/containerID"]),
        ([(0, 1000, 10), (100, 995, 10)], ["/0/hostID"]),
        ([(0, 2**32 - 1, 1)], ["/0"]),
        ([(2**32 - 2, 0, 1)], []),
        ([(each, each, 1) for each in range(341)], [""]),
    ],
)
def test_mappings(ranges: list[tuple[int, int, int]], wrong: list[str]) -> None:
    found = rules_rare.mappings_are_ranges(cast("list[IDMapping]", mapping(*ranges)), "/m")
    assert [pointer.removeprefix("/m") for pointer, _, _ in found] == wrong


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("kernel.shmmax", "ipc"),
        ("kernel/shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.msgmni", "ipc"),
        ("net.ipv4.ip_forward", "network"),
        ("net/ipv4/conf/eth0.100/forwarding", "network"),
        ("user.max_user_namespaces", "user"),
        ("kernel.domainname", "uts"),
    ],
)
def test_a_sysctl_needs_its_namespace(name: str, needs: str) -> None:
    for kind in ("ipc", "network", "user", "uts"):
        found = rules.sysctls_are_namespaced({"sysctl": {name: "1"}}, {kind: ""})
        assert bool(list(found)) is (kind != needs)


@pytest.mark.parametrize(
    "name",
    [
        "kernel.hostname",
        "vm.overcommit_memory",
        "kernel.core_pattern",
        "kernel.shmmaxx",
        "net",
        "",
        "net.",
        "net..x",
        "net/../kernel/core_pattern",
        "/net/ipv4/ip_forward",
        "net/./x",
        "fs.mqueue",
        "net.ipv4.//.x",
    ],
)
def test_a_sysctl_of_the_host_is_refused(name: str) -> None:
    inside = dict.fromkeys(("ipc", "network", "user", "uts", "mount", "pid"), "")
    assert list(rules.sysctls_are_namespaced({"sysctl": {name: "1"}}, inside))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/x", "net/ipv4/conf/eth0.100/x"),
        ("net.ipv4.conf.eth0/100.x", "net/ipv4/conf/eth0.100/x"),
    ],
)
def test_the_first_separator_of_a_sysctl_counts(name: str, path: str) -> None:
    assert rules.sysctl_path(name) == path


def warned() -> Iterator[tuple[dict[str, Any], list[str]]]:
    yield edited(BASE, "/mounts/0/destination", "proc"), ["/mounts/0/destination"]
    yield process(capabilities={"bounding": ["CAP_KILL", "CAP_X"], "y": [{}]}), ["/process/capabilities/bounding"]
    yield process(user={"umask": 0o1000}), ["/process/user/umask"]
    yield linux(maskedPaths=["/a", "b"]), ["/linux/maskedPaths/1"]
    yield linux(devices=[device(path="x")]), ["/linux/devices/0"]
    yield linux(cgroupsPath="a/../b"), ["/linux/cgroupsPath"]
    yield linux(resources={"memory": {"kernel": 1}}), ["/linux/resources/memory/kernel"]
    yield BASE, []


@pytest.mark.parametrize(("document", "expected"), [*warned()])
def test_doubtful_things_are_warned_of(document: dict[str, Any], expected: list[str]) -> None:
    assert pointers(document) == []
    assert [pointer for pointer, _, _ in rules.warnings(cast("Config", document))] == expected


def test_a_document_with_everything_breaks_no_rule() -> None:
    document = edited(edited(CONFIG, "/process/user/gid", 0), "/linux/personality/flags", [])
    assert pointers(document) == []


def test_parts_are_checked_by_themselves() -> None:
    assert [each[0] for each in rules.process({"cwd": "x", "args": ["a"]})] == ["/cwd"]
    assert [each[0] for each in rules.resources({"unified": {"a/b": ""}})] == ["/unified/a~1b"]

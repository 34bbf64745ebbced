"""Generated configurations, most of them invalid: whatever config.json says, there is no traceback, no hang, and
nothing left behind. Those that are just valid: test_at_the_edge.py.

By default some seconds' worth. For longer: PYRUNC_FUZZ_MINUTES=30 pytest --timeout 2000 FILE
What it finds comes with hypothesis' smallest example. Nothing that is generated reaches for the host: names of devices
and cgroups are the test's own, hooks run /bin/true, paths are below its folder or in the kernel's file systems.
"""

import copy
import os
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from integration.support.bundle import apply, base_config, namespaces
from integration.support.container import MARK
from integration.support.host import all_cgroups, host_mounts, inventory, processes_of
from integration.support.runtime import wait_until
from pyrunc.init.mounts import normal

MINUTES = float(os.environ.get("PYRUNC_FUZZ_MINUTES", "0.1"))
HANG = 20  # seconds
FULL_LOOK = 50  # examples between two looks at all processes


def words(text):
    """One of the words of a text; two blanks are around an empty one."""
    return some.sampled_from(text.split(" "))


def many(of, most):
    return some.lists(of, max_size=most)


def mapping_of(keys, values, most):
    return some.dictionaries(keys, values, max_size=most)


def record(members, optional=None):
    return some.fixed_dictionaries(members, optional=optional)


number = some.one_of(
    some.sampled_from(
        [-(2**63), -(2**31), -2, -1, 0, 1, 2, 7, 1000, 2**16, 2**31 - 1, 2**32 - 1, 2**32, 2**63 - 1, 2**64]
    ),
    some.integers(-10, 70000),
)
small = some.integers(-1, 40)
word = some.one_of(
    some.sampled_from(
        ["", ".", "..", "/", "a", "a/b", "../../x", "x" * 300, "ü", "\u2028", "%s", "a b", "\x7f", "-1", "0"]
    ),
    some.text(some.characters(blacklist_categories=["Cs"]), max_size=12),
)
anything = some.recursive(
    some.one_of(some.none(), some.booleans(), number, word, some.floats(allow_nan=False)),
    lambda inner: some.one_of(many(inner, 3), mapping_of(word, inner, 3)),
    max_leaves=5,
)
# Inside the container, or in the kernel's file systems of the host.
inside = some.one_of(
    words(
        "/  a /a /a/b/c /proc /proc/self/attr /proc/cpuinfo /sys /sys/fs/cgroup /dev /dev/null /dev/pts /dev/console "
        "/dev/shm /etc/passwd /bin /bin/busybox /link /link/x /loop /tmp/../tmp //tmp// /tmp/. /run/x\n /tmp/\U0001f600"
    ),
    some.sampled_from(["/" + "d/" * 60, "/" + "n" * 256, "/" + "l" * 5000]),
    word.map(lambda text: f"/tmp/{text}"),
)
option = some.one_of(
    words(
        "ro rw bind rbind nosuid nodev noexec noatime relatime strictatime nodiratime "
        "sync dirsync mand lazytime iversion silent private rprivate slave rslave shared "
        "rshared unbindable rro rnosuid rnoatime rrelatime nosymfollow tmpcopyup remount "
        "idmap ridmap mode=755 mode=9 size=64k size=x nr_inodes=1 newinstance gid=5 uid=0 "
        "defaults context=x x=y ="
    ),
    word,
)
mapping = record({"containerID": small, "hostID": some.sampled_from([0, 1000, 100000]), "size": number})
mount = record(
    {"destination": inside},
    {
        "type": words(" bind tmpfs proc sysfs devpts mqueue cgroup cgroup2 ramfs overlay nofs ext4"),
        "source": words(" tmpfs proc rootfs rootfs/etc/passwd missing /dev/null /proc/self /sys source ../source"),
        "options": many(option, 5),
        "uidMappings": many(mapping, 2),
        "gidMappings": many(mapping, 2),
    },
)
namespace = record(
    {"type": words("pid network mount ipc uts user cgroup time x")},
    {"path": words(" /proc/self/ns/pid /proc/self/ns/net /proc/self/ns/uts /dev/null /x x")},
)
capability = words("CAP_KILL CAP_SYS_ADMIN CAP_NET_RAW CAP_CHOWN CAP_SETUID cap_kill CAP_X KILL ")
hook = record(
    {"path": words("/bin/true /bin/false /bin/missing true  /dev/null /bin")},
    {"args": many(word, 2), "env": many(word, 2), "timeout": small},
)
device = record(
    {"path": inside, "type": words("c b u p a x")},
    {"major": small, "minor": small, "fileMode": number, "uid": number, "gid": number},
)
rule = record(
    {"allow": some.booleans()},
    {
        "type": words("a b c x"),
        "major": small,
        "minor": small,
        "access": words("r rwm m x "),
    },
)
calls = many(
    words("getpid uname execve write exit_group openat nosuchcall clone getcwd"),
    4,
)
action = words(
    "SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS "
    "SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP SCMP_ACT_LOG SCMP_ACT_TRACE SCMP_ACT_NOTIFY x"
)
seccomp = record(
    {"defaultAction": action},
    {
        "defaultErrnoRet": number,
        "architectures": many(words("SCMP_ARCH_X86_64 SCMP_ARCH_X86 SCMP_ARCH_X32 SCMP_ARCH_S390X x"), 3),
        "flags": many(words("SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_TSYNC x"), 2),
        "listenerPath": words(" /missing /dev/null"),
        "syscalls": many(
            record(
                {"names": calls, "action": action},
                {
                    "errnoRet": number,
                    "args": many(
                        record(
                            {
                                "index": small,
                                "value": number,
                                "op": words("SCMP_CMP_EQ SCMP_CMP_MASKED_EQ SCMP_CMP_NE SCMP_CMP_GT x"),
                            },
                            {"valueTwo": number},
                        ),
                        2,
                    ),
                },
            ),
            4,
        ),
    },
)
resources = record(
    {},
    {
        "memory": mapping_of(words("limit reservation swap kernel kernelTCP swappiness"), number, 3),
        "cpu": some.one_of(
            mapping_of(
                words("shares quota period burst idle realtimeRuntime realtimePeriod"),
                number,
                3,
            ),
            mapping_of(
                words("cpus mems"),
                words("0 0-1 9999  x 1-0 0,"),
                2,
            ),
        ),
        "pids": record({"limit": number}),
        "blockIO": mapping_of(words("weight leafWeight"), number, 2),
        "hugepageLimits": many(
            record({"pageSize": words("2MB 1GB 3MB ../x "), "limit": number}),
            2,
        ),
        "network": record(
            {},
            {
                "classID": number,
                "priorities": many(record({"name": word, "priority": small}), 2),
            },
        ),
        "rdma": mapping_of(word, mapping_of(words("hcaHandles hcaObjects"), number, 2), 2),
        "unified": mapping_of(
            some.one_of(word, words("memory.max pids.max cgroup.freeze cgroup.procs ../x")),
            word,
            2,
        ),
        "devices": many(rule, 4),
    },
)
names = {
    "ociVersion": words("1.0.0 1.3.0 1.2.0-dev 2.0.0  x"),
    "hostname": word,
    "domainname": word,
    "annotations": mapping_of(word, word, 3),
    "mounts": many(mount, 4),
    "hooks": mapping_of(
        words("prestart createRuntime createContainer startContainer poststart poststop"), many(hook, 2), 3
    ),
    "root": record({"path": words("rootfs rootfs/ ./rootfs missing config.json ")}, {"readonly": some.booleans()}),
    "user": record({"uid": number, "gid": number}, {"umask": number, "additionalGids": many(number, 3)}),
    "args": some.one_of(
        some.sampled_from([["true"], ["false"], ["missing"], ["/bin"], [""], ["/etc/passwd"], ["sh", "-c", "exit 3"]]),
        many(word, 3),
    ),
    "env": many(some.one_of(word, words("PATH= PATH=/bin A=b LD_PRELOAD=/x HOME")), 4),
    "cwd": inside,
    "terminal": some.booleans(),
    "consoleSize": record({"height": number, "width": number}),
    "capabilities": mapping_of(words("bounding effective inheritable permitted ambient"), many(capability, 4), 5),
    "rlimits": many(
        record(
            {"type": words("RLIMIT_NOFILE RLIMIT_CORE RLIMIT_AS RLIMIT_NPROC RLIMIT_X"), "soft": number, "hard": number}
        ),
        3,
    ),
    "noNewPrivileges": some.booleans(),
    "oomScoreAdj": number,
    "apparmorProfile": word,
    "selinuxLabel": word,
    "scheduler": record(
        {"policy": words("SCHED_OTHER SCHED_BATCH SCHED_IDLE SCHED_FIFO SCHED_DEADLINE SCHED_X")},
        {
            "nice": small,
            "priority": small,
            "runtime": number,
            "deadline": number,
            "period": number,
            "flags": many(words("SCHED_FLAG_RESET_ON_FORK x"), 2),
        },
    ),
    "ioPriority": record({"class": words("IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE IOPRIO_CLASS_RT x")}, {"priority": small}),
    "execCPUAffinity": mapping_of(words("initial final"), words("0 0-1 99999 x "), 2),
    "namespaces": many(namespace, 7),
    "uidMappings": many(mapping, 3),
    "gidMappings": many(mapping, 3),
    "timeOffsets": mapping_of(words("boottime monotonic x"), record({"secs": number, "nanosecs": number}), 2),
    "devices": many(device, 3),
    "cgroupsPath": word.map(lambda text: f"/{MARK}-generated/{text}"),
    "resources": resources,
    "sysctl": mapping_of(
        words("net.ipv4.ip_forward net/ipv4/ip_forward kernel.msgmax net.x ..  kernel.domainname"), word, 2
    ),
    "rootfsPropagation": words("private rprivate slave rslave shared rshared unbindable  x"),
    "maskedPaths": many(inside, 4),
    "readonlyPaths": many(inside, 4),
    "mountLabel": word,
    "personality": record({"domain": words("LINUX LINUX32 x")}),
    "memoryPolicy": record({"mode": words("MPOL_DEFAULT MPOL_BIND MPOL_LOCAL x")}, {"nodes": words("0 9  x")}),
    "intelRdt": record(
        {}, {"closID": word, "l3CacheSchema": word, "schemata": many(word, 2), "enableMonitoring": some.booleans()}
    ),
    "netDevices": mapping_of(some.one_of(some.just("pyrunc-none0"), some.just("lo0/x")), record({}, {"name": word}), 2),
    "seccomp": seccomp,
}
OWN_NAMESPACES = (
    ("pid", "mount"),
    ("mount",),
    ("pid", "network", "ipc", "uts", "mount"),
    ("user", "mount", "pid"),
    ("mount", "cgroup", "time"),
)


@some.composite
def configurations(draw):
    """The base configuration with some members changed, and now and then one that is of no shape at all."""
    config = copy.deepcopy(base_config())
    if draw(some.integers(0, 3)) == 0:
        config["linux"]["namespaces"] = namespaces(*draw(some.sampled_from(OWN_NAMESPACES)))
        if {"type": "user"} in config["linux"]["namespaces"]:
            whole = [{"containerID": 0, "hostID": draw(some.sampled_from([0, 100000])), "size": 65536}]
            config["linux"] |= {"uidMappings": whole, "gidMappings": whole}
    chosen = draw(some.lists(some.sampled_from(sorted(names)), min_size=1, max_size=5, unique=True))
    for name in chosen:
        value = draw(names[name]) if draw(some.integers(0, 30)) else draw(anything)
        if name == "mounts" and not isinstance(value, list):
            config["mounts"] = value
        else:
            apply(config, {name: value})
    cgroup = config["linux"].get("cgroupsPath")
    if not (isinstance(cgroup, str) and cgroup.startswith(f"/{MARK}")) or ".." in cgroup:
        config["linux"].pop("cgroupsPath", None)
    return config


@pytest.mark.slow
def test_generated_configurations(runtime, bundle):
    made = bundle()
    made.rootfs.joinpath("link").symlink_to("/etc")
    made.rootfs.joinpath("loop").symlink_to("loop")
    (made.path / "source").mkdir()
    (made.path.parent / "source").mkdir()
    for folder in made.path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    end = time.monotonic() + MINUTES * 60
    mounts, cgroups = host_mounts(), all_cgroups()
    seen = {"examples": 0, "started": 0}

    @settings(
        max_examples=int(MINUTES * 60 * 40) + 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(configurations())
    def one(config):
        if time.monotonic() > end:
            return
        seen["examples"] += 1
        made.config = config
        made.write()
        name = f"{MARK}-generated"
        result = runtime("run", "--bundle", made.path, name, check=False, timeout=HANG)
        seen["started"] += result.code not in (1, 255)
        assert "Traceback" not in result.err, result
        assert "Error:" not in result.err, result  # the name of an exception that nobody expected
        if result.code == 1 and config.get("process", {}).get("args") != ["false"]:
            assert result.err.strip(), result
        assert not [each for each in os.listdir(runtime.root) if ":" not in each], result
        assert host_mounts() == mounts, result
        left = sorted(path for path in all_cgroups() - cgroups if MARK in path)
        own = normal(config["linux"].get("cgroupsPath") or name)
        for path in reversed(left):
            os.rmdir(path)  # the next example is judged by itself
        assert not [path for path in left if path.endswith(own)], (left, result)  # the folders above it stay, as runc's
        if seen["examples"] % FULL_LOOK == 0:
            wait_until(lambda: not processes_of(str(made.path)), "its processes to end", 3)

    one()
    print(seen)
    assert seen["examples"] > 10
    inventory(made.rootfs)

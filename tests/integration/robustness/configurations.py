"""Configurations near the edge of what is valid, each from a seed: what follows the schema and the rules, but is the
largest, the smallest, empty, or asks for what this kernel or host may not have.

Nothing in them reaches for the host: cgroups are a test's own, hooks run /bin/true, devices are those of every
container, and what is bound lies in the bundle or in the kernel's file systems.
"""

import copy
from collections.abc import Callable
from random import Random
from typing import Any

from integration.support.bundle import MAPS, NAMESPACES, base_config, namespaces

Value = Callable[[Random], Any]
ID = 2**32 - 2  # the largest that there is
INT64, UINT64, UINT32, UINT16 = 2**63 - 1, 2**64 - 1, 2**32 - 1, 2**16 - 1
MIB = 1 << 20


def one(*values: Any) -> Value:
    """One of these. A function is called for its value."""

    def choose(random: Random) -> Any:
        chosen = random.choice(values)
        return chosen(random) if callable(chosen) else copy.deepcopy(chosen)

    return choose


def some(value: Value, most: int, least: int = 0) -> Value:
    return lambda random: [value(random) for _ in range(random.randint(least, most))]


def several(*values: Any, most: int = 4) -> Value:
    """Some of these, none twice."""
    return lambda random: random.sample(values, random.randint(0, min(most, len(values))))


def record(needed: "dict[str, Value] | None" = None, **optional: Value) -> Value:
    """Leave some of the optional members out, by chance."""

    def make(random: Random) -> dict[str, Any]:
        found = {name: value(random) for name, value in (needed or {}).items()}
        for name, value in optional.items():
            if random.random() < 0.4:
                found[name] = value(random)
        return found

    return make


def mapping(names: Value, value: Value, most: int = 2) -> Value:
    return lambda random: {names(random): value(random) for _ in range(random.randint(1, most))}


def words(text: str) -> Value:
    return one(*text.split())


TEXT = one("", "a", "a b", "ü", "%s", "x" * 64, "y" * 65, "z" * 255, "w" * 300, "-1", "..", "\n", "a\tb", "\U0001f600")
NUMBER = one(0, 1, 2, 100, 1000, UINT16, 2**31 - 1, UINT32, INT64)
SIGNED = one(-INT64 - 1, -(2**31), -2, -1, NUMBER)
UNSIGNED = one(NUMBER, UINT64)
ID_OF_A_USER = one(0, 1, 1000, UINT16, UINT16 + 1, 2**31 - 1, 2**31, ID)
PATH = one(
    "/", "/a", "/a/b/c", "/bin", "/bin/busybox", "/etc/passwd", "/etc/passwd/x", "/link", "/link/x", "/loop", "/loop/x",
    "/dangling", "/dangling/x", "/proc", "/proc/self", "/proc/cpuinfo", "/proc/sys", "/proc/kcore", "/sys",
    "/sys/fs/cgroup", "/dev", "/dev/null", "/dev/pts", "/dev/console", "/dev/shm", "/dev/fd/0", "/fifo", "/socket",
    "/tmp/../tmp", "//tmp//", "/tmp/.", "/tmp/\n", "/tmp/ü", "relative", "./a", "../a", "", "/" + "d/" * 60,
    "/" + "n" * 255, "/" + "n" * 256, "/" + "l/" * 2040, "/" + "l/" * 2100, "/.", "/..", "/tmp/x y",
)  # fmt: skip
PLAIN_OPTION = words(
    "ro rw bind rbind nosuid suid nodev dev noexec exec noatime atime relatime norelatime strictatime nostrictatime"
    " nodiratime diratime sync async dirsync mand nomand lazytime iversion silent loud defaults private rprivate slave"
    " rslave shared rshared unbindable runbindable rro rrw rnosuid rnodev rnoexec rnoatime rrelatime rstrictatime"
    " nosymfollow rnosymfollow tmpcopyup remount"
)
OPTION = one(PLAIN_OPTION, words("idmap ridmap x x= =x = size x=y"), one("", " ", "a,b", "k" * 300, f"v={'v' * 300}"))
OPTION_OF_TMPFS = words(
    "size=0 size=1 size=64k size=-1 size=200% size=x size= size mode=0 mode=755 mode=1777 mode=7777 mode=99999 mode=9"
    " mode= nr_inodes=0 nr_inodes=1 nr_inodes=-1 nr_blocks=1 uid=0 uid=1000 uid=4294967294 uid=4294967295 uid=-1 uid=x"
    " gid=5 gid=4294967295 huge=always huge=never huge=x mpol=local mpol=bind:0 mpol=bind:9 mpol=x noswap inode32"
    " inode64 size=99999999999999999999 size=18446744073709551615"
)
OPTION_OF_DEVPTS = words(
    "newinstance ptmxmode=0666 ptmxmode=99999 ptmxmode=x mode=620 mode=7777 gid=5 gid=4294967295 uid=-1 max=0 max=1"
    " max=1048576 max=99999999"
)
OPTION_OF_PROC = words("hidepid=0 hidepid=2 hidepid=ptraceable hidepid=9 hidepid=x gid=5 gid=-1 subset=pid subset=x")
MAPPING = record({"containerID": one(0, 1, 1000, ID), "hostID": one(0, 1000, 100000, ID),
                  "size": one(1, 65536, ID, UINT32)})  # fmt: skip
BIND_SOURCE = one(
    "rootfs", "source", "source/file", "../source", "rootfs/etc/passwd", "missing", "/proc/self/ns/net", "/dev/null",
    "/sys", "/proc", "source/fifo", "source/socket", "source/link", "source/dangling", "", ".",
)  # fmt: skip


SOURCE = one("x", "", "tmpfs")


def _mount(kind: str, option: Value, source: Value = SOURCE) -> Value:
    return record({"destination": PATH, "type": one(kind), "options": some(option, 4)}, source=source)


MOUNT = one(
    _mount("tmpfs", one(OPTION_OF_TMPFS, OPTION_OF_TMPFS, OPTION)),
    _mount("bind", one(PLAIN_OPTION, PLAIN_OPTION, OPTION), BIND_SOURCE),
    record({"destination": PATH, "type": one("bind"), "source": BIND_SOURCE, "options": several("bind", "ro", "idmap"),
            "uidMappings": some(MAPPING, 2, 1), "gidMappings": some(MAPPING, 2, 1)}),
    _mount("devpts", one(OPTION_OF_DEVPTS, PLAIN_OPTION)),
    _mount("proc", one(OPTION_OF_PROC, PLAIN_OPTION)),
    _mount("sysfs", PLAIN_OPTION),
    _mount("mqueue", PLAIN_OPTION),
    _mount("cgroup", PLAIN_OPTION),
    _mount("cgroup2", PLAIN_OPTION),
    _mount("ramfs", one(PLAIN_OPTION, words("mode=755 mode=9 size=1 x=y"))),
    _mount("overlay", one(PLAIN_OPTION, words("lowerdir=/ lowerdir=/a:/b upperdir=/x userxattr xino=on"))),
    _mount("nofs", PLAIN_OPTION),
    _mount("ext4", PLAIN_OPTION, BIND_SOURCE),
    record({"destination": PATH}, options=some(OPTION, 3), source=BIND_SOURCE),
)  # fmt: skip
CAPABILITY = words(
    "CAP_KILL CAP_SYS_ADMIN CAP_NET_RAW CAP_CHOWN CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_SETFCAP CAP_SYS_RESOURCE"
    " CAP_MKNOD CAP_CHECKPOINT_RESTORE CAP_DAC_OVERRIDE"
)
HOOK = record({"path": words("/bin/true /bin/false /bin/missing /dev/null /bin")},
              args=some(TEXT, 2), env=some(one("A=b", "A=", "A=" + "x" * 5000), 2), timeout=one(1, 2))  # fmt: skip
DEVICE = record(
    {"path": one("/dev/x", "/dev/null", "/dev/fuse", "/dev/ptmx", "/dev/console", "/dev/pts/0", PATH),
     "type": words("c b u p"), "major": one(0, 1, 10, 511, 4095, 4096, UINT32, INT64),
     "minor": one(0, 3, 255, 2**20 - 1, 2**20, INT64)},
    fileMode=one(0, 0o666, 0o7777, 0o777, 0o20666, UINT32), uid=ID_OF_A_USER, gid=ID_OF_A_USER,
)  # fmt: skip
RULE = record({"allow": one(True, False)}, type=words("a b c"), major=one(-1, 0, 1, 10, 511, UINT32, INT64),
              minor=one(-1, 0, 3, UINT32, INT64), access=words("r w m rwm rw mr rrr"))  # fmt: skip
ACTION = words("SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_TRAP SCMP_ACT_LOG SCMP_ACT_TRACE SCMP_ACT_KILL"
               " SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD")  # fmt: skip
ARGUMENT = record({"index": one(0, 1, 5), "value": UNSIGNED,
                   "op": words("SCMP_CMP_EQ SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_GE SCMP_CMP_MASKED_EQ")},
                  valueTwo=UNSIGNED)  # fmt: skip
SYSCALL = record({"names": some(words("getpid uname getcwd nosuchcall mkdir ptrace clone3 sync acct"), 3, 1),
                  "action": ACTION},
                 errnoRet=one(0, 1, 38, 4095, 4096, UINT32), args=some(ARGUMENT, 3))  # fmt: skip
SECCOMP = record(
    {"defaultAction": one("SCMP_ACT_ALLOW", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", ACTION)},
    defaultErrnoRet=one(1, 4095, 4096),
    architectures=several("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X", "SCMP_ARCH_AARCH64"),
    flags=several("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                  "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
    syscalls=some(SYSCALL, 4, 1),
)  # fmt: skip
BYTES = one(-1, 0, 1, 4095, 4096, MIB, 64 * MIB, 2**40, INT64)
MEMORY = record({"limit": one(-1, 0, 1, 4 * MIB, 64 * MIB, INT64)}, reservation=BYTES, swap=BYTES, kernel=BYTES,
                kernelTCP=BYTES, swappiness=one(0, 60, 100, 101, 200, 201), disableOOMKiller=one(True, False),
                checkBeforeUpdate=one(True, False), useHierarchy=one(True, False))  # fmt: skip
CPU = record(
    None,
    shares=one(0, 1, 2, 1024, 262144, 262145, UINT64), quota=one(-1, 0, 999, 1000, 20000, INT64),
    period=one(0, 999, 1000, 100000, 1000000, 1000001), burst=one(0, 1000, 20000, UINT64), idle=one(0, 1, -1, 2),
    cpus=one("", "0", "0-1", "1,0", "0-9999", "99", "0,0", "1-0", "x", " 0"), mems=one("", "0", "1", "0-1", "63", "x"),
    realtimeRuntime=one(0, 1000, 950000), realtimePeriod=one(0, 1000, 1000000),
)  # fmt: skip
WEIGHT = one(0, 1, 9, 10, 500, 1000, 1001, UINT16)
DISK = {"major": one(0, 7, 8, 253, INT64), "minor": one(0, 1, INT64)}
THROTTLE = some(record({**DISK, "rate": UNSIGNED}), 1, 1)
RESOURCES = record(
    None,
    memory=MEMORY,
    cpu=CPU,
    pids=record({"limit": one(-1, 0, 2, 100, 2**22, 2**31, INT64)}),
    blockIO=record(None, weight=WEIGHT, leafWeight=WEIGHT, weightDevice=some(record({**DISK, "weight": WEIGHT}), 1, 1),
                   throttleReadBpsDevice=THROTTLE, throttleWriteIOPSDevice=THROTTLE),
    hugepageLimits=some(record({"pageSize": words("2MB 1GB 64KB 3MB 2048kB"), "limit": UNSIGNED}), 2),
    network=record(None, classID=one(0, 1, 0x100001, UINT32),
                   priorities=some(record({"name": words("lo eth0 nonesuch"), "priority": one(0, 1, UINT32)}), 2)),
    rdma=mapping(words("mlx5_0 x"), record({"hcaHandles": one(0, 3, UINT32)}, hcaObjects=one(0, 10000, UINT32))),
    unified=mapping(words("memory.max memory.high pids.max cpu.weight cgroup.freeze cgroup.procs nosuch.file cpu.max"),
                    one("max", "0", "1", "x", "", "100", "-1", "100000 100000")),
    devices=some(RULE, 4),
)  # fmt: skip
SYSCTL = mapping(
    words("net.ipv4.ip_forward net/ipv4/ip_forward net.ipv4.conf.lo.forwarding net.ipv4.nosuch net.nosuch.x"
          " kernel.msgmax kernel.shmmax kernel.sem kernel.domainname fs.mqueue.msg_max net.ipv4.ping_group_range"
          " net.core.somaxconn net.ipv4.tcp_rmem net.ipv4.ip_local_port_range"),
    one("0", "1", "-1", "x", "", "99999999999999999999", "1 2 3 4", "0 2147483647", "9" * 5000, "1\n", "0 0 0"),
)  # fmt: skip
RLIMIT = record({"type": words("RLIMIT_NOFILE RLIMIT_CORE RLIMIT_NPROC RLIMIT_STACK RLIMIT_CPU RLIMIT_MEMLOCK"
                               " RLIMIT_RTPRIO RLIMIT_NICE RLIMIT_FSIZE RLIMIT_AS"),
                 "soft": one(0, 3, 4, 20, 1024, 2**20), "hard": one(0, 20, 1024, 2**20, 2**31, UINT64)})  # fmt: skip
SCHEDULER = one(
    record({"policy": words("SCHED_OTHER SCHED_BATCH SCHED_IDLE SCHED_ISO")}, nice=one(-20, -1, 0, 19),
           flags=several("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_UTIL_CLAMP_MIN", most=2)),
    record({"policy": words("SCHED_FIFO SCHED_RR"), "priority": one(1, 50, 99)},
           flags=several("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", most=1)),
    record({"policy": one("SCHED_DEADLINE"), "runtime": one(1, 1023, 1024, 10**6, 2**40), "deadline": one(10**6, 10**7,
            2**62), "period": one(0, 10**6, 10**7, 2**62, UINT64)}),
)  # fmt: skip
NODES = one("", "0", "0-1", "63", "0,0", "1023", " 0")
USER = record({"uid": ID_OF_A_USER, "gid": ID_OF_A_USER}, umask=one(0, 0o22, 0o777, 0o1000, UINT32),
              additionalGids=one(some(ID_OF_A_USER, 4), list(range(70000, 70000 + 65537)), [7] * 100))  # fmt: skip
NAMESPACE_PATH = one("/proc/self/ns/NAME", "/proc/self/ns/NAME", "/dev/null", "/missing", "/proc/self/ns/uts", "/")
OWN = one(
    NAMESPACES, ("mount",), ("mount", "pid"), ("pid",), (), ("mount", "uts", "network"), (*NAMESPACES, "cgroup"),
    (*NAMESPACES, "time"), (*NAMESPACES, "cgroup", "time"),
)  # fmt: skip


def _namespaces(random: Random) -> list[dict[str, str]]:
    found = namespaces(*OWN(random))
    if random.random() < 0.4:
        kind = random.choice(("network", "ipc", "uts", "pid", "cgroup", "time", "user", "mount"))
        file = {"network": "net", "mount": "mnt"}.get(kind, kind)
        found = [each for each in found if each["type"] != kind]
        found.append({"type": kind, "path": NAMESPACE_PATH(random).replace("NAME", file)})
    return found


# Where a member belongs, and the values that it gets.
MEMBERS: dict[tuple[str, ...], Value] = {
    ("ociVersion",): words("1.0.0 1.0.2-dev 1.3.0 1.99.99"),
    ("hostname",): TEXT,
    ("domainname",): TEXT,
    ("annotations",): mapping(TEXT, TEXT),
    ("mounts",): some(MOUNT, 3, 1),
    ("hooks",): mapping(
        words("prestart createRuntime createContainer startContainer poststart poststop"), some(HOOK, 2)
    ),
    ("root",): record({"path": words("rootfs rootfs/ ./rootfs missing config.json rootfs/bin rootfs/link . ..")},
                      readonly=one(True, False)),
    ("process", "user"): USER,
    ("process", "args"): one(["true"], ["false"], ["missing"], ["/bin"], [""], ["/etc/passwd"], ["/link"], ["/fifo"],
                             ["/bin/true", ""], ["true", "x" * 131071], ["true", "x" * 131072], ["true"] * 5000,
                             ["./true"], ["../bin/true"], ["bin/true"], ["/etc/passwd/x"], ["/bin/busybox", "true"]),
    ("process", "env"): some(one("PATH=/bin", "PATH=", "PATH=x::/bin", "A=b", "A=", "A==", "HOME=", "ü=ü", "A=\n",
                                 "A=" + "x" * 131072, "LD_PRELOAD=/x"), 4),
    ("process", "cwd"): PATH,
    ("process", "terminal"): one(True, False),
    ("process", "consoleSize"): record({"height": one(0, 24, UINT16, UINT16 + 1, INT64),
                                        "width": one(0, 80, UINT16, UINT16 + 1)}),
    ("process", "capabilities"): record(None, bounding=some(CAPABILITY, 4),
                                        effective=some(CAPABILITY, 3), permitted=some(CAPABILITY, 4),
                                        inheritable=some(CAPABILITY, 3), ambient=some(CAPABILITY, 3)),
    ("process", "rlimits"): some(RLIMIT, 3, 1),
    ("process", "noNewPrivileges"): one(True, False),
    ("process", "oomScoreAdj"): one(-1000, -999, -1, 0, 1, 999, 1000),
    ("process", "apparmorProfile"): one("", "unconfined", "nonesuch", "a b"),
    ("process", "selinuxLabel"): one("", "system_u:system_r:container_t:s0", "x"),
    ("process", "scheduler"): SCHEDULER,
    ("process", "ioPriority"): record({"class": words("IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE IOPRIO_CLASS_RT"),
                                       "priority": one(0, 4, 7)}),
    ("process", "execCPUAffinity"): record(None, initial=words("0 0-1 99 8191 8192 99999"), final=words("0 1 9999")),
    ("linux", "namespaces"): _namespaces,
    ("linux", "timeOffsets"): mapping(
        words("boottime monotonic"),
        record(None, secs=one(-INT64, -1, 0, 1, 10**9, INT64), nanosecs=one(0, 1, 999999999)),
    ),
    ("linux", "devices"): some(DEVICE, 3, 1),
    ("linux", "cgroupsPath"): one("", "/MARK", "/MARK/a/b", "MARK", "/MARK/../MARK/x", "/MARK/" + "n" * 255,
                                  "/MARK/" + "n" * 256, "/MARK/" + "d/" * 100, "/MARK/ü\n", "//MARK//"),
    ("linux", "resources"): RESOURCES,
    ("linux", "sysctl"): SYSCTL,
    ("linux", "rootfsPropagation"): words("private rprivate slave rslave shared rshared unbindable runbindable"),
    ("linux", "maskedPaths"): some(PATH, 4, 1),
    ("linux", "readonlyPaths"): some(PATH, 4, 1),
    ("linux", "mountLabel"): one("", "system_u:object_r:container_file_t:s0", "x"),
    ("linux", "personality"): record({"domain": words("LINUX LINUX32")}),
    ("linux", "memoryPolicy"): one(
        record({"mode": words("MPOL_BIND MPOL_INTERLEAVE MPOL_PREFERRED_MANY MPOL_WEIGHTED_INTERLEAVE"),
                "nodes": one("0", "0-1", "63", "0,0", "1023", " 0")},
               flags=several("MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING", most=2)),
        record({"mode": words("MPOL_DEFAULT MPOL_LOCAL MPOL_PREFERRED")},
               flags=several("MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING", most=1)),
    ),
    ("linux", "intelRdt"): record(None, closID=one("", "/", "a", "n" * 300), l3CacheSchema=one("", "L3:0=f", "x"),
                                  schemata=some(one("L3:0=f", "x"), 2), enableMonitoring=one(True, False)),
    ("linux", "netDevices"): mapping(words("pyrunc-none0 pyrunc-none1"), record(None, name=words("eth0 eth%d"))),
    ("linux", "seccomp"): SECCOMP,
}  # fmt: skip


def make(seed: int, mark: str) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """A configuration, and which of its members are not those of every container. `mark` is in the cgroup's path."""
    random = Random(seed)
    config = base_config()
    if random.random() < 0.2:
        config["linux"]["namespaces"] = namespaces(*OWN(random), "user")
        config["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    chosen = random.sample(list(MEMBERS), random.choice((1, 1, 2, 3)))
    for where in chosen:
        value = MEMBERS[where](random)
        *above, name = where
        holder = config[above[0]] if above else config
        if name == "mounts":
            value = config["mounts"] + value
        elif name == "namespaces" and {"type": "user"} in config["linux"]["namespaces"]:
            value = [each for each in value if each["type"] != "user"] + [{"type": "user"}]
        elif name == "cgroupsPath":
            value = value.replace("MARK", f"{mark}-generated")
        holder[name] = value
    return config, chosen

"""What users type to `docker run` and `podman run`, as a table: options, and a program that shows what they did.

Options that do not disturb each other share a row: what differs is seen line by line all the same.
"""

import re
from collections.abc import Iterator
from pathlib import Path

DISKS = sorted(disk.name for disk in Path("/sys/block").glob("*") if not disk.name.startswith("ram"))
BLOCK = f"/dev/{DISKS[-1]}" if DISKS else ""
FILES = (
    "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes"
    " memory/memory.swappiness cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus"
    " cpuset/cpuset.mems pids/pids.max blkio/blkio.weight blkio/blkio.bfq.weight devices/devices.list"
    " memory.max memory.swap.max memory.low cpu.weight cpu.max cpuset.cpus cpuset.mems pids.max io.weight io.bfq.weight"
    " io.max"
)
LIMITS = f"cd /sys/fs/cgroup; for f in {FILES} blkio/*_device; do test -f $f && echo $f $(sort $f); done"
STATUS = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Cpus_allowed_list)' /proc/self/status"
NETWORK = "ls /sys/class/net; ip route; cat /etc/hosts | wc -l"
BRIDGE = "ip route | cut -d' ' -f1-3,5; ping -c 1 -W 2 $(ip route | sed -n 1p | cut -d' ' -f3) >/dev/null; echo $?"
MASKED = "for f in /proc/kcore /proc/keys /proc/sysrq-trigger /sys/firmware; do wc -c $f; ls $f | wc -l; done"

RUN: "dict[str, tuple[str, str]]" = {
    "exit status and streams": ("", "echo out; echo err >&2; exit 7"),
    "memory": ("-m 64m --memory-swap 128m --memory-reservation 32m", LIMITS),
    "memory-swappiness": ("--memory-swappiness 10", LIMITS),
    "c, cpuset": ("-c 512 --cpuset-cpus 0 --cpuset-mems 0", f"{LIMITS}; {STATUS}; nproc"),
    "cpus, pids-limit": ("--cpus 0.5 --pids-limit 50", LIMITS),
    "cpu-period, cpu-quota": ("--cpu-period 50000 --cpu-quota 20000", LIMITS),
    "blkio-weight": ("--blkio-weight 300", LIMITS),
    "device-*-bps, -iops": (
        f"--device-read-bps {BLOCK}:1mb --device-write-bps {BLOCK}:2mb"
        f" --device-read-iops {BLOCK}:100 --device-write-iops {BLOCK}:200",
        LIMITS,
    ),
    "network none": ("--network none", NETWORK),
    "network host": ("--network host", "ls /sys/class/net; readlink /proc/self/ns/net"),
    "network bridge": ("--network bridge", BRIDGE),
    "read-only, tmpfs": (
        "--read-only --tmpfs /tmp --tmpfs /t:size=1m,noexec,mode=700",
        "touch /x; touch /tmp/x && echo written; grep -E ' /(tmp|t)? ' /proc/mounts | cut -d' ' -f2-4 |"
        " sed 's/lowerdir.*//; s/,inode64//' | sort",
    ),
    "cap-drop": ("--cap-drop CHOWN --cap-drop MKNOD", STATUS),
    "cap-drop ALL": ("--cap-drop ALL --cap-add NET_BIND_SERVICE", f"{STATUS}; chown 5 /tmp; echo $?"),
    "cap-add": ("--cap-add SYS_ADMIN --cap-add NET_ADMIN", f"{STATUS}; mount -t tmpfs x /tmp; echo $?"),
    "security-opt no-new-privileges": ("--security-opt no-new-privileges -u 1000:5 --group-add 7", f"{STATUS}; id"),
    "security-opt unconfined": ("--security-opt seccomp=unconfined --security-opt apparmor=unconfined", STATUS),
    "masked paths": ("", MASKED),
    "ulimit": ("--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=500", "cat /proc/self/limits"),
    "sysctl": (
        "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=9000 --network none",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; echo 1 > /proc/sys/kernel/msgmax",
    ),
    "v": (
        "-v VOLUME:/v -v VOLUME:/r:ro -v named:/n",
        "echo x > /v/file; cat /r/file; echo x > /r/file; touch /n/x;"
        " grep -E ' /[vrn] ' /proc/mounts | cut -d' ' -f2- | sort",
    ),
    "mount": (
        "--mount type=tmpfs,dst=/t,tmpfs-size=1048576 --mount type=bind,src=VOLUME,dst=/v,readonly --shm-size 1m",
        "touch /v/x; df -k /t /dev/shm | tr -s ' ' | cut -d' ' -f2,6",
    ),
    "init": ("--init", "cat /proc/1/comm"),
    "u, w, e, h": ("-u 1000 -w /tmp -e A=B -h name", "id; pwd; echo $A; hostname; env | sort | grep -v HOSTNAME"),
    "device": ("--device /dev/zero:/dev/naught:r", "head -c 4 /dev/naught | wc -c; echo x > /dev/naught; ls -l /dev"),
    "ipc, pid, uts of the host": (
        "--ipc host --pid host --uts host", "readlink /proc/self/ns/ipc /proc/self/ns/pid /proc/self/ns/uts; hostname",
    ),
    "oom-score-adj": ("--oom-score-adj 500", "cat /proc/self/oom_score_adj"),
    "what there is without options": (
        "--network none",
        f"{STATUS}; ls /; ls -l /dev; umask; ulimit -a; cut -d' ' -f1-4 /proc/mounts |"
        " grep -v 'tmpfs /sys/fs/cgroup ' | sed 's/lowerdir.*//' | sort;"
        " ls /proc/self/fd | wc -l; ls -l /proc/self/ns | wc -l",
    ),
}  # fmt: skip
# The status alone is compared: the words are the engine's, and name the runtime.
FAILING: "dict[str, tuple[str, ...]]" = {
    "no such program": ("nonesuch",),
    "no such path": ("/bin/nonesuch",),
    "a directory": ("/tmp",),
    "not executable": ("/etc/passwd",),
}
# Without PYRUNC_FULL.
ORDINARY = ("memory", "network bridge", "read-only, tmpfs", "cap-drop ALL", "what there is without options")
Ended = tuple[int, list[str], list[str]]  # its status, and the lines of its streams


def lines(data: bytes) -> list[str]:
    """The text without what differs from container to container: IDs, addresses, times."""
    text = re.sub(r"\b[0-9a-f]{11,12}([0-9a-f]{52})?\b", "ID", data.decode("utf-8", "replace"))
    text = re.sub(r"(172\.17|10\.88)\.0\.\d+", "ADDRESS", text)
    text = text.replace(",size=4k,nr_inodes=1", "")  # of what masks a folder: runc's has the size of half the memory
    return re.sub(r"\w{3} +\d+ +\d\d:\d\d|\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "TIME", text).splitlines()


def differences(ours: Ended, theirs: Ended) -> Iterator[str]:
    """The lines that only one of the two has, for people to read."""
    for mine, runcs in ((ours[1], theirs[1]), (ours[2], theirs[2])):
        yield from (f"- {line}" for line in runcs if line not in mine)
        yield from (f"+ {line}" for line in mine if line not in runcs)

"""The configuration that `spec` writes: runc's, so that scripts that edit it find what they expect."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, Mount, Namespace

VERSION = "1.3.0"
CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
NAMESPACES: "tuple[Namespace, ...]" = (
    {"type": "pid"},
    {"type": "network"},
    {"type": "ipc"},
    {"type": "uts"},
    {"type": "mount"},
)
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
NOTHING_SPECIAL = ["nosuid", "noexec", "nodev"]


def default(rootless: bool = False, uid: int = 0, gid: int = 0, cgroup_namespace: bool = False) -> "Config":
    """A shell in ./rootfs. With `rootless`, root inside is `uid` and `gid` outside: it needs no privileges.

    `cgroup_namespace`: runc adds one where cgroup v2 is all there is.
    """
    document: Config = {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {  # none inheritable (CVE-2022-29162)
                "bounding": [*CAPABILITIES],
                "effective": [*CAPABILITIES],
                "permitted": [*CAPABILITIES],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyrunc",
        "mounts": _mounts(rootless),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{**each} for each in NAMESPACES],
            "maskedPaths": [*MASKED],
            "readonlyPaths": [*READONLY],
        },
    }
    linux = document["linux"]
    if cgroup_namespace:
        linux["namespaces"].append({"type": "cgroup"})
    if rootless:  # no devices cgroup, and no network but the host's: setting one up takes privileges
        document["linux"] = {
            "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
            "namespaces": [*(each for each in linux["namespaces"] if each["type"] != "network"), {"type": "user"}],
            "maskedPaths": linux["maskedPaths"],
            "readonlyPaths": linux["readonlyPaths"],
        }
    return document


def _mounts(rootless: bool) -> "list[Mount]":
    terminals = [*NOTHING_SPECIAL[:2], "newinstance", "ptmxmode=0666", "mode=0620"]
    sys: Mount = {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": [*NOTHING_SPECIAL, "ro"],
    }
    if rootless:  # sysfs belongs to a network namespace: one that is not ours can only be bound
        sys = {
            "destination": "/sys",
            "type": "none",
            "source": "/sys",
            "options": ["rbind", *NOTHING_SPECIAL, "ro"],
        }
    else:
        terminals.append("gid=5")  # tty, which a rootless container doesn't have
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": terminals},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*NOTHING_SPECIAL, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": [*NOTHING_SPECIAL]},
        sys,
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*NOTHING_SPECIAL, "relatime", "ro"],
        },
    ]

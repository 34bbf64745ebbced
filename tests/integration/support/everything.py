"""A configuration in which every step has something to do."""

from integration.support.bundle import NAMESPACES, full, namespaces

EVERYTHING = {
    "hostname": "web",
    "namespaces": namespaces(*NAMESPACES, "cgroup", "time"),
    "maskedPaths": ["/proc/keys", "/sys/firmware", "/etc/secret"],
    "readonlyPaths": ["/proc/sys"],
    "root": {"path": "rootfs", "readonly": True},
    "cwd": "/made/deep",
    "user": {"uid": 1000, "gid": 1000, "additionalGids": [7]},
    "capabilities": full("CAP_NET_BIND_SERVICE", "CAP_KILL"),
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
    "oomScoreAdj": 100,
    "noNewPrivileges": True,
    "sysctl": {"net.ipv4.ip_forward": "1"},
    "resources": {"pids": {"limit": 100}},
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]},
    "mounts": [
        {"destination": "/ro", "type": "tmpfs", "source": "t", "options": ["ro"]},
        {"destination": "/proc/uptime", "type": "bind", "source": "/dev/zero", "options": ["bind", "ro"]},
    ],
}

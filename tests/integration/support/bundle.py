"""Bundles: a small configuration that a test changes, and a root file system of busybox."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

BUSYBOX = shutil.which("busybox") or "/bin/busybox"


BUSYBOX = shutil.which("busybox") or "/bin/busybox"
APPLETS = [
    "awk",
    "cat",
    "chmod",
    "chown",
    "cut",
    "date",
    "dd",
    "df",
    "domainname",
    "echo",
    "env",
    "false",
    "find",
    "getopt",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "nproc",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sh",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "unshare",
    "wc",
    "xargs",
    "yes",
    "setsid",
]
DEFAULT_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
PROCESS = {
    "terminal",
    "consoleSize",
    "user",
    "env",
    "cwd",
    "args",
    "rlimits",
    "capabilities",
    "apparmorProfile",
    "noNewPrivileges",
    "oomScoreAdj",
    "scheduler",
    "ioPriority",
    "selinuxLabel",
    "execCPUAffinity",
}
TOP = {"ociVersion", "process", "root", "hostname", "domainname", "mounts", "hooks", "annotations", "linux"}
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]  # of a user namespace: none of the host's users
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")


def namespaces(*kinds: str, **paths: str) -> list[dict[str, str]]:
    return [{"type": kind} for kind in kinds] + [{"type": kind, "path": path} for kind, path in paths.items()]


OWN_USERS = {"namespaces": namespaces(*NAMESPACES, "user"), "uidMappings": MAPS, "gidMappings": MAPS}


def full(*names: str) -> dict[str, list[str]]:
    """A set of capabilities that a program really has."""
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def base_config() -> dict[str, Any]:
    """A small configuration, without anything that a reader of a test would have to know."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": full(*DEFAULT_CAPABILITIES),
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {"namespaces": namespaces(*NAMESPACES)},
    }


def apply(config: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set members by their name alone. Those of `process` and `linux` go where they belong. Mounts are added."""
    for name, value in changes.items():
        value = copy.deepcopy(value)
        if name == "mounts":
            config["mounts"] += value
        elif name in TOP:
            config[name] = value
        elif name in PROCESS:
            config["process"][name] = value
        else:
            config["linux"][name] = value


class Bundle:
    """A folder with config.json and a root file system of busybox."""

    def __init__(self, path: Path, template: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.config = base_config()
        self.rootfs.mkdir(parents=True)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "run"):
            (self.rootfs / name).mkdir()
        for name in ("busybox", "probe"):
            os.link(template / name, self.rootfs / "bin" / name)
        for name in APPLETS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        (self.rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        (self.rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")

    def write(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of the image."""
        place = self.rootfs / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        return place

"""What the tests of pyrunc.spec share: documents with every member, the checker if no build has made it."""

import copy
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "oci-spec-schemas"

if importlib.util.find_spec("pyrunc") is None:
    sys.path.insert(0, str(ROOT))

from pyrunc.spec import compiler, schema  # noqa: E402


def _module(name: str, entries: "dict[str, Any]") -> ModuleType:
    """The generated module `name`, compiled now unless the build has done so."""
    try:
        return importlib.import_module(name)
    except ImportError:
        module = ModuleType(name)
        exec(compiler.compiled(SCHEMAS, entries), module.__dict__)
        sys.modules[name] = module
        package, _, attribute = name.rpartition(".")
        setattr(sys.modules[package], attribute, module)
        return module


rest = _module("pyrunc.spec._checker_rest", schema.REST)
checker = _module("pyrunc.spec._checker", schema.ENTRIES)

MAPPING = {"containerID": 0, "hostID": 100000, "size": 65536}
HOOK = {"path": "/bin/hook", "args": ["hook", "a"], "env": ["A=b"], "timeout": 5}
OFFSET = {"secs": -3, "nanosecs": 5}
WEIGHT = {"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}
THROTTLE = {"major": 8, "minor": 0, "rate": 600}
STRINGS = ["a", "b"]

CONFIG: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "h",
    "domainname": "d",
    "annotations": {"a": "b", "": "", "\n": "x"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/x", "options": ["rbind"], "uidMappings": [MAPPING], "gidMappings": [MAPPING]},
    ],
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3], "username": "u"},
        "args": ["sh"],
        "commandLine": "sh",
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {
            kind: ["CAP_KILL"] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "noNewPrivileges": True,
        "apparmorProfile": "p",
        "selinuxLabel": "l",
        "oomScoreAdj": 100,
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": 0,
            "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 10000,
            "deadline": 20000,
            "period": 30000,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0-3,7", "final": "0"},
    },
    "hooks": {
        kind: [HOOK]
        for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    },
    "linux": {
        "namespaces": [
            *({"type": kind} for kind in ("mount", "pid", "uts", "ipc", "user", "cgroup", "time")),
            {"type": "network", "path": "/run/netns/x"},
        ],
        "uidMappings": [MAPPING],
        "gidMappings": [MAPPING],
        "timeOffsets": {"monotonic": OFFSET, "boottime": OFFSET},
        "devices": [
            {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"type": "p", "path": "/dev/pipe"},
        ],
        "netDevices": {"eth0": {"name": "c0"}, "eth1": {}},
        "cgroupsPath": "/a/b",
        "rootfsPropagation": "slave",
        "sysctl": {"net.core.somaxconn": "256"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "l",
        "intelRdt": {
            "closID": "g",
            "schemata": ["L3:0=f"],
            "l3CacheSchema": "L3:0=f",
            "memBwSchema": "MB:0=20",
            "enableMonitoring": True,
        },
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": []},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent",
            "listenerMetadata": "m",
            "syscalls": [
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ],
        },
        "resources": {
            "unified": {"memory.high": "1G"},
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            ],
            "pids": {"limit": 100},
            "memory": {
                "limit": 1,
                "reservation": 1,
                "swap": -1,
                "kernel": 1,
                "kernelTCP": 1,
                "swappiness": 60,
                "disableOOMKiller": False,
                "useHierarchy": True,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 2,
                "quota": -1,
                "period": 1000,
                "burst": 1,
                "realtimeRuntime": 1,
                "realtimePeriod": 1,
                "cpus": "0",
                "mems": "0",
                "idle": 1,
            },
            "blockIO": {
                "weight": 10,
                "leafWeight": 10,
                "weightDevice": [WEIGHT],
                "throttleReadBpsDevice": [THROTTLE],
                "throttleWriteBpsDevice": [THROTTLE],
                "throttleReadIOPSDevice": [THROTTLE],
                "throttleWriteIOPSDevice": [THROTTLE],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
            "rdma": {"mlx5_0": {"hcaHandles": 1, "hcaObjects": 2}},
        },
    },
    "solaris": {
        "milestone": "m",
        "limitpriv": "l",
        "maxShmMemory": "1g",
        "cappedCPU": {"ncpus": "8"},
        "cappedMemory": {"physical": "1g", "swap": "1g"},
        "anet": [
            {
                "linkname": "n",
                "lowerLink": "l",
                "allowedAddress": "a",
                "configureAllowedAddress": "t",
                "defrouter": "d",
                "macAddress": "m",
                "linkProtection": "p",
            }
        ],
    },
    "windows": {
        "layerFolders": ["C:\\l"],
        "devices": [{"id": "i", "idType": "class"}],
        "resources": {
            "memory": {"limit": 1},
            "cpu": {"count": 1, "shares": 1, "maximum": 1, "affinity": {"mask": 1, "group": 0}},
            "storage": {"iops": 1, "bps": 1, "sandboxSize": 1},
        },
        "network": {
            "endpointList": STRINGS,
            "allowUnqualifiedDNSQuery": True,
            "DNSSearchList": STRINGS,
            "networkSharedContainerName": "n",
            "networkNamespace": "n",
        },
        "credentialSpec": {"x": 1},
        "servicing": True,
        "ignoreFlushesDuringBoot": True,
        "hyperv": {"utilityVMPath": "p"},
    },
    "vm": {
        "hypervisor": {"path": "/h", "parameters": STRINGS},
        "kernel": {"path": "/k", "parameters": STRINGS, "initrd": "/i"},
        "image": {"path": "/i", "format": "raw"},
        "hwConfig": {
            "deviceTree": "/d",
            "vcpus": 1,
            "memory": 1,
            "dtdevs": STRINGS,
            "irqs": [1, 2],
            "iomems": [{"firstGFN": 1, "firstMFN": 2, "nrMFNs": 3}, {"firstMFN": 2}],
        },
    },
    "zos": {"namespaces": [{"type": "mount", "path": "/n"}]},
    "freebsd": {
        "devices": [{"path": "null", "mode": 438}],
        "jail": {
            "parent": "p",
            "host": "new",
            "ip4": "inherit",
            "ip4Addr": STRINGS,
            "ip6": "disable",
            "ip6Addr": STRINGS,
            "vnet": "new",
            "interface": "i",
            "vnetInterfaces": STRINGS,
            "sysvmsg": "new",
            "sysvsem": "new",
            "sysvshm": "new",
            "enforceStatfs": 1,
            "allow": {
                "setHostname": True,
                "rawSockets": True,
                "chflags": True,
                "mount": STRINGS,
                "quotas": True,
                "socketAf": True,
                "mlock": True,
                "reservedPorts": True,
                "suser": True,
            },
        },
    },
}
STATE: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "id": "c",
    "status": "running",
    "pid": 1,
    "bundle": "/b",
    "annotations": {"a": "b"},
}
ENABLED = {"enabled": True}
FEATURES: dict[str, Any] = {
    "ociVersionMin": "1.0.0",
    "ociVersionMax": "1.3.0",
    "hooks": ["prestart"],
    "mountOptions": ["ro"],
    "annotations": {"a": "b"},
    "potentiallyUnsafeConfigAnnotations": ["x."],
    "linux": {
        "namespaces": ["user"],
        "capabilities": ["CAP_KILL"],
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": {
            "enabled": True,
            "actions": ["SCMP_ACT_LOG"],
            "operators": ["SCMP_CMP_NE"],
            "archs": ["SCMP_ARCH_S390"],
            "knownFlags": ["SECCOMP_FILTER_FLAG_TSYNC"],
            "supportedFlags": ["SECCOMP_FILTER_FLAG_TSYNC"],
        },
        "apparmor": ENABLED,
        "selinux": ENABLED,
        "intelRdt": ENABLED,
        "netDevices": ENABLED,
        "mountExtensions": {"idmap": ENABLED},
    },
}
DOCUMENTS = {"config": CONFIG, "state": STATE, "features": FEATURES}


def accepts(kind: str, document: object) -> bool:
    """The generated checker's verdict."""
    function = getattr(checker, kind, None) or getattr(rest, kind)
    return bool(function(document))


def bundle(directory: Path, document: object, **layout: Any) -> int:
    """A descriptor of a bundle whose config.json is `document`: JSON, text or bytes."""
    if not isinstance(document, (str, bytes)):
        document = json.dumps(document, **layout)
    text = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    (directory / "config.json").write_bytes(text)
    return os.open(directory, os.O_PATH)


def edited(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with `value` at a JSON pointer; Ellipsis removes what is there."""
    result = copy.deepcopy(document)
    *parents, last = path.split("/")[1:]
    node: Any = result
    for step in parents:
        node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
    if value is ...:
        del node[last]
    elif isinstance(node, list):
        node[int(last) : int(last) + 1] = [value]
    else:
        node[last.replace("~1", "/")] = value
    return result

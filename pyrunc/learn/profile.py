"""The configuration under which a program is watched, and what was seen, as members of config.json."""

import copy
import errno
from typing import Any

from pyrunc.learn import rights
from pyrunc.seccomp import names
from pyrunc.spec.types import Config

# ALWAYS are in every profile. UNASKED are not asked about while learning: the runtime makes them before anybody
# answers, or every process ends with them.
ALWAYS = ("close", "execve", "exit", "exit_group", "read", "restart_syscall", "rt_sigreturn", "write")
UNASKED = ("close", "exit", "exit_group", "read", "restart_syscall", "rt_sigreturn", "sigreturn", "write")
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/kpagecount",
    "/proc/kpageflags", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux", "/sys/kernel/debug",
    "/sys/kernel/tracing",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# With CLONE_NEWUSER these calls open the way to much of the kernel. So a program that made no namespaces with them may
# make none. The bit of CLONE_NEWTIME in unshare(2) belongs to the number of a signal in clone(2).
NAMESPACES = {"clone": 0x7E020000, "unshare": 0x7E020080}
# The flags of clone3 are in memory, where no filter can look. When it is refused like this, C libraries use clone
# instead. Docker's profile does the same.
NO_CLONE3 = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
OFTEN_WRITABLE = ("tmpfs", "devpts", "mqueue", "proc", "sysfs", "cgroup", "cgroup2")


def to_learn(config: Config, socket: str) -> Config:
    """The same configuration with a filter that asks about every system call. Calls that libseccomp has no name for
    fail here, as they will under the learned profile."""
    asked = sorted(names.of_all_architectures() - {*UNASKED})
    changed: Any = copy.deepcopy(config)
    changed["linux"] = changed.get("linux") or {}
    old = changed["linux"].get("seccomp") or {}
    changed["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": old.get("architectures") or names.architectures(),
        "listenerPath": socket,
        "syscalls": [
            {"names": [*UNASKED], "action": "SCMP_ACT_ALLOW"},
            {"names": asked, "action": "SCMP_ACT_NOTIFY"},
        ],
    }
    return changed  # type: ignore[no-any-return]


def learned(config: Config, seen: dict[str, Any]) -> dict[str, Any]:
    """The members of config.json that the program needs."""
    return {
        "process": {"capabilities": _capabilities(config, seen)},
        "root": {**config["root"], "readonly": not _written(config, seen)},
        "linux": {
            "seccomp": _seccomp(seen),
            "maskedPaths": [path for path in MASKED if not _touched(path, seen["reached"])],
            "readonlyPaths": [path for path in READONLY if not _touched(path, seen["changed"])],
        },
    }


def _seccomp(seen: dict[str, Any]) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [names.architecture_of(token) for token in seen["architectures"]] or names.architectures()[:1],
        "syscalls": _rules({*seen["calls"], *ALWAYS} - {"clone3"}, {*seen["namespaces"]}),
    }


def _rules(calls: set[str], namespaces: set[str]) -> list[dict[str, Any]]:
    """The rules of a profile that allows these calls. `namespaces`: the calls that may make namespaces."""
    bare = (calls - {*NAMESPACES}) | namespaces
    rules: list[dict[str, Any]] = [{"names": sorted(bare), "action": "SCMP_ACT_ALLOW"}]
    for name in sorted(calls - bare):
        none = {"index": 0, "value": NAMESPACES[name], "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [none]})
    return rules if "clone3" in bare else [*rules, copy.deepcopy(NO_CLONE3)]


def calls_of(found: dict[str, Any]) -> set[str]:
    """The system calls that a profile lets through."""
    return {name for rule in _passing(found) for name in rule["names"]}


def namespaces_of(found: dict[str, Any]) -> set[str]:
    """The system calls that a profile lets make namespaces."""
    bare = {name for rule in _passing(found) if not rule.get("args") for name in rule["names"]}
    return bare & {*NAMESPACES, "clone3"}


def _passing(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for rule in found["linux"]["seccomp"]["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]


def _capabilities(config: Config, seen: dict[str, Any]) -> dict[str, list[str]]:
    sets: Any = config.get("process", {}).get("capabilities") or {}
    granted = {name.upper() for kind in sets.values() for name in kind}
    needed = rights.possible({*seen["calls"]}, granted) if seen["capabilities"] is None else {*seen["capabilities"]}
    return {kind: [name for name in kept if name.upper() in needed] for kind, kept in sets.items()}


def _written(config: Config, seen: dict[str, Any]) -> list[str]:
    """The paths that were written to in the root file system itself, not in a mount."""
    mounts = [each["destination"].rstrip("/") for each in config.get("mounts") or []]
    return [path for path in seen["changed"] if not any(path == m or path.startswith(f"{m}/") for m in mounts)]


def _touched(path: str, paths: list[str]) -> bool:
    return any(each == path or each.startswith(f"{path}/") for each in paths)


def union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The members that cover what both need."""
    found = copy.deepcopy(one)
    sets, more = found["process"]["capabilities"], other["process"]["capabilities"]
    for kind, kept in more.items():
        sets[kind] = sorted({*sets.get(kind, []), *kept})
    found["root"]["readonly"] = one["root"]["readonly"] and other["root"]["readonly"]
    for name in ("maskedPaths", "readonlyPaths"):
        found["linux"][name] = [path for path in one["linux"][name] if path in other["linux"][name]]
    ours, theirs = found["linux"]["seccomp"], other["linux"]["seccomp"]
    ours["architectures"] = sorted({*ours["architectures"], *theirs["architectures"]})
    ours["syscalls"] = _rules(calls_of(one) | calls_of(other), namespaces_of(one) | namespaces_of(other))
    return found

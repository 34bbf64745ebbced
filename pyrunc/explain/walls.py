"""Namespaces, users, privileges, security modules, limits, hooks: what stands between a container and the host."""

import re
from collections.abc import Iterator
from typing import Any

from pyrunc.explain.finding import Finding, Withheld, of_items
from pyrunc.explain.subject import Subject

NAMESPACES = "/linux/namespaces"
# Shared with the host: (level, what follows, what having one of its own withholds)
SHARED = {
    "mount": (
        "critical",
        "its mounts are the host's: nothing is masked, nothing read-only, all of the host's files are one step away",
        "the host's mounts",
    ),
    "pid": (
        "high",
        "it sees all of the host's processes with their arguments, and may signal and look into those of its user",
        "sight of the host's processes",
    ),
    "network": (
        "high",
        "its network is the host's: services on localhost, abstract Unix sockets, all interfaces",
        "the host's interfaces, localhost and abstract sockets",
    ),
    "ipc": (
        "medium",
        "it shares System V memory, semaphores and message queues with the host",
        "the host's shared memory",
    ),
    "uts": ("low", "it sees the host's name", "the host's name"),
    "cgroup": ("note", "it sees where in the host's cgroups it is", "its place among the host's cgroups"),
}
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
SECRET = re.compile(r"PASSW|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)


def granted(subject: Subject) -> Iterator[Finding]:
    yield from _namespaces(subject)
    yield from _user(subject)
    yield from _modules(subject)
    yield from _limits(subject)
    yield from _process(subject)
    yield from _host_side(subject)


def _namespaces(subject: Subject) -> Iterator[Finding]:
    for kind, (level, text, _) in SHARED.items():
        if kind in subject.of_host:
            if kind == "uts" and subject.has("CAP_SYS_ADMIN") and not subject.own_user_namespace:
                level, text = "medium", "it sees the host's name, and can change it"
            yield Finding(level, "namespace", kind, text, NAMESPACES, f'add {{"type": "{kind}"}}')
    joined = {kind: path for kind, path in subject.namespaces.items() if path}
    if joined:
        items = tuple((kind, "") for kind in sorted(joined))
        where = ", ".join(sorted({re.sub(r"/ns/\w+$", "", path) for path in joined.values()}))
        text = f"it joins those of {where}: who is there sees what it does, and it sees them"
        yield of_items("note", "namespace joined", items, text, NAMESPACES)


def _user(subject: Subject) -> Iterator[Finding]:
    if subject.is_host_root:
        who = "one of its users is mapped to the host's" if subject.own_user_namespace else "it is the host's root, too"
        text = f"{who}: once out of its walls, by whatever hole, it owns the host"
        hint = "run as another user, or map root to one of the host's that has no rights"
        if subject.own_user_namespace:
            hint += "; run without privileges, as by Podman's keep-id, it is the user himself (pyrunc --rootless true)"
        yield Finding("medium", "user", "root", text, "/process/user/uid", hint)
    elif subject.rootless:
        text = "once out of its walls it has what the user has who runs it: his files and keys, not the host's root"
        yield Finding("low", "user", "without privileges", text, "/linux/uidMappings")
    elif "user" in subject.of_host and not subject.rootless:
        uid = subject.process["user"]["uid"]
        text = f"no user namespace: its user {uid} is the host's user {uid}"
        yield Finding("note", "user", str(uid), text, NAMESPACES)
    groups = subject.process.get("user", {}).get("additionalGids") or []
    if 0 in groups and not subject.is_root and "user" in subject.of_host:
        text = "it has the host's group root, to which many files are readable"
        yield Finding("low", "user", "group 0", text, "/process/user/additionalGids", "leave 0 out")
    if subject.gains:
        level = "low" if not subject.is_root else "note"
        text = (
            "is not set: set-user-ID programs and file capabilities of the image work: who finds one gains its rights"
        )
        yield Finding(level, "privileges", "noNewPrivileges", text, "/process/noNewPrivileges", "set it to true")
    inheritable = subject.process.get("capabilities", {}).get("inheritable") or []
    if inheritable and subject.gains:
        text = "programs with inheritable file capabilities get them, whoever runs these (CVE-2022-24769)"
        subject_of = "inheritable capabilities"
        yield Finding("low", "privileges", subject_of, text, "/process/capabilities/inheritable", "leave it empty")


def _modules(subject: Subject) -> Iterator[Finding]:
    profile, label = subject.process.get("apparmorProfile", ""), subject.process.get("selinuxLabel", "")
    if profile == "unconfined" or not (profile or label):
        text = "no second wall behind permissions and capabilities: neither an AppArmor profile nor an SELinux label"
        yield Finding("low", "security module", "none", text, "/process/apparmorProfile", "name a profile or a label")


def _limits(subject: Subject) -> Iterator[Finding]:
    resources = subject.linux.get("resources") or {}
    unified = resources.get("unified") or {}
    pointer = "/linux/resources"
    memory, pids, cpu = (resources.get(name) or {} for name in ("memory", "pids", "cpu"))
    lacking = []
    if (memory.get("limit") or -1) < 0 and unified.get("memory.max", "max") == "max":
        lacking.append(("memory", "it can take all of the host's", "memory.limit"))
    if (pids.get("limit") or -1) < 0 and unified.get("pids.max", "max") == "max":
        lacking.append(("processes", "it can fill the host's table of them (a fork bomb)", "pids.limit"))
    if lacking:
        items = tuple((name, text) for name, text, _ in lacking)
        hint = f"set {' and '.join(member for _, _, member in lacking)}"
        yield of_items("medium", "limit", items, "", pointer, hint)
    if (cpu.get("quota") or -1) < 0 and not cpu.get("cpus") and unified.get("cpu.max", "max").startswith("max"):
        text = "it can use every CPU that others leave, by its share"
        yield Finding("low", "limit", "CPU time", text, pointer, "set cpu.quota")
    if memory.get("limit", -1) > 0 and (memory.get("swap") or -1) < 0 and "memory.swap.max" not in unified:
        text = "memory has a limit: what does not fit goes there, and slows the host's disk"
        yield Finding("low", "limit", "swap", text, f"{pointer}/memory", "set memory.swap to memory.limit")
    if memory.get("disableOOMKiller"):
        text = "out of memory its processes hang and are not ended"
        yield Finding("low", "want of memory", "OOM killer", text, f"{pointer}/memory/disableOOMKiller")
    score = subject.process.get("oomScoreAdj", 0)
    if score < 0:
        ends = "never ended" if score == -1000 else "ended after others"
        text = f"{score}: when the host's memory runs out it is {ends}, and the host's own programs are"
        yield Finding("medium", "want of memory", "oomScoreAdj", text, "/process/oomScoreAdj", "0 or more")


def _process(subject: Subject) -> Iterator[Finding]:
    names = [each.partition("=")[0] for each in subject.process.get("env") or []]
    secret = [name for name in names if SECRET.search(name)]
    if secret:
        text = "looks like a secret: who inspects the container, or its /proc/PID/environ, can read it"
        items = tuple((name, "") for name in secret)
        yield of_items("low", "environment", items, text, "/process/env", "give it as a file")
    policy = (subject.process.get("scheduler") or {}).get("policy", "")
    if policy in ("SCHED_FIFO", "SCHED_RR", "SCHED_DEADLINE"):
        text = "it runs before all ordinary programs of the host for as long as it likes"
        yield Finding("medium", "scheduling", policy, text, "/process/scheduler")


def _host_side(subject: Subject) -> Iterator[Finding]:
    root = subject.config.get("root", {}).get("path", "")
    given: Any = subject.config.get("hooks") or {}
    for kind in HOOKS:
        for index, hook in enumerate(given.get(kind) or []):
            pointer, path = f"/hooks/{kind}/{index}", hook.get("path", "")
            inside = kind in ("createContainer", "startContainer")
            where = "in the container's namespaces" if inside else "on the host"
            text = f"a {kind} hook, which the runtime runs {where} with its own rights"
            level = "note"
            if root and path.startswith(f"{root.rstrip('/')}/") and kind != "startContainer":
                level, text = "critical", f"{text}; it lies in the image, where the container can change it"
            yield Finding(level, "hook", path, text, pointer)
    for name in subject.linux.get("netDevices") or {}:
        text = "the host's network device becomes the container's"
        yield Finding("note", "network device", name, text, "/linux/netDevices")
    for name, value in (subject.config.get("annotations") or {}).items():
        if name.startswith("org.systemd.property."):
            text = f"systemd is told {value!s:.60}: it can undo limits, or have commands run"
            yield Finding("medium", "annotation", name, text, "/annotations")
        elif name == "org.pyrunc.rootfs.idmap":
            text = "what its root makes in the root file system is the real root's on disk, set-user-ID programs too"
            yield Finding("low", "annotation", name, text, "/annotations")
        elif name == "run.oci.seccomp.receiver":
            yield Finding("note", "annotation", name, f"{value} decides some of its system calls", "/annotations")
    sysctls = subject.linux.get("sysctl") or {}
    if sysctls:
        items = tuple((name, f"set to {value}") for name, value in sysctls.items())
        yield of_items("note", "kernel parameter", items, "", "/linux/sysctl")


def withheld(subject: Subject) -> Iterator[Withheld]:
    for kind, (_, _, what) in SHARED.items():
        if kind in subject.namespaces:
            yield Withheld("namespace", kind, what)
    if not subject.root_is_hosts:
        yield Withheld("user", "root", "the rights of the host's root: its users are mapped to others")
    elif not subject.is_root:
        yield Withheld("user", "root", f"root: it runs as user {subject.process['user']['uid']}")
    if not subject.gains:
        yield Withheld("privileges", "noNewPrivileges", "new rights by set-user-ID programs and file capabilities")
    profile, label = subject.process.get("apparmorProfile", ""), subject.process.get("selinuxLabel", "")
    if profile and profile != "unconfined":
        yield Withheld(
            "security module", "AppArmor", f"what the AppArmor profile {profile} forbids, where AppArmor is on"
        )
    if label:
        yield Withheld("security module", "SELinux", f"what SELinux forbids to {label}, where it is on")
    for name, text in (subject.config.get("annotations") or {}).items():
        if name == "org.pyrunc.core_scheduling" and text not in ("", "0", "false"):
            yield Withheld("core scheduling", "core", "what a processor's core tells of who runs on its other thread")
        if name.startswith("org.pyrunc.landlock."):
            words = {"paths": "files but", "tcp": "TCP ports but", "scope": "what is outside by"}
            kind = name.rpartition(".")[2]
            yield Withheld("Landlock", kind, f"by Landlock {words.get(kind, kind)}: {text or 'none'}")
    yield from _limits_that_are(subject)


def _limits_that_are(subject: Subject) -> Iterator[Withheld]:
    resources = subject.linux.get("resources") or {}
    memory, pids, cpu = (resources.get(name) or {} for name in ("memory", "pids", "cpu"))
    said = []
    if memory.get("limit", -1) > 0:
        said.append(f"memory beyond {memory['limit'] / (1 << 20):g} MiB")
    if pids.get("limit", -1) > 0:
        said.append(f"more than {pids['limit']} processes")
    if cpu.get("quota", -1) > 0:
        said.append(f"CPU time beyond {cpu['quota'] / cpu.get('period', 100000):g} CPUs")
    for what in said:
        yield Withheld("limit", what.split(" ")[0], what)

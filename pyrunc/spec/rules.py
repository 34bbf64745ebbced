"""What a configuration must be beyond what its schema says, checked before anything is created.

A rule is a function in one of the tables below, by the member that it is about. It is given a document that
follows its schema, and yields what is wrong: a JSON pointer, the cause, and what to do about it or "". There
is a rule only where the specification says MUST, or where the kernel or runc would refuse the container later
and less clearly. What engines write although it is doubtful is a warning.

"runc" names runc's file or function that refuses the same; section names are those of runtime-spec 1.3.
Members that few configurations have are looked after in rules_rare.py, which is imported when one of them is
there: unmarshalling rules costs more than following them.
"""

from pyrunc.spec import escaped, namespaces, types_and_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.spec.types import Config, Linux, Process, Resources, Seccomp

Problem = tuple[str, str, str]

RARE_IN_LINUX = {
    "devices",
    "gidMappings",
    "intelRdt",
    "memoryPolicy",
    "netDevices",
    "personality",
    "timeOffsets",
    "uidMappings",
}
RARE_IN_PROCESS = {"execCPUAffinity", "ioPriority", "scheduler"}
LIMIT = 1 << 32  # of a number that the kernel compares with a device's
RARE_IN_RESOURCES = {"network", "rdma", "unified"}


def config(document: "Config") -> list[Problem]:
    """All that is wrong with config.json."""
    found = [*version_is_semver(document), *root_is_there(document), *names_have_a_uts_namespace(document)]
    for member, rule in CONFIG.items():
        if member in document:
            found += rule(document)
    if "process" in document:
        found += _under("/process", process(document["process"]))
    if "linux" in document:
        found += _under("/linux", linux(document["linux"], document.get("annotations", {})))
    if namespaces(document).get("user") == "" or "org.pyrunc.rootfs.idmap" in document.get("annotations", {}):
        from pyrunc.spec import rules_rare

        found += [*rules_rare.ids_are_mapped(document), *rules_rare.root_is_mapped(document)]
    return found


def process(document: "Process") -> list[Problem]:
    """All that is wrong with config.json's process, or with what exec --process reads."""
    found = [*cwd_is_absolute(document), *there_is_a_program(document)]
    for member, rule in PROCESS.items():
        if member in document:
            found += rule(document)
    if not RARE_IN_PROCESS.isdisjoint(document):
        from pyrunc.spec import rules_rare

        found += rules_rare.process(document)
    return found


def linux(document: "Linux", annotations: dict[str, str]) -> list[Problem]:
    """All that is wrong with config.json's linux."""
    inside = types_and_paths(document)
    found = [*paths_have_a_mount_namespace(document, inside)]
    for member, rule in LINUX.items():
        if member in document:
            found += rule(document, inside)
    if "seccomp" in document:
        found += seccomp_is_consistent(document, annotations)
    if "resources" in document:
        found += _under("/resources", resources(document["resources"]))
    if "user" in inside or not RARE_IN_LINUX.isdisjoint(document):
        from pyrunc.spec import rules_rare

        found += rules_rare.linux(document, inside)
    return found


def resources(document: "Resources") -> list[Problem]:
    """All that is wrong with config.json's linux.resources, or with what update --resources reads."""
    found: list[Problem] = []
    if "devices" in document:
        found += device_rules_are_whole(document)
    if "memory" in document:
        found += memory_has_limits(document)
    if not RARE_IN_RESOURCES.isdisjoint(document):
        from pyrunc.spec import rules_rare

        found += rules_rare.resources(document)
    return found


def _under(pointer: str, found: list[Problem]) -> list[Problem]:
    return [(pointer + below, cause, hint) for below, cause, hint in found]


# The whole document

LONGEST_NAME = 64  # uname(2)
MOST_GROUPS = 65536  # setgroups(2)
INVALID_ID = 0xFFFFFFFF  # (uid_t)-1: the kernel takes it as "leave as it is", so that root would stay root
RLIMITS = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip  # with the kernel's numbers
DIGITS = "0123456789"


def version_is_semver(document: "Config") -> "Iterator[Problem]":
    """config.md, Specification version: MUST be in SemVer v2.0.0 format (runtime-tools: misc_props)."""
    version = document["ociVersion"]
    numbers = version.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(part and not part.strip(DIGITS) for part in numbers):
        yield "/ociVersion", f'expected a version such as 1.3.0, found "{version}"', ""
    elif numbers[0] != "1":
        yield "/ociVersion", f"version {version} of the specification is not supported", "supported is 1.x"


def root_is_there(document: "Config") -> "Iterator[Problem]":
    """config.md, Root: REQUIRED but on Windows. runc: specconv, `root must be specified`."""
    if "root" not in document:
        yield "", 'expected a member "root", found none', ""
    elif not document["root"]["path"]:
        yield "/root/path", "expected a path, found an empty string", ""


def names_have_a_uts_namespace(document: "Config") -> "Iterator[Problem]":
    """Without a namespace we would rename the host. runc: validate/validator.go, uts(). uname(2) limits the length."""
    for member, name in (("hostname", document.get("hostname")), ("domainname", document.get("domainname"))):
        if not name:
            continue
        if "uts" not in namespaces(document):
            yield f"/{member}", "it can't be set without a UTS namespace", ('add {"type": "uts"} to linux.namespaces')
        if (size := len(name.encode("utf-8", "surrogateescape"))) > LONGEST_NAME:
            yield f"/{member}", f"expected at most {LONGEST_NAME} bytes, found {size}", ""
    for key, value in document.get("linux", {}).get("sysctl", {}).items():
        if sysctl_path(key) == "kernel/domainname" and document.get("domainname", value) != value:
            yield f"/linux/sysctl/{escaped(key)}", "it is not what the member domainname says", "leave one of them out"


def mounts_are_complete(document: "Config") -> "Iterator[Problem]":
    """A destination is REQUIRED. Mounts with shifted owners are rare."""
    for index, mount in enumerate(document["mounts"]):
        if not mount["destination"]:
            yield f"/mounts/{index}/destination", "expected a path, found an empty string", ""
        options = mount.get("options", ())
        if "uidMappings" in mount or "gidMappings" in mount or "idmap" in options or "ridmap" in options:
            from pyrunc.spec import rules_rare

            yield from rules_rare.mount_mappings_are_complete(mount, f"/mounts/{index}", namespaces(document))


def hook_paths_are_absolute(document: "Config") -> "Iterator[Problem]":
    """config.md, POSIX-platform Hooks: path MUST be absolute. The schema says that a timeout is positive."""
    for kind, hooks in document.get("hooks", {}).items():
        if isinstance(hooks, list):  # a kind that the specification doesn't know may be anything
            for index, hook in enumerate(hooks):
                path = str(hook.get("path", "/")) if isinstance(hook, dict) else "/"
                if not path.startswith("/"):
                    yield f"/hooks/{kind}/{index}/path", f'expected an absolute path, found "{path}"', ""


# The process


def cwd_is_absolute(document: "Process") -> "Iterator[Problem]":
    """config.md, Process: cwd MUST be an absolute path."""
    if not document["cwd"].startswith("/"):
        yield "/cwd", f'expected an absolute path, found "{document["cwd"]}"', ""


def there_is_a_program(document: "Process") -> "Iterator[Problem]":
    """config.md, Process: at least one entry is REQUIRED. (`start` refuses a container without a process.)"""
    if not document.get("args"):
        yield "/args" if "args" in document else "", "args: expected at least the program, found none", ""


def environment_is_named(document: "Process") -> "Iterator[Problem]":
    """Programs read what is not NAME=VALUE in different ways. runc: libcontainer/env.go refuses it."""
    for index, entry in enumerate(document.get("env", ())):
        if entry.find("=") < 1:
            yield f"/env/{index}", f'expected NAME=VALUE, found "{entry}"', ""


def ids_are_ids(document: "Process") -> "Iterator[Problem]":
    """The largest ID is -1. With it setresuid(2) changes nothing, and root stays root (CVE-2024-40635)."""
    user = document.get("user", {})
    for name in ("uid", "gid"):
        if user.get(name) == INVALID_ID:
            yield f"/user/{name}", f"{INVALID_ID} is -1, which is no ID", ""
    groups = user.get("additionalGids", ())
    if INVALID_ID in groups:
        yield f"/user/additionalGids/{groups.index(INVALID_ID)}", f"{INVALID_ID} is -1, which is no ID", ""
    if len(groups) > MOST_GROUPS:
        yield "/user/additionalGids", f"the kernel takes at most {MOST_GROUPS} groups, found {len(groups)}", ""


def rlimits_are_distinct(document: "Process") -> "Iterator[Problem]":
    """config.md, rlimits: duplicate and unknown types MUST be errors; prlimit(2) refuses soft above hard."""
    seen: set[str] = set()
    for index, limit in enumerate(document.get("rlimits", ())):
        if limit["type"] not in RLIMITS:
            yield f"/rlimits/{index}/type", f'Linux has no limit "{limit["type"]}"', ""
        if limit["type"] in seen:
            yield f"/rlimits/{index}/type", f"{limit['type']} is set twice", ""
        if limit["soft"] > limit["hard"]:
            yield f"/rlimits/{index}/soft", f"{limit['soft']} is above the hard limit, {limit['hard']}", ""
        seen.add(limit["type"])


def oom_score_is_in_range(document: "Process") -> "Iterator[Problem]":
    """proc(5), oom_score_adj."""
    if not -1000 <= document.get("oomScoreAdj", 0) <= 1000:
        yield "/oomScoreAdj", f"expected -1000 to 1000, found {document['oomScoreAdj']}", ""


def console_has_a_size(document: "Process") -> "Iterator[Problem]":
    """ioctl_tty(2), TIOCSWINSZ: 16 bits each."""
    for name, number in document["consoleSize"].items():
        if name in ("height", "width") and number > 0xFFFF:  # type: ignore[operator]
            yield f"/consoleSize/{name}", f"expected at most {0xFFFF}, found {number}", ""


# Linux

SYSCTLS_OF_IPC = {
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shm_rmid_forced",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
}


def namespaces_are_distinct(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Namespaces: duplicates MUST be an error, a path MUST be absolute."""
    if len(inside) == len(document.get("namespaces", ())) and not any(inside.values()):
        return
    seen = set()
    for index, namespace in enumerate(document["namespaces"]):
        if namespace["type"] in seen:
            yield f"/namespaces/{index}", f'namespace "{namespace["type"]}" is given twice', ""
        seen.add(namespace["type"])
        path = namespace.get("path", "")
        if path and not path.startswith("/"):
            yield f"/namespaces/{index}/path", f'expected an absolute path, found "{path}"', ""


def paths_have_a_mount_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """Without a mount namespace the host's /proc would be masked. runc: validator.go, security()."""
    if "mount" not in inside:
        for name, paths in (
            ("maskedPaths", document.get("maskedPaths")),
            ("readonlyPaths", document.get("readonlyPaths")),
        ):
            if paths:
                yield f"/{name}", "it needs a mount namespace", 'add {"type": "mount"} to linux.namespaces'


def sysctls_are_namespaced(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """A parameter that the host shares may not be changed. runc: validator.go, sysctl().

    A joined namespace is as good as a new one here; whether it is the host's is found on joining.
    """
    for name in document.get("sysctl", ()):
        path = sysctl_path(name)
        if cause := _sysctl_refused(path, inside):
            yield f"/sysctl/{escaped(name)}", f"/proc/sys/{path}: {cause}", ""


def sysctl_path(name: str) -> str:
    """The file of a kernel parameter below /proc/sys. As in sysctl(8), the first dot or slash separates.

    net.ipv4.conf.eth0/100.forwarding is net/ipv4/conf/eth0.100/forwarding: a dot may be part of a name.
    """
    dot, slash = name.find("."), name.find("/")
    if dot < 0 or 0 <= slash < dot:
        return name
    return name.replace("/", "\0").replace(".", "/").replace("\0", ".")


def _sysctl_refused(path: str, inside: dict[str, str]) -> str:
    """Why the parameter may not be set, or ""."""
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts:  # net/../kernel/core_pattern
        return "this is not a parameter's path"
    if path == "kernel/hostname":
        return "the member hostname sets it"
    owner = sysctl_owner(path)
    if not owner:
        return "it belongs to no namespace, so to the host"
    return "" if owner in inside else f"it is the host's, for there is no {owner} namespace"


def sysctl_owner(path: str) -> str:
    """The kind of namespace that has the parameter, or ""."""
    if path in SYSCTLS_OF_IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    if path == "kernel/domainname":
        return "uts"
    if path.startswith("net/"):
        return "network"
    return "user" if path.startswith("user/") else ""


def cgroup_is_on_one_line(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """cgroup_mkdir(), kernel/cgroup/cgroup.c: /proc/PID/cgroup has a line for each."""
    if "\n" in document["cgroupsPath"]:
        yield "/cgroupsPath", "a newline can't be part of it", ""


RETURNING = {"SCMP_ACT_ERRNO": 4094, "SCMP_ACT_TRACE": 0xFFFF}  # and the largest number that libseccomp takes


def _seccomp_returns(pointer: str, action: str, number: int) -> "Iterator[Problem]":
    """The kernel and libseccomp cut a larger one off: 65536 would be 0, success for a call that was not made."""
    if action not in RETURNING:
        yield pointer, f"{action} returns no error number", ""
    elif number > RETURNING[action]:
        yield pointer, f"expected at most {RETURNING[action]}, found {number}", ""


def seccomp_is_consistent(document: "Linux", annotations: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Seccomp. runc: libcontainer/seccomp, InitSeccomp()."""
    seccomp = document["seccomp"]
    if "listenerMetadata" in seccomp and not seccomp.get("listenerPath"):
        yield "/seccomp/listenerMetadata", "it needs listenerPath", ""
    default = seccomp["defaultAction"]
    if default == "SCMP_ACT_NOTIFY":  # handing the listener over would wait for the listener
        yield "/seccomp/defaultAction", "SCMP_ACT_NOTIFY can't be the default", ""
    if "defaultErrnoRet" in seccomp:
        yield from _seccomp_returns("/seccomp/defaultErrnoRet", default, seccomp["defaultErrnoRet"])
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        pointer, action = f"/seccomp/syscalls/{index}", rule["action"]
        if "errnoRet" in rule:
            yield from _seccomp_returns(f"{pointer}/errnoRet", action, rule["errnoRet"])
        if "" in rule["names"]:
            yield f"{pointer}/names", "expected names of system calls, found an empty string", ""
        for argument, condition in enumerate(rule.get("args", ())):
            if condition["index"] > 5:
                yield f"{pointer}/args/{argument}/index", f"expected 0 to 5, found {condition['index']}", ""
        if action == "SCMP_ACT_NOTIFY":
            if "write" in rule["names"]:
                yield f"{pointer}/names", "SCMP_ACT_NOTIFY cannot be used for the write syscall", ""
            if "run.oci.seccomp.plugins" in annotations:  # crun's; without them nobody would be asked
                yield (
                    f"{pointer}/action",
                    "SCMP_ACT_NOTIFY with run.oci.seccomp.plugins: pyrunc loads none",
                    ("give a listenerPath"),
                )
            elif not listener(seccomp, annotations).startswith("/"):
                yield f"{pointer}/action", "SCMP_ACT_NOTIFY needs listenerPath", "an absolute path"


def listener(seccomp: "Seccomp", annotations: dict[str, str]) -> str:
    """The socket of the agent that SCMP_ACT_NOTIFY asks; the annotation is crun's."""
    return seccomp.get("listenerPath") or annotations.get("run.oci.seccomp.receiver", "")


def device_rules_are_whole(document: "Resources") -> "Iterator[Problem]":
    """config-linux.md, Device allowed list. runc: specconv, CreateCgroupConfig()."""
    for index, rule in enumerate(document.get("devices", ())):
        if rule.get("type", "a") not in ("a", "b", "c", ""):
            yield f"/devices/{index}/type", f'expected a, b or c, found "{rule["type"]}"', ""
        access = rule.get("access", "")
        if not access.strip("a") or access.strip("rwma"):  # runc takes an "a", which means nothing
            yield f"/devices/{index}/access", f'expected some of rwm, found "{access}"', ""
        for name, number in (("major", rule.get("major", -1)), ("minor", rule.get("minor", -1))):
            if not -1 <= number < LIMIT:
                yield f"/devices/{index}/{name}", f"expected -1 (all) or 0 to {LIMIT - 1}, found {number}", ""


def memory_has_limits(document: "Resources") -> "Iterator[Problem]":
    """config-linux.md, Memory: -1 is no limit, and what is below it is a mistake that must not be one."""
    memory = document["memory"]
    for name, limit in (
        ("limit", memory.get("limit", 0)),
        ("swap", memory.get("swap", 0)),
        ("reservation", memory.get("reservation", 0)),
    ):
        if limit < -1:
            yield f"/memory/{name}", f"expected -1 (no limit) or more, found {limit}", ""


CONFIG: "dict[str, Callable[[Config], Iterator[Problem]]]" = {
    "mounts": mounts_are_complete,
    "hooks": hook_paths_are_absolute,
}
PROCESS: "dict[str, Callable[[Process], Iterator[Problem]]]" = {
    "env": environment_is_named,
    "user": ids_are_ids,
    "rlimits": rlimits_are_distinct,
    "oomScoreAdj": oom_score_is_in_range,
    "consoleSize": console_has_a_size,
}
LINUX: "dict[str, Callable[[Linux, dict[str, str]], Iterator[Problem]]]" = {
    "namespaces": namespaces_are_distinct,
    "sysctl": sysctls_are_namespaced,
    "cgroupsPath": cgroup_is_on_one_line,
}


# What is doubtful, but is written and works

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip  # the index is the number


def warnings(document: "Config") -> list[Problem]:
    """What to tell about config.json without refusing it."""
    found: list[Problem] = []
    for index, mount in enumerate(document.get("mounts", ())):
        if not mount["destination"].startswith("/"):
            found.append((f"/mounts/{index}/destination", "a relative destination is deprecated", ""))
    if "process" in document:
        found += _under("/process", process_warnings(document["process"]))
    linux = document.get("linux", {})
    for name, paths in (
        ("maskedPaths", linux.get("maskedPaths", ())),
        ("readonlyPaths", linux.get("readonlyPaths", ())),
        ("devices", [device["path"] for device in linux.get("devices", ())]),
    ):
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                taken = f'"{path}" is taken as /{path}'
                found.append((f"/linux/{name}/{index}", taken, "it should be absolute"))
    if ".." in linux.get("cgroupsPath", "").split("/"):
        found.append(("/linux/cgroupsPath", "it is resolved as if / were its own parent", ""))
    return found + _under("/linux/resources", resources_warnings(linux.get("resources", {})))


def resources_warnings(document: "Resources") -> list[Problem]:
    """The same for limits."""
    found: list[Problem] = []
    memory = document.get("memory", {})
    for deprecated in ("kernel", "useHierarchy"):
        if deprecated in memory:
            found.append((f"/memory/{deprecated}", "it is deprecated and ignored", ""))
    cpu, files = document.get("cpu", {}), document.get("unified", {})
    both = "unable to apply both {}: an idle cgroup has no weight, which is ignored"
    if cpu.get("idle") == 1 and cpu.get("shares"):
        found.append(("/cpu/shares", both.format("cpu.shares and cpu.idle"), ""))
    if files.get("cpu.idle", "").strip() == "1" and "cpu.weight" in files:
        found.append(("/unified/cpu.weight", both.format("cpu.weight and cpu.idle"), ""))
    return found


def process_warnings(document: "Process") -> list[Problem]:
    """The same for a process. config.md: an unknown capability is ignored, and logged."""
    found: list[Problem] = []
    sets = document.get("capabilities", {})
    told: set[str] = set()
    for kind in ("bounding", "effective", "inheritable", "permitted", "ambient"):
        names: list[str] = sets.get(kind) or []  # type: ignore[assignment]
        for name in names:
            if name not in CAPABILITIES and name.upper() not in CAPABILITIES and name not in told:
                told.add(name)
                found.append((f"/capabilities/{kind}", f'unknown capability "{name}" is ignored', ""))
    if document.get("user", {}).get("umask", 0) > 0o777:
        found.append(("/user/umask", "bits above 0777 are ignored", "JSON numbers are decimal: 022 is 18"))
    return found

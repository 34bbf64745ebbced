"""What a configuration must be beyond what its schema says, checked before anything is created.

A rule is a function in one of the tables below. It is given a document that follows its schema, and yields what is
wrong: a JSON pointer, the cause, and what to do about it or "". It stands here only if the specification says MUST,
or the kernel or runc would refuse the container later and less clearly. What engines write although it is doubtful
is a warning.

"runc" names runc's file or function that refuses the same; section names are those of runtime-spec 1.3.
"""

from pyrunc.spec import rules_linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.spec.types import Config, ExecCPUAffinity, IDMapping, Process, Resources

Problem = tuple[str, str, str]

INVALID_ID = 0xFFFFFFFF   # (uid_t)-1: the kernel takes it as "leave as it is", so that root would stay root
RLIMITS = {
    "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}
DIGITS = "0123456789"


def config(document: "Config") -> list[Problem]:
    """All that is wrong with config.json."""
    found: list[Problem] = []
    for rule in CONFIG:
        found += rule(document)
    if "process" in document:
        found += _under("/process", process(document["process"]))
    if "linux" in document:
        found += _under("/linux", rules_linux.linux(document["linux"]))
    return found


def process(document: "Process") -> list[Problem]:
    """All that is wrong with config.json's process, or with what exec --process reads."""
    found: list[Problem] = []
    for rule in PROCESS:
        found += rule(document)
    return found


def resources(document: "Resources") -> list[Problem]:
    """All that is wrong with config.json's linux.resources, or with what update --resources reads."""
    return rules_linux.resources(document)


def _under(pointer: str, found: list[Problem]) -> list[Problem]:
    return [(pointer + below, cause, hint) for below, cause, hint in found]


# The whole document

def version_is_semver(document: "Config") -> "Iterator[Problem]":
    """config.md, Specification version: MUST be in SemVer v2.0.0 format. runtime-tools' misc_props tests it."""
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
    """Or we would rename the host. runc: validate/validator.go, uts()."""
    for member in ("hostname", "domainname"):
        if document.get(member) and "uts" not in rules_linux.namespaces(document.get("linux", {})):
            yield f"/{member}", "it can't be set without a UTS namespace", ADD_NAMESPACE % "uts"


ADD_NAMESPACE = 'add {"type": "%s"} to linux.namespaces'


def mounts_are_complete(document: "Config") -> "Iterator[Problem]":
    """runc: checkIDMapMounts(): both mappings or neither; without them idmap means those of the user namespace."""
    for index, mount in enumerate(document.get("mounts", ())):
        if not mount["destination"]:
            yield f"/mounts/{index}/destination", "expected a path, found an empty string", ""
        uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
        if uids or gids:
            if not (uids and gids):
                missing = "gidMappings" if uids else "uidMappings"
                yield f"/mounts/{index}", f"an ID-mapped mount needs both mappings, and {missing} is missing", ""
            yield from rules_linux.mappings_are_ranges(uids or [], f"/mounts/{index}/uidMappings")
            yield from rules_linux.mappings_are_ranges(gids or [], f"/mounts/{index}/gidMappings")
            continue
        options = mount.get("options", ())
        if ("idmap" in options or "ridmap" in options) and (
                "user" not in rules_linux.namespaces(document.get("linux", {}))):
            yield f"/mounts/{index}/options", "idmap needs mappings, or a user namespace to take them from", ""


def hook_paths_are_absolute(document: "Config") -> "Iterator[Problem]":
    """config.md, POSIX-platform Hooks: path MUST be absolute. That a timeout is positive the schema says."""
    for kind, hooks in document.get("hooks", {}).items():
        if isinstance(hooks, list):   # a kind that the specification doesn't know may be anything
            for index, hook in enumerate(hooks):
                if isinstance(hook, dict) and not str(hook.get("path", "/")).startswith("/"):
                    yield f"/hooks/{kind}/{index}/path", f'expected an absolute path, found "{hook["path"]}"', ""


def ids_are_mapped(document: "Config") -> "Iterator[Problem]":
    """runc: setupUser(), `cannot set uid to unmapped user in user namespace`, after all has been created."""
    linux = document.get("linux", {})
    if "process" not in document or rules_linux.namespaces(linux).get("user", "joined"):
        return
    user = document["process"].get("user", {})
    for name, number, mappings in (("uid", user.get("uid", 0), linux.get("uidMappings", [])),
                                   ("gid", user.get("gid", 0), linux.get("gidMappings", []))):
        if mappings and not _is_mapped(number, mappings):
            yield f"/process/user/{name}", f"{number} is in no range of linux.{name}Mappings", ""


def _is_mapped(number: int, mappings: "list[IDMapping]") -> bool:
    return any(0 <= number - each["containerID"] < each["size"] for each in mappings)


def notifications_have_a_listener(document: "Config") -> "Iterator[Problem]":
    """runc: `seccomp listenerPath is not set`. crun's annotations name another receiver."""
    seccomp = document.get("linux", {}).get("seccomp")
    if not seccomp or seccomp.get("listenerPath"):
        return
    for name in document.get("annotations", ()):
        if name.startswith("run.oci.seccomp."):
            return
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        if rule["action"] == "SCMP_ACT_NOTIFY":
            yield f"/linux/seccomp/syscalls/{index}/action", "SCMP_ACT_NOTIFY needs listenerPath", ""


# The process

def cwd_is_absolute(document: "Process") -> "Iterator[Problem]":
    """config.md, Process: cwd MUST be an absolute path."""
    if not document["cwd"].startswith("/"):
        yield "/cwd", f'expected an absolute path, found "{document["cwd"]}"', ""


def there_is_a_program(document: "Process") -> "Iterator[Problem]":
    """config.md, Process: at least one entry is REQUIRED. (That there is no process at all is for start to tell.)"""
    if not document.get("args"):
        yield "/args" if "args" in document else "", "args: expected at least the program, found none", ""


def environment_is_named(document: "Process") -> "Iterator[Problem]":
    """runc: libcontainer/env.go refuses what is not NAME=VALUE: programs would read it differently."""
    for index, entry in enumerate(document.get("env", ())):
        if entry.find("=") < 1:
            yield f"/env/{index}", f'expected NAME=VALUE, found "{entry}"', ""


def ids_are_ids(document: "Process") -> "Iterator[Problem]":
    """The largest number is -1, with which setresuid(2) changes nothing and root stays root (CVE-2024-40635)."""
    user = document.get("user", {})
    for name in ("uid", "gid"):
        if user.get(name) == INVALID_ID:
            yield f"/user/{name}", f"{INVALID_ID} is -1, which is no ID", ""
    if INVALID_ID in user.get("additionalGids", ()):
        index = user["additionalGids"].index(INVALID_ID)
        yield f"/user/additionalGids/{index}", f"{INVALID_ID} is -1, which is no ID", ""


def rlimits_are_distinct(document: "Process") -> "Iterator[Problem]":
    """config.md, rlimits: duplicates MUST be an error, unmappable types too; prlimit(2) refuses soft above hard."""
    seen: set[str] = set()
    for index, limit in enumerate(document.get("rlimits", ())):
        if limit["type"] not in RLIMITS:
            yield f"/rlimits/{index}/type", f'Linux has no limit "{limit["type"]}"', ""
        if limit["type"] in seen:
            yield f"/rlimits/{index}/type", f'{limit["type"]} is set twice', ""
        if limit["soft"] > limit["hard"]:
            yield f"/rlimits/{index}/soft", f'{limit["soft"]} is above the hard limit, {limit["hard"]}', ""
        seen.add(limit["type"])


def oom_score_is_in_range(document: "Process") -> "Iterator[Problem]":
    """proc(5), oom_score_adj."""
    if not -1000 <= document.get("oomScoreAdj", 0) <= 1000:
        yield "/oomScoreAdj", f"expected -1000 to 1000, found {document['oomScoreAdj']}", ""


def scheduler_fits_its_policy(document: "Process") -> "Iterator[Problem]":
    """sched_setattr(2). runc: validator.go, scheduler(); what it leaves to the kernel ends in EINVAL."""
    if "scheduler" not in document:
        return
    scheduler = document["scheduler"]
    policy = scheduler["policy"]
    if not -20 <= scheduler.get("nice", 0) <= 19:
        yield "/scheduler/nice", f"expected -20 to 19, found {scheduler['nice']}", ""
    priority = scheduler.get("priority", 0)
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            yield "/scheduler", f"{policy} needs a priority of 1 to 99, found {priority}", ""
    elif priority:
        yield "/scheduler/priority", f"{policy} has no priority", "SCHED_FIFO and SCHED_RR have"
    runtime, deadline = scheduler.get("runtime", 0), scheduler.get("deadline", 0)
    period = scheduler.get("period", 0)
    if policy != "SCHED_DEADLINE":
        if runtime or deadline or period:
            yield "/scheduler", f"{policy} has no runtime, deadline or period", "SCHED_DEADLINE has"
    elif not 0 < runtime <= deadline <= (period or deadline):
        yield "/scheduler", "expected 0 < runtime <= deadline <= period", "the unit is nanoseconds"


def io_priority_is_in_range(document: "Process") -> "Iterator[Problem]":
    """ioprio_set(2). runc: validator.go, ioPriority()."""
    priority = document.get("ioPriority", {}).get("priority", 0)
    if not 0 <= priority <= 7:
        yield "/ioPriority/priority", f"expected 0 to 7, found {priority}", ""


def affinity_is_a_list(document: "Process") -> "Iterator[Problem]":
    """config.md, execCPUAffinity: lists in the format of cpuset(7)."""
    affinity: ExecCPUAffinity = document.get("execCPUAffinity", {})
    for name, text in (("initial", affinity.get("initial")), ("final", affinity.get("final"))):
        if text and not rules_linux.is_list_of_numbers(text):
            yield f"/execCPUAffinity/{name}", f'expected CPUs such as 0-3,7, found "{text}"', ""


CONFIG: "tuple[Callable[[Config], Iterator[Problem]], ...]" = (
    version_is_semver,
    root_is_there,
    names_have_a_uts_namespace,
    mounts_are_complete,
    hook_paths_are_absolute,
    ids_are_mapped,
    notifications_have_a_listener,
)
PROCESS: "tuple[Callable[[Process], Iterator[Problem]], ...]" = (
    cwd_is_absolute,
    there_is_a_program,
    environment_is_named,
    ids_are_ids,
    rlimits_are_distinct,
    oom_score_is_in_range,
    scheduler_fits_its_policy,
    io_priority_is_in_range,
    affinity_is_a_list,
)


# What is doubtful, but is written and works

CAPABILITIES = {
    "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW",
    "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}


def warnings(document: "Config") -> list[Problem]:
    """What to tell about config.json without refusing it."""
    found: list[Problem] = []
    for index, mount in enumerate(document.get("mounts", ())):
        if not mount["destination"].startswith("/"):
            found.append((f"/mounts/{index}/destination", "a relative destination is deprecated", ""))
    if "process" in document:
        found += _under("/process", process_warnings(document["process"]))
    linux = document.get("linux", {})
    for name, paths in (("maskedPaths", linux.get("maskedPaths", ())),
                        ("readonlyPaths", linux.get("readonlyPaths", ())),
                        ("devices", [device["path"] for device in linux.get("devices", ())])):
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                found.append((f"/linux/{name}/{index}", f'"{path}" is taken as /{path}', "it should be absolute"))
    if ".." in linux.get("cgroupsPath", "").split("/"):
        found.append(("/linux/cgroupsPath", "it is resolved as if / were its own parent", ""))
    memory = linux.get("resources", {}).get("memory", {})
    for deprecated in ("kernel", "kernelTCP", "useHierarchy"):
        if deprecated in memory:
            found.append((f"/linux/resources/memory/{deprecated}", "it is deprecated and ignored", ""))
    return found


def process_warnings(document: "Process") -> list[Problem]:
    """What to tell about a process without refusing it. config.md: an unknown capability is ignored, and logged."""
    found: list[Problem] = []
    sets = document.get("capabilities", {})
    for kind in ("bounding", "effective", "inheritable", "permitted", "ambient"):
        names = sets.get(kind)
        if isinstance(names, list) and not CAPABILITIES.issuperset(names):
            found += [(f"/capabilities/{kind}", f'unknown capability "{name}" is ignored', "")
                      for name in names if name not in CAPABILITIES]
    if document.get("user", {}).get("umask", 0) > 0o777:
        found.append(("/user/umask", "bits above 0777 are ignored", "JSON numbers are decimal: 022 is 18"))
    return found

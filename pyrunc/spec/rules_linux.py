"""The rules for config.json's `linux`: see rules.py, which says what a rule is."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.spec.types import IDMapping, Linux, Resources

Problem = tuple[str, str, str]

DIGITS = "0123456789"
IDS = 1 << 32
MOST_EXTENTS = 340   # user_namespaces(7), since Linux 4.15
SYSCTLS_OF_IPC = {
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shm_rmid_forced", "kernel/shmall",
    "kernel/shmmax", "kernel/shmmni",
}


def linux(document: "Linux") -> list[Problem]:
    """All that is wrong with config.json's linux."""
    inside = namespaces(document)
    found: list[Problem] = []
    for rule in LINUX:
        found += rule(document, inside)
    found += seccomp_is_consistent(document)
    for below, cause, hint in resources(document.get("resources", {})):
        found.append(("/resources" + below, cause, hint))
    return found


def resources(document: "Resources") -> list[Problem]:
    """All that is wrong with config.json's linux.resources."""
    found: list[Problem] = []
    for rule in RESOURCES:
        found += rule(document)
    return found


def namespaces(document: "Linux") -> dict[str, str]:
    """The namespaces of a container by type: the path of one to join, or "" for a new one."""
    return {each["type"]: each.get("path", "") for each in document.get("namespaces", ())}


def escaped(name: str) -> str:
    """A member's name in a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def is_list_of_numbers(text: str) -> bool:
    """Whether `text` is in cpuset(7)'s list format, blanks allowed: 0-3,7."""
    for part in text.split(","):
        first, dash, last = part.strip(" ").partition("-")
        if not first or first.strip(DIGITS) or last.strip(DIGITS):
            return False
        if dash and (not last or int(first) > int(last)):
            return False
    return True


# Namespaces

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


def mappings_fit_the_user_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """runc: validator.go, namespaces(), and HostRootUID(): its setup runs as the namespace's root.

    Engines give a path and mappings together (CRI-O, containerd): those are compared when it is joined.
    """
    uids, gids = document.get("uidMappings", []), document.get("gidMappings", [])
    path = inside.get("user")
    if path is None and (uids or gids):
        yield "/uidMappings" if uids else "/gidMappings", "mappings need a user namespace", (
            'add {"type": "user"} to linux.namespaces')
    for name, mappings in (("uidMappings", uids), ("gidMappings", gids)):
        yield from mappings_are_ranges(mappings, f"/{name}")
        if path != "":
            continue
        if not mappings:
            yield "", f"a new user namespace needs {name}", ""
        elif not any(each["containerID"] == 0 and each["size"] for each in mappings):
            yield f"/{name}", "ID 0 of the container is not mapped", ""


def mappings_are_ranges(mappings: "list[IDMapping]", pointer: str) -> "Iterator[Problem]":
    """user_namespaces(7): no empty range, none beyond the last ID, no overlap on either side."""
    if len(mappings) > MOST_EXTENTS:
        yield pointer, f"the kernel takes at most {MOST_EXTENTS} ranges, found {len(mappings)}", ""
        return
    for index, mapping in enumerate(mappings):
        size = mapping["size"]
        if size == 0:
            yield f"{pointer}/{index}/size", "expected 1 or more, found 0", ""
        for side, first in (("containerID", mapping["containerID"]), ("hostID", mapping["hostID"])):
            if first + size >= IDS:   # the last ID, -1, can't be mapped
                yield f"{pointer}/{index}", f"{size} IDs from {side} {first} on are more than there are", ""
    for side in ("containerID", "hostID"):
        ranges = sorted((each["containerID"] if side == "containerID" else each["hostID"], each["size"], index)
                        for index, each in enumerate(mappings))
        for (start, size, _), (following, _, index) in zip(ranges, ranges[1:]):
            if following < start + size:
                yield f"{pointer}/{index}/{side}", "this range overlaps with another one", ""


def offsets_have_a_new_time_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """time_namespaces(7): a namespace's clocks can be set until its first process is in it. runc: namespaces()."""
    offsets = document.get("timeOffsets")
    if not offsets:
        return
    if inside.get("time") != "":
        yield "/timeOffsets", "offsets need a new time namespace", (
            "drop the path of the time namespace" if inside.get("time") else 'add {"type": "time"} to linux.namespaces')
    for clock, offset in offsets.items():
        if clock not in ("monotonic", "boottime"):
            yield f"/timeOffsets/{escaped(clock)}", f'expected monotonic or boottime, found "{clock}"', ""
        elif isinstance(offset, dict) and offset.get("nanosecs", 0) > 999_999_999:
            yield f"/timeOffsets/{clock}/nanosecs", f"expected less than a second, found {offset['nanosecs']}", ""


def paths_have_a_mount_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """Or the host's /proc would be masked. runc: validator.go, security()."""
    if "mount" not in inside:
        for name, paths in (("maskedPaths", document.get("maskedPaths")),
                            ("readonlyPaths", document.get("readonlyPaths"))):
            if paths:
                yield f"/{name}", "it needs a mount namespace", 'add {"type": "mount"} to linux.namespaces'


def sysctls_are_namespaced(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """Nothing that the host shares may be changed. runc: validator.go, sysctl().

    A joined namespace is as good as a new one here; that a path doesn't lead to the host's is found on joining.
    """
    for name in document.get("sysctl", ()):
        path = sysctl_path(name)
        if cause := _sysctl_refused(path, inside):
            yield f"/sysctl/{escaped(name)}", f"/proc/sys/{path}: {cause}", ""


def sysctl_path(name: str) -> str:
    """The file of a kernel parameter below /proc/sys. The first of dot and slash is what separates, as sysctl(8) has it.

    net.ipv4.conf.eth0/100.forwarding is net/ipv4/conf/eth0.100/forwarding: a dot may be part of a name.
    """
    dot, slash = name.find("."), name.find("/")
    if dot < 0 or 0 <= slash < dot:
        return name
    return name.replace("/", "\0").replace(".", "/").replace("\0", ".")


def _sysctl_refused(path: str, inside: dict[str, str]) -> str:
    """Why the parameter may not be set, or ""."""
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts:   # net/../kernel/core_pattern
        return "this is not a parameter's path"
    if path == "kernel/hostname":
        return "the member hostname sets it"
    if path in SYSCTLS_OF_IPC or path.startswith("fs/mqueue/"):
        owner = "ipc"
    elif parts[0] == "net":
        owner = "network"
    elif parts[0] == "user":
        owner = "user"
    elif path == "kernel/domainname":
        owner = "uts"
    else:
        return "it belongs to no namespace, so to the host"
    return "" if owner in inside else f"it is the host's, for there is no {owner} namespace"


# Devices, memory, classes of service

def devices_are_whole(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Devices: major and minor REQUIRED but for a FIFO; one path is one node."""
    seen: dict[str, tuple[object, ...]] = {}
    for index, device in enumerate(document.get("devices", ())):
        if device["type"] != "p" and not ("major" in device and "minor" in device):
            missing = "minor" if "major" in device else "major"
            yield f"/devices/{index}", f'expected a member "{missing}" for a device of type {device["type"]}', ""
        kind = "c" if device["type"] == "u" else device["type"]
        node = (kind, device.get("major"), device.get("minor")) if kind != "p" else (kind,)
        if seen.setdefault(device["path"], node) != node:
            yield f"/devices/{index}/path", f'{device["path"]} is another device already', ""


def net_devices_can_move(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Network Devices. runc: validator.go, netDevices(), devValidName(), after the kernel's."""
    devices = document.get("netDevices")
    if not devices:
        return
    if "network" not in inside:
        yield "/netDevices", "moving devices needs a network namespace", 'add {"type": "network"} to linux.namespaces'
    for name, device in devices.items():
        for each in (name, device.get("name") or name):
            if not each or len(each) > 15 or each in (".", "..") or "/" in each or ":" in each or each.split() != [each]:
                yield f"/netDevices/{escaped(name)}", f'"{each}" is no name of a network device', (
                    "1 to 15 characters, no blanks, / or :")


def memory_policy_has_its_nodes(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """set_mempolicy(2). runc: validator.go, memoryPolicy()."""
    policy = document.get("memoryPolicy")
    if policy is None:
        return
    mode, nodes, flags = policy.get("mode"), policy.get("nodes", ""), policy.get("flags", ())
    if mode is None:
        yield "/memoryPolicy", 'expected a member "mode", found none', ""
    elif mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes:
            yield "/memoryPolicy/nodes", f"{mode} has no nodes", ""
    elif mode != "MPOL_PREFERRED" and not nodes:
        yield "/memoryPolicy", f"{mode} needs nodes", ""
    if nodes and not is_list_of_numbers(nodes):
        yield "/memoryPolicy/nodes", f'expected nodes such as 0-2,4, found "{nodes}"', ""
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        yield "/memoryPolicy/flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other", ""


def personality_is_plain(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Personality: no flags are defined. runc: `additional flags unsupported by runc`."""
    personality = document.get("personality")
    if personality is not None:
        if "domain" not in personality:
            yield "/personality", 'expected a member "domain", found none', ""
        if personality.get("flags"):
            yield "/personality/flags", "no flag is defined", ""


def rdt_class_is_a_name(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """It becomes a directory's name in resctrl; "/" is the root class (1.3). runc: validator.go, intelrdtCheck()."""
    name = document.get("intelRdt", {}).get("closID", "")
    if name in (".", "..") or ("/" in name and name != "/") or "\n" in name:
        yield "/intelRdt/closID", f'"{name}" is no name of a class', ""


# seccomp

def seccomp_is_consistent(document: "Linux") -> "Iterator[Problem]":
    """config-linux.md, Seccomp. runc: libcontainer/seccomp, InitSeccomp()."""
    seccomp = document.get("seccomp")
    if seccomp is None:
        return
    if "listenerMetadata" in seccomp and not seccomp.get("listenerPath"):
        yield "/seccomp/listenerMetadata", "it needs listenerPath", ""
    default = seccomp["defaultAction"]
    if default == "SCMP_ACT_NOTIFY":   # the message that hands the listener over would wait for its own answer
        yield "/seccomp/defaultAction", "SCMP_ACT_NOTIFY can't be the default", ""
    if "defaultErrnoRet" in seccomp and default not in RETURNING:
        yield "/seccomp/defaultErrnoRet", f"{default} returns no error number", ""
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        if "errnoRet" in rule and rule["action"] not in RETURNING:
            yield f"/seccomp/syscalls/{index}/errnoRet", f"{rule['action']} returns no error number", ""
        if "" in rule["names"]:
            yield f"/seccomp/syscalls/{index}/names", "expected names of system calls, found an empty string", ""
        if rule["action"] == "SCMP_ACT_NOTIFY" and "write" in rule["names"]:
            yield f"/seccomp/syscalls/{index}/names", "write can't have SCMP_ACT_NOTIFY", ""
        for argument, condition in enumerate(rule.get("args", ())):
            if condition["index"] > 5:
                yield f"/seccomp/syscalls/{index}/args/{argument}/index", "expected 0 to 5", ""


RETURNING = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


# Resources: what becomes part of a file's name or of a line may not be a way out of it (runc#4103)

def unified_names_are_files(document: "Resources") -> "Iterator[Problem]":
    """config-linux.md, Unified. runc: cgroups/fs2, setUnified()."""
    for name in document.get("unified", ()):
        if "/" in name or name.find(".") < 1:
            yield f"/unified/{escaped(name)}", "expected a file of the cgroup, such as memory.high", ""


def rdma_names_are_names(document: "Resources") -> "Iterator[Problem]":
    """A device's name starts a line of rdma.max, so that it can't be several words."""
    for name in document.get("rdma", ()):
        if "/" in name or name.split() != [name]:
            yield f"/rdma/{escaped(name)}", f'"{name}" is no name of a device', ""


def interface_names_are_names(document: "Resources") -> "Iterator[Problem]":
    """An interface's name starts a line of net_prio.ifpriomap."""
    for index, each in enumerate(document.get("network", {}).get("priorities", ())):
        if "/" in each["name"] or each["name"].split() != [each["name"]]:
            yield f"/network/priorities/{index}/name", f'"{each["name"]}" is no name of an interface', ""


def device_rules_are_whole(document: "Resources") -> "Iterator[Problem]":
    """config-linux.md, Device allowed list. runc: specconv, CreateCgroupConfig()."""
    for index, rule in enumerate(document.get("devices", ())):
        if rule.get("type", "a") not in ("a", "b", "c", ""):
            yield f"/devices/{index}/type", f'expected a, b or c, found "{rule["type"]}"', ""
        access = rule.get("access", "")
        if not access or access.strip("rwm"):
            yield f"/devices/{index}/access", f'expected some of rwm, found "{access}"', ""


LINUX: "tuple[Callable[[Linux, dict[str, str]], Iterator[Problem]], ...]" = (
    namespaces_are_distinct,
    mappings_fit_the_user_namespace,
    offsets_have_a_new_time_namespace,
    paths_have_a_mount_namespace,
    sysctls_are_namespaced,
    devices_are_whole,
    net_devices_can_move,
    memory_policy_has_its_nodes,
    personality_is_plain,
    rdt_class_is_a_name,
)
RESOURCES: "tuple[Callable[[Resources], Iterator[Problem]], ...]" = (
    unified_names_are_files,
    rdma_names_are_names,
    interface_names_are_names,
    device_rules_are_whole,
)

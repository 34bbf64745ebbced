"""The rules for members that few configurations have. See rules.py, which says what a rule is."""

from pyrunc.spec import escaped, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrunc.spec.types import Config, ExecCPUAffinity, IDMapping, IntelRdt, Linux, Mount, Process, Resources

Problem = tuple[str, str, str]

DIGITS = "0123456789"
IDS = 1 << 32
MOST_EXTENTS = 340  # user_namespaces(7), since Linux 4.15
SHORTEST_RUNTIME = 1024  # nanoseconds, __checkparam_dl() of the kernel; its period has 63 bits
LARGEST = {"major": (1 << 12) - 1, "minor": (1 << 20) - 1, "uid": IDS - 2, "gid": IDS - 2}  # of a device's node


def process(document: "Process") -> list[Problem]:
    """What rules.process() leaves to us."""
    found: list[Problem] = []
    for rule in PROCESS:
        found += rule(document)
    return found


def linux(document: "Linux", inside: dict[str, str]) -> list[Problem]:
    """What rules.linux() leaves to us."""
    found: list[Problem] = []
    for rule in LINUX:
        found += rule(document, inside)
    return found


def resources(document: "Resources") -> list[Problem]:
    """What rules.resources() leaves to us."""
    found: list[Problem] = []
    for rule in RESOURCES:
        found += rule(document)
    return found


def is_list_of_numbers(text: str) -> bool:
    """Whether `text` is in cpuset(7)'s list format, blanks allowed: 0-3,7."""
    for part in text.split(","):
        first, dash, last = part.strip(" ").partition("-")
        if not first or first.strip(DIGITS) or last.strip(DIGITS):
            return False
        if dash and (not last or int(first) > int(last)):
            return False
    return True


def count_of(text: str) -> int:
    """How many numbers such a list names."""
    ranges = [part.partition("-") for part in text.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


# User namespaces


def mappings_fit_the_user_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """runc: validator.go, namespaces(), and HostRootUID(): its setup runs as the namespace's root.

    Engines give a path and mappings together (CRI-O, containerd): those are compared when it is joined.
    """
    uids, gids = document.get("uidMappings", []), document.get("gidMappings", [])
    path = inside.get("user")
    if path is None and (uids or gids):
        yield (
            "/uidMappings" if uids else "/gidMappings",
            "mappings need a user namespace",
            ('add {"type": "user"} to linux.namespaces'),
        )
    for name, mappings in (("uidMappings", uids), ("gidMappings", gids)):
        yield from mappings_are_ranges(mappings, f"/{name}")
        if path != "":
            continue
        if not mappings:
            yield (
                "",
                f"a new user namespace needs {name}",
                (
                    'such as [{"containerID": 0, "hostID": 1000, "size": 1}], if your ID is 1000; '
                    "`pyrunc spec --rootless` writes them"
                ),
            )
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
            if first + size >= IDS:  # the last ID, -1, can't be mapped
                yield f"{pointer}/{index}", f"{size} IDs from {side} {first} on are more than there are", ""
    for side in ("containerID", "hostID"):
        inside = side == "containerID"
        ranges = sorted(
            (each["containerID"] if inside else each["hostID"], each["size"], index)
            for index, each in enumerate(mappings)
        )
        for (start, size, _), (following, _, index) in zip(ranges, ranges[1:], strict=False):
            if following < start + size:
                yield f"{pointer}/{index}/{side}", "this range overlaps with another one", ""


def mount_mappings_are_complete(
    mount: "Mount",
    pointer: str,
    inside: dict[str, str],
) -> "Iterator[Problem]":
    """runc: checkIDMapMounts(): both mappings or neither. idmap alone means those of the user namespace."""
    uids, gids = mount.get("uidMappings", []), mount.get("gidMappings", [])
    if uids or gids:
        if not (uids and gids):
            missing = "gidMappings" if uids else "uidMappings"
            yield pointer, f"an ID-mapped mount needs both mappings, and {missing} is missing", ""
        yield from mappings_are_ranges(uids, f"{pointer}/uidMappings")
        yield from mappings_are_ranges(gids, f"{pointer}/gidMappings")
    elif "user" not in inside and not {"idmap", "ridmap"}.isdisjoint(mount.get("options", ())):
        yield f"{pointer}/options", "idmap needs mappings, or a user namespace to take them from", ""


def ids_are_mapped(document: "Config") -> "Iterator[Problem]":
    """runc: setupUser(), `cannot set uid to unmapped user in user namespace`, after all has been created."""
    if "process" not in document or namespaces(document).get("user", "joined"):
        return
    linux = document["linux"]
    user = document["process"].get("user", {})
    for name, number, mappings in (
        ("uid", user.get("uid", 0), linux.get("uidMappings", [])),
        ("gid", user.get("gid", 0), linux.get("gidMappings", [])),
    ):
        if mappings and not _is_mapped(number, mappings):
            yield f"/process/user/{name}", f"{number} is in no range of linux.{name}Mappings", ""


def root_is_mapped(document: "Config") -> "Iterator[Problem]":
    """Our own annotation: the root file system as an ID-mapped mount. docs/compatibility.md"""
    pointer = "/annotations/org.pyrunc.rootfs.idmap"
    value = document.get("annotations", {}).get(pointer.rpartition("/")[2])
    if value not in (None, "true", "false"):
        yield pointer, f'expected "true" or "false", found "{value}"', ""
    elif value == "true" and not {"user", "mount"} <= set(namespaces(document)):
        yield (
            pointer,
            "the IDs are those of a user namespace, in a mount namespace: one is missing",
            ('add {"type": "user"} and {"type": "mount"} to linux.namespaces'),
        )


def _is_mapped(number: int, mappings: "list[IDMapping]") -> bool:
    return any(0 <= number - each["containerID"] < each["size"] for each in mappings)


# The process


def scheduler_fits_its_policy(document: "Process") -> "Iterator[Problem]":
    """sched_setattr(2). runc: validator.go, scheduler(); what it leaves to the kernel ends in EINVAL."""
    if "scheduler" not in document:
        return
    scheduler = document["scheduler"]
    policy = scheduler["policy"]
    if policy == "SCHED_ISO":  # a number that the kernel keeps for it
        yield "/scheduler/policy", "Linux has no SCHED_ISO", ""
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
    elif not SHORTEST_RUNTIME <= runtime <= deadline <= (period or deadline) < 1 << 63:
        yield (
            "/scheduler",
            f"expected {SHORTEST_RUNTIME} <= runtime <= deadline <= period < 2^63",
            ("the unit is nanoseconds"),
        )


def io_priority_is_in_range(document: "Process") -> "Iterator[Problem]":
    """ioprio_set(2). runc: validator.go, ioPriority()."""
    priority = document.get("ioPriority", {}).get("priority", 0)
    if not 0 <= priority <= 7:
        yield "/ioPriority/priority", f"expected 0 to 7, found {priority}", ""


def affinity_is_a_list(document: "Process") -> "Iterator[Problem]":
    """config.md, execCPUAffinity: lists in the format of cpuset(7)."""
    affinity: ExecCPUAffinity = document.get("execCPUAffinity", {})
    for name, text in (("initial", affinity.get("initial")), ("final", affinity.get("final"))):
        if text and not is_list_of_numbers(text):
            yield f"/execCPUAffinity/{name}", f'expected CPUs such as 0-3,7, found "{text}"', ""


# Linux: clocks, devices, memory, classes of service


def offsets_have_a_new_time_namespace(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """time_namespaces(7): clocks can be set until the first process is in. runc: namespaces()."""
    offsets = document.get("timeOffsets")
    if not offsets:
        return
    if inside.get("time") != "":
        hint = "drop its path" if inside.get("time") else 'add {"type": "time"} to linux.namespaces'
        yield "/timeOffsets", "offsets need a new time namespace", hint
    for clock, offset in offsets.items():
        if clock not in ("monotonic", "boottime"):
            yield f"/timeOffsets/{escaped(clock)}", f'expected monotonic or boottime, found "{clock}"', ""
        elif isinstance(offset, dict) and offset.get("nanosecs", 0) > 999_999_999:
            found = offset["nanosecs"]
            yield f"/timeOffsets/{clock}/nanosecs", f"expected less than a second, found {found}", ""


def devices_are_whole(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Devices: major and minor REQUIRED but for a FIFO; one path is one node."""
    seen: dict[str, tuple[object, ...]] = {}
    for index, device in enumerate(document.get("devices", ())):
        if device["type"] != "p" and not ("major" in device and "minor" in device):
            missing = "minor" if "major" in device else "major"
            yield f"/devices/{index}", f'expected a member "{missing}" for type {device["type"]}', ""
        for name, largest in LARGEST.items():
            if not 0 <= device.get(name, 0) <= largest:  # type: ignore[operator]
                yield f"/devices/{index}/{name}", f"expected 0 to {largest}, found {device[name]}", ""  # type: ignore[literal-required]
        kind = "c" if device["type"] == "u" else device["type"]
        node = (kind, device.get("major"), device.get("minor")) if kind != "p" else (kind,)
        if seen.setdefault(device["path"], node) != node:
            yield f"/devices/{index}/path", f"{device['path']} is another device already", ""


def net_devices_can_move(document: "Linux", inside: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Network Devices. runc: validator.go, netDevices() and devValidName(), the kernel's."""
    devices = document.get("netDevices")
    if not devices:
        return
    if "network" not in inside:
        yield "/netDevices", "moving devices needs a network namespace", ('add {"type": "network"} to linux.namespaces')
    seen: set[str] = set()
    for name, device in devices.items():
        where = f"/netDevices/{escaped(name)}"
        target = device.get("name") or name
        if not is_name_of_a_net_device(name) or "%" in name:
            yield where, f'"{name}" is no name of a network device', NAME_OF_A_NET_DEVICE
        elif not is_name_of_a_net_device(target) or "%" in target.replace("%d", "", 1):
            yield where, f'"{target}" is no name of a network device', NAME_OF_A_NET_DEVICE
        elif name == "lo":
            yield where, "the loopback device can't be moved", ""
        elif target == "lo" or (target in seen and "%" not in target):
            yield f"{where}/name", f'"{target}" is another device in the container already', ""
        seen.add(target)


NAME_OF_A_NET_DEVICE = "1 to 15 bytes, no blanks, / or :; in the new name one %d, for a number"


def is_name_of_a_net_device(name: str) -> bool:
    """Whether the kernel takes the name: dev_valid_name(), net/core/dev.c."""
    fits = len(name.encode("utf-8", "surrogateescape")) <= 15
    return fits and name not in (".", "..") and "/" not in name and ":" not in name and name.split() == [name]


MAX_NODES = 1024  # MAX_NUMNODES of the largest kernel


def memory_policy_has_its_nodes(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """set_mempolicy(2). runc: validator.go, memoryPolicy()."""
    policy = document.get("memoryPolicy")
    if policy is None:
        return
    mode, nodes, flags = policy.get("mode"), policy.get("nodes", ""), policy.get("flags", ())
    if mode is None:
        yield "/memoryPolicy", 'invalid memory policy mode: expected a member "mode", found none', ""
    elif mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if nodes and is_list_of_numbers(nodes):
            cause = f"invalid memory policy: {mode} mode requires 0 nodes but got {count_of(nodes)}"
            yield "/memoryPolicy/nodes", cause, ""
    elif mode != "MPOL_PREFERRED" and not nodes:
        yield "/memoryPolicy", f"invalid memory policy: {mode} needs nodes", ""
    if nodes and not is_list_of_numbers(nodes):
        yield "/memoryPolicy/nodes", f'invalid memory policy nodes: expected nodes such as 0-2,4, found "{nodes}"', ""
    elif nodes and max(int(number) for number in nodes.replace("-", ",").split(",")) >= MAX_NODES:
        yield "/memoryPolicy/nodes", f"invalid memory policy node: a kernel has at most {MAX_NODES}", ""
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        cause = "invalid memory policy flag: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"
        yield "/memoryPolicy/flags", cause, ""


def personality_is_plain(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """config-linux.md, Personality: no flags are defined. runc: `additional flags unsupported by runc`."""
    personality = document.get("personality")
    if personality is not None:
        if "domain" not in personality:
            yield "/personality", 'expected a member "domain", found none', ""
        if personality.get("flags"):
            yield "/personality/flags", "no flag is defined", ""


def rdt_class_is_a_name(document: "Linux", _: dict[str, str]) -> "Iterator[Problem]":
    """It names a directory in resctrl; "/" is the root class (1.3). runc: validator.go, intelrdtCheck()."""
    rdt: IntelRdt = document.get("intelRdt", {})
    name = rdt.get("closID", "")
    if name in (".", "..") or ("/" in name and name != "/") or "\n" in name:
        yield "/intelRdt/closID", f'"{name}" is no name of a class', ""
    for index, line in enumerate(rdt.get("schemata", ())):
        if "\n" in line:
            yield f"/intelRdt/schemata/{index}", "expected one line, found several", ""


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


PROCESS: "tuple[Callable[[Process], Iterator[Problem]], ...]" = (
    scheduler_fits_its_policy,
    io_priority_is_in_range,
    affinity_is_a_list,
)
LINUX: "tuple[Callable[[Linux, dict[str, str]], Iterator[Problem]], ...]" = (
    mappings_fit_the_user_namespace,
    offsets_have_a_new_time_namespace,
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
)

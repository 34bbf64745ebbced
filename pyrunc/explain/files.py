"""What of the host a container reaches by paths: bind mounts, the kernel's own files, devices."""

import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyrunc.cgroups import device_rules
from pyrunc.cgroups.device_rules import ALL
from pyrunc.explain.finding import LEVELS, Finding, Withheld, of_items, softer
from pyrunc.explain.leads import follow, plain
from pyrunc.explain.subject import Subject, is_bind, is_read_only
from pyrunc.spec.types import Mount

# Sockets whose other end obeys whoever can connect, read-only or not.
SOCKETS = {
    "docker.sock": "Docker", "containerd.sock": "containerd", "crio.sock": "CRI-O", "podman.sock": "Podman",
    "buildkitd.sock": "BuildKit", "kubelet.sock": "the kubelet", "system_bus_socket": "the host's D-Bus",
    "private": "systemd", "cri-dockerd.sock": "Docker", "lxd.sock": "LXD", "snapd.socket": "snapd",
}  # fmt: skip
SOCKET_FOLDERS = ("/run/systemd", "/run/dbus", "/run/containerd", "/run/crio", "/run/podman", "/run/docker")
# A folder of the host's: (level when it is writable, level when it is read-only, what is there)
PLACES = {
    "/": ("critical", "high", "all of the host's files"),
    "/bin": ("critical", "low", "the host's programs"),
    "/boot": ("critical", "low", "the host's kernel"),
    "/dev": ("critical", "high", "the host's devices"),
    "/etc": ("critical", "high", "the host's configuration, its users' passwords and keys too"),
    "/home": ("high", "medium", "the files of the host's users, SSH keys too"),
    "/lib": ("critical", "low", "the host's libraries"),
    "/lib64": ("critical", "low", "the host's libraries"),
    "/opt": ("high", "low", "programs of the host's"),
    "/proc": ("critical", "high", "the host's processes and kernel parameters"),
    "/proc/sys": ("critical", "low", "the host's kernel parameters"),
    "/proc/sys/kernel/core_pattern": ("critical", "low", "the name of a program that the kernel runs as root"),
    "/proc/sys/kernel/modprobe": ("critical", "low", "the name of a program that the kernel runs as root"),
    "/proc/sysrq-trigger": ("critical", "low", "what reboots the host, and ends its processes"),
    "/root": ("critical", "high", "the files of the host's root, SSH keys too"),
    "/run": ("critical", "high", "sockets of the host's services; who may connect to them commands these"),
    "/sbin": ("critical", "low", "the host's programs"),
    "/sys": ("high", "low", "the kernel's devices and settings"),
    "/usr": ("critical", "low", "the host's programs"),
    "/var": ("critical", "medium", "the state of the host's services"),
    "/var/lib/containerd": ("critical", "medium", "the images and containers of this host"),
    "/var/lib/docker": ("critical", "medium", "the images, volumes and containers of this host"),
    "/var/lib/kubelet": ("critical", "high", "pods, with their secrets"),
    "/var/log": ("high", "medium", "the host's logs"),
    "/var/spool/cron": ("critical", "low", "commands that the host runs"),
}
ENGINES_FILES = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/dev/shm", "/run/.containerenv", "/.dockerenv",
                 "/dev/termination-log", "/dev/mqueue", "/sbin/docker-init")  # fmt: skip
ENGINES = ("/var/lib/docker/", "/var/lib/containerd/", "/run/containerd/", "/var/lib/containers/", "/run/containers/",
           "/var/lib/kubelet/pods/", "/run/user/", "/usr/bin/docker-init")  # fmt: skip
# Files that Docker and Podman make for a container, below whichever folder they keep their data in.
ENGINES_COPY = re.compile(
    r"containers/[0-9a-f]{64}/(userdata/)?(resolv\.conf|hostname|hosts|\.containerenv|(mounts/)?shm)$"
)
WITH_MOUNTS_BELOW = ("/", "/dev", "/home", "/proc", "/run", "/sys", "/var")
VOLUMES = ("/var/lib/docker/volumes/", "/var/lib/containers/storage/volumes/", "/var/lib/kubelet/pods/")
KERNEL_TYPES = {
    "devtmpfs": ("critical", "all of the host's device nodes"),
    "debugfs": ("critical", "the kernel's debugging files"),
    "tracefs": ("high", "the kernel's tracing, which shows what all of the host's processes do"),
    "securityfs": ("high", "the policies of the security modules"),
    "configfs": ("high", "the kernel's configuration of devices"),
    "efivarfs": ("high", "the firmware's variables; wrong ones leave a machine that does not start"),
    "bpf": ("high", "BPF programs and maps of the host's that are pinned there"),
    "pstore": ("medium", "what the kernel said when it last crashed"),
    "btrfs": ("high", "a disk of the host's"),
    "ext4": ("high", "a disk of the host's"),
    "xfs": ("high", "a disk of the host's"),
}  # fmt: skip


class KernelFile(NamedTuple):
    """A file of /proc or /sys that should be masked or read-only."""

    path: str
    level: str
    text: str


# In the order in which reviewers ask. What only the host's root may write or read only matters where the container has
# that user.
WRITABLE = (
    KernelFile("/proc/sys", "critical", "the host's kernel parameters are writable: kernel.core_pattern and "
               "kernel.modprobe name programs that the kernel runs as the host's root"),
    KernelFile("/proc/sysrq-trigger", "critical", "a letter written there reboots the host, or ends its processes"),
    KernelFile("/proc/irq", "medium", "interrupts can be moved between the host's CPUs"),
    KernelFile("/proc/bus", "medium", "the configuration of PCI devices is writable"),
    KernelFile("/proc/fs", "medium", "settings of the host's file systems are writable"),
)  # fmt: skip
READABLE = (
    KernelFile("/proc/kcore", "high", "the host's memory (with CAP_SYS_RAWIO)"),
    KernelFile("/proc/keys", "low", "which keys the kernel holds, of all users"),
    KernelFile("/proc/timer_list", "low", "the timers of all of the host's processes"),
    KernelFile("/proc/sched_debug", "low", "the names of all of the host's processes"),
    KernelFile("/proc/latency_stats", "low", "what the host's processes wait for"),
    KernelFile("/proc/scsi", "low", "the host's disks; older kernels let one be removed by a write"),
    KernelFile("/proc/acpi", "low", "hardware: batteries, fans, lamps"),
    KernelFile("/proc/interrupts", "low", "when keys are pressed on the host, and what its devices do"),
    KernelFile(
        "/sys/devices/virtual/powercap", "low", "how much power processors take, which tells what others compute"
    ),
    KernelFile("/sys/firmware", "low", "the firmware's tables, serial numbers too"),
)


def granted(subject: Subject) -> Iterator[Finding]:
    yield from _root(subject)
    yield from _mounts(subject)
    yield from _kernel_files(subject)
    yield from _devices(subject)


def _root(subject: Subject) -> Iterator[Finding]:
    root: Any = subject.config.get("root") or {}
    path = plain(root.get("path") or "/", subject.base)
    if "/" in _ways(path):
        text = f"its root file system is the host's own{'' if path == '/' else f': {path} leads there now'}"
        yield Finding("critical", "root file system", "/", text, "/root/path", "name a folder with an image in it")
    if not root.get("readonly"):
        text = "it can change its own programs, and leave something there for the next run"
        yield Finding(
            "note", "root file system", "writable", text, "/root/readonly", "set it to true, with a tmpfs for /tmp"
        )
    propagation = subject.linux.get("rootfsPropagation", "")
    if propagation.endswith("shared"):
        text = f"{propagation}: what is mounted inside appears outside, where the host's mounts are shared"
        yield Finding("medium", "root file system", "propagation", text, "/linux/rootfsPropagation", "leave it out")


def _mounts(subject: Subject) -> Iterator[Finding]:
    quiet = []
    for pointer, mount in subject.mounts():
        if is_bind(mount):
            found = _bind(subject, mount, pointer)
            if found is None:
                quiet.append(mount["destination"])
            else:
                yield found
        else:
            yield from _file_system(subject, mount, pointer)
    if quiet:
        items = tuple((name, "") for name in quiet)
        yield of_items("note", "mount", items, "files that the engine makes for it", "/mounts")


def _bind(subject: Subject, mount: Mount, pointer: str) -> "Finding | None":
    """What a bind mount grants. None: it is one that an engine gives to every container."""
    source, destination = mount.get("source", ""), mount["destination"]
    place = plain(source, subject.base)
    ways = _ways(place)
    read_only = is_read_only(mount)
    at = f"at {destination}" if len(ways) == 1 else f"at {destination}; it leads to {ways[-1]} now"
    for name, way in ((way.rpartition("/")[2], way) for way in ways):
        if name in SOCKETS and (name != "private" or "systemd" in way):
            text = f"the socket of {SOCKETS[name]}: who can connect commands it, on a read-only mount too"
            return Finding("critical", "mount", source, f"{text}; {at}", pointer, "leave it out")
    resolved = min(ways, key=lambda way: LEVELS.index(_place(way, read_only)[0]))
    if destination in ENGINES_FILES and (resolved.startswith(ENGINES) or ENGINES_COPY.search(resolved)):
        return None
    level, what = _place(resolved, read_only)
    verb = "reads" if read_only else "reads and writes"
    options = subject.options(mount)
    if read_only and "rbind" in options and "rro" not in options and resolved in WITH_MOUNTS_BELOW:
        what += "; ro is for the mount itself, and those below it stay writable (rro is for all)"
        level = _place(resolved, read_only=False)[0] if resolved == "/" else level  # /proc, /sys and /run are below
    if not subject.is_host_root and not subject.has("CAP_DAC_OVERRIDE"):
        level = softer(level)
        what = f"{what}, as far as its user may"
    if _is_socket(place) and level in ("low", "note"):
        level, verb, what = "medium", "reaches", "a socket of the host's: whoever listens there does what it asks for"
    text = f"{verb} {what}; {at}"
    if options & {"shared", "rshared"} and subject.has("CAP_SYS_ADMIN"):
        level = "critical" if not subject.own_user_namespace else level
        text += "; what it mounts there appears on the host"
    if not read_only and subject.is_host_root and "nosuid" not in options and level in ("low", "note"):
        text += "; a set-user-ID program that it leaves there works for the host's users"
    hint = "leave it out, or mount it ro" if not read_only else "leave it out, or mount what is needed of it"
    return Finding(level, "mount", source, text, pointer, hint if level not in ("low", "note") else "")


def _ways(path: str) -> list[str]:
    """A path as it is named, and the path that it leads to now, if that is another. Both count: links may change until
    the container is made."""
    known = path.removeprefix("/var") if path.startswith("/var/run/") or path == "/var/run" else path
    led = follow(path)
    return [known] if led is None or led.path == known else [known, led.path]


def _is_socket(path: str) -> bool:
    led = follow(path)
    return led is not None and stat.S_ISSOCK(led.mode)


def _place(path: str, read_only: bool) -> tuple[str, str]:
    if path.startswith(VOLUMES):
        return ("note" if read_only else "low"), "a volume of the engine's"
    best = ""
    for place in PLACES:
        if (path == place or path.startswith(f"{place.rstrip('/')}/")) and len(place) > len(best) and place != "/":
            best = place
    if path in SOCKET_FOLDERS:
        return "critical", "the sockets of the host's services; who may connect commands them"
    if path == "/" or (best and path == best):
        writable, readable, what = PLACES[path]
        return (readable if read_only else writable), what
    if best and best not in ("/run", "/var", "/opt", "/home"):
        writable, readable, what = PLACES[best]
        return softer(readable if read_only else writable), f"a part of {what}"
    return ("note" if read_only else "low"), "what is there on the host"


def _file_system(subject: Subject, mount: Mount, pointer: str) -> Iterator[Finding]:
    kind, destination = mount.get("type", ""), mount["destination"]
    read_only = is_read_only(mount)
    reach = subject.is_host_root
    if kind in KERNEL_TYPES:
        level, what = KERNEL_TYPES[kind]
        level = level if reach else softer(level)
        text = f"{'reads' if read_only else 'reads and writes'} {what}"
        yield Finding(softer(level) if read_only else level, "mount", destination, text, pointer, "leave it out")
    elif kind == "sysfs" and not read_only:
        text = (
            "the kernel's devices and settings are writable; uevent_helper, where there is one, names a program that "
        )
        text += "runs as the host's root"
        yield Finding("high" if reach else "low", "mount", destination, text, pointer, "add the option ro")
    elif kind in ("cgroup", "cgroup2") and not read_only:
        level = "high" if reach and subject.has("CAP_SYS_ADMIN") else "medium" if reach else "low"
        text = "it can change its own limits"
        if reach and subject.has("CAP_SYS_ADMIN"):
            text += "; with CAP_SYS_ADMIN and cgroup v1 a release_agent runs as the host's root"
        yield Finding(level, "mount", destination, text, pointer, "add the option ro")
    elif kind == "overlay":
        yield from _overlay(subject, mount, pointer)


def _overlay(subject: Subject, mount: Mount, pointer: str) -> Iterator[Finding]:
    """What an overlay grants of the host's folders: it reads the lower ones and writes to the upper one. kernel's docs,
    overlayfs"""
    for option in mount.get("options") or []:
        name, _, value = option.partition("=")
        for path in value.split(":") if name in ("lowerdir", "upperdir") else ():
            ways, read_only = _ways(plain(path, subject.base)), name == "lowerdir"
            level, what = min((_place(way, read_only) for way in ways), key=lambda found: LEVELS.index(found[0]))
            text = f"{'reads' if read_only else 'reads and writes'} {what}; at {mount['destination']}"
            yield Finding(level if subject.is_host_root else softer(level), "mount", path, text, pointer)


def _kernel_files(subject: Subject) -> Iterator[Finding]:
    """The kernel's files that are neither masked nor protected, in each procfs and sysfs that is mounted. Nothing is
    masked in the host's own mount namespace."""
    there = {plain(mount["destination"]): _kernels(mount) for _, mount in subject.mounts() if _kernels(mount)}
    read_only = {plain(mount["destination"]) for _, mount in subject.mounts() if is_read_only(mount)}
    masked, protected = subject.linux.get("maskedPaths") or [], subject.linux.get("readonlyPaths") or []
    rank = (lambda level: level) if subject.is_host_root else (lambda level: softer(level, 2))
    writable = {place: kernels for place, kernels in there.items() if place not in read_only}
    for file in _placed(WRITABLE, writable):
        if not _covered(file.path, [*masked, *protected]):
            text = file.text if subject.is_host_root else f"{file.text}, as far as its user may"
            hint = "add it to readonlyPaths"
            yield Finding(rank(file.level), "kernel file", file.path, text, "/linux/readonlyPaths", hint)
    open_ = [file for file in _placed(READABLE, there) if not _covered(file.path, masked)]
    grave = subject.has("CAP_SYS_RAWIO") and subject.is_host_root
    for level in ("high", "low"):
        items = tuple((f.path, f.text) for f in open_ if (f.level if grave else "low") == level)
        if items:
            yield of_items(level, "kernel file", items, "", "/linux/maskedPaths", "add to maskedPaths")


def _kernels(mount: Mount) -> str:
    """The usual place of the kernel's file system that a mount shows: /proc, /sys, or "" for any other."""
    if is_bind(mount):
        source = plain(mount.get("source", ""))
        return source if source in ("/proc", "/sys") else ""
    return {"proc": "/proc", "sysfs": "/sys"}.get(mount.get("type", ""), "")


def _placed(files: tuple[KernelFile, ...], there: dict[str, str]) -> list[KernelFile]:
    """The files with the paths that they have in the container."""
    return [
        file._replace(path=place.rstrip("/") + file.path.removeprefix(kernels))
        for file in files
        for place, kernels in there.items()
        if file.path.startswith(f"{kernels}/")
    ]


def _covered(path: str, by: list[str]) -> bool:
    return any(path == each.rstrip("/") or path.startswith(f"{each.rstrip('/')}/") for each in by)


# Devices

# (kind, major, minor or None): (level, what it is)
DEVICES = {
    ("c", 1, 1): ("critical", "the host's memory"),
    ("c", 1, 2): ("critical", "the kernel's memory"),
    ("c", 1, 4): ("critical", "the host's I/O ports"),
    ("c", 1, 11): ("medium", "the kernel's log"),
    ("c", 10, 200): ("note", "network tunnels"),
    ("c", 10, 223): ("high", "the host's input: it can type"),
    ("c", 10, 229): ("low", "FUSE: file systems of its own programs"),
    ("c", 10, 232): ("low", "KVM: virtual machines, and that part of the kernel"),
    ("c", 10, 236): ("critical", "the device mapper: the host's disks"),
    ("c", 10, 237): ("high", "loop devices"),
    ("c", 10, 238): ("medium", "virtual networks in the kernel"),
    ("c", 4, None): ("medium", "the host's consoles and serial lines"),
    ("c", 7, None): ("medium", "what is on the host's consoles, to read and to change"),
    ("c", 10, 183): ("note", "the host's source of random numbers"),
    ("c", 10, 196): ("high", "VFIO: devices of the host's that it drives itself"),
    ("c", 10, 234): ("low", "what file systems of btrfs there are"),
    ("c", 10, 235): ("low", "automatic mounts"),
    ("c", 21, None): ("critical", "the host's disks, by raw SCSI commands"),
    ("c", 29, None): ("medium", "the host's screen"),
    ("c", 108, None): ("medium", "PPP, and that part of the kernel"),
    ("c", 189, None): ("medium", "the host's USB devices"),
    ("c", 202, None): ("high", "the processors' registers (with CAP_SYS_RAWIO)"),
    ("c", 203, None): ("note", "what the processors are"),
    ("c", 13, None): ("high", "the host's keyboard and mouse"),
    ("c", 89, None): ("high", "the host's I2C bus"),
    ("c", 226, None): ("medium", "the graphics card, by a large part of the kernel"),
    ("c", 116, None): ("low", "sound, microphones too"),
    ("c", 81, None): ("medium", "cameras"),
    ("c", 195, None): ("medium", "the graphics card, by a driver of its maker's"),
}
USUAL = {("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1), ("c", 5, 2),
         ("c", 136, None), ("c", 10, 200)}  # fmt: skip
FIRST_SERIAL = 64  # of the minor numbers of major 4


def _devices(subject: Subject) -> Iterator[Finding]:
    rules = (subject.linux.get("resources") or {}).get("devices") or []
    pointer = "/linux/resources/devices"
    if _allows_all(rules):
        makes = subject.has("CAP_MKNOD") and not subject.own_user_namespace
        text = "any device may be used: the host's disks and memory"
        level = "critical" if makes else "medium"
        text += (
            "; CAP_MKNOD makes the nodes" if makes else "; without CAP_MKNOD only those that have a node in its mounts"
        )
        yield Finding(level, "device", "all", text, pointer, 'begin with {"allow": false, "access": "rwm"}')
    given = {}
    for index, device in enumerate(subject.linux.get("devices") or []):
        key = (device["type"].replace("u", "c"), device.get("major"), device.get("minor"))
        given[key] = (device["path"], f"/linux/devices/{index}")
    for index, rule, key in _each_device(rules):
        if rule["allow"] and key not in given and rule.get("access", "rwm").strip("m"):
            if key[1] == ALL:
                if not _allows_all(rules):
                    kind = "block" if key[0] == "b" else "character"
                    text = f"every {kind} device may be used"
                    level = "critical" if subject.has("CAP_MKNOD") and not subject.own_user_namespace else "medium"
                    yield Finding(level, "device", f"every {kind} device", text, f"{pointer}/{index}")
                continue
            given[key] = (f"{key[0]} {key[1]}:{'*' if key[2] == ALL else key[2]}", f"{pointer}/{index}")
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (kind, major, minor), (path, where) in given.items():
        minor = None if minor == ALL else minor
        if kind == "p" or (kind, major, minor) in USUAL or (kind, major, None) in USUAL:
            continue
        alike.setdefault(_device(kind, major, minor), []).append((path, where))
    for (level, what), devices in alike.items():
        items, hint = tuple((path, "") for path, _ in devices), "leave out" if level not in ("low", "note") else ""
        where = devices[0][1] if len(devices) == 1 else devices[0][1].rpartition("/")[0]
        yield of_items(level, "device", items, what, where, hint)


def _each_device(rules: list[Any]) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """(index, rule, device) for each device of each rule. _allows_all looks at the rules about everything."""
    for index, rule in enumerate(rules):
        about = device_rules.devices_of(rule)
        for device in about if about != device_rules.EVERYTHING else ():
            yield index, rule, device


def _device(kind: str, major: "int | None", minor: "int | None") -> tuple[str, str]:
    if kind == "b":
        return "critical", "block devices: what is on these disks of the host's, to read and to change"
    if (kind, major) == ("c", 4) and minor is not None and minor < FIRST_SERIAL:
        return "medium", "the host's consoles: what is typed there"
    known = DEVICES.get((kind, major or 0, minor)) or DEVICES.get((kind, major or 0, None))
    return known or ("medium", "what can be done by it is for its driver in the host's kernel to say")


def _allows_all(rules: list[dict[str, Any]]) -> bool:
    """Whether all devices are allowed. The last rule about everything counts. Without one nothing is allowed."""
    wide = [
        r
        for r in rules
        if (r.get("type") or "a") == "a" and r.get("major") in (None, -1) and r.get("minor") in (None, -1)
    ]
    return bool(wide) and bool(wide[-1]["allow"])


def withheld(subject: Subject) -> Iterator[Withheld]:
    rules = (subject.linux.get("resources") or {}).get("devices") or []
    if not _allows_all(rules):
        yield Withheld("device", "others", "devices of the host's, but for those that every container has")
    if subject.config.get("root", {"path": ""}).get("readonly"):
        yield Withheld("root file system", "writable", "changes of its root file system")
    masked, protected = subject.linux.get("maskedPaths") or [], subject.linux.get("readonlyPaths") or []
    hidden = [file.path for file in READABLE if _covered(file.path, masked)]
    if hidden:
        yield Withheld("kernel file", "masked", f"sight of {', '.join(hidden)}")
    kept = [file.path for file in WRITABLE if _covered(file.path, [*masked, *protected])]
    if kept:
        yield Withheld("kernel file", "read-only", f"writing to {', '.join(kept)}")

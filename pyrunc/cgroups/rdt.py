"""Shares of the caches and of the memory's bandwidth (Intel RDT, AMD QoS): the file system resctrl.
config-linux.md#intelrdt

It is no cgroup, but works like one. A directory is a class of service: its `schemata` says what the processes in its
`tasks` may have. A directory in its mon_groups/ is a monitoring group, and counts what some of them use. The kernel has
few of either kind, and none below another.
"""

import posix

from pyrunc.errors import ConfigError, PyruncError
from pyrunc.linux.fd import Fd, open_at, read_all
from pyrunc.linux.mount import filesystem_type, mount_table
from pyrunc.linux.path import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.spec.types import IntelRdt

    Schemata = dict[str, dict[str, str]]  # resource -> domain -> its share

RDTGROUP_SUPER_MAGIC = 0x7655821
ROOT = "/sys/fs/resctrl"
ROOT_CLASS = "/"
KERNELS_OWN = ("info", "mon_groups", "mon_data")  # directories that lie beside the classes, and are no classes
DECIMAL = ("MB", "SMBA")  # bandwidth; all other shares are masks
WHERE = "/linux/intelRdt"
INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY


def find() -> "Fd | None":
    """The root of resctrl: at its usual place, or where mountinfo says. The type of the file system decides, not the
    name."""
    root = _open_root(ROOT)
    if root is not None:
        return root
    for _, place, kind, _ in mount_table():
        if kind == "resctrl":
            return _open_root(place)
    return None


def _open_root(place: str) -> "Fd | None":
    try:
        root = open_at(None, place, DIRECTORY)
    except OSError:
        return None
    return root if filesystem_type(root) == RDTGROUP_SUPER_MAGIC else None


class Group:
    """The class of service of a container, and its monitoring group.

    Attributes:
        root: of resctrl.
        name: of the class: closID, or the container's ID; / is the root class.
        shared: whether the configuration names it (closID). Then it is not this container's alone, and outlives it.
        made: whether we make it, or have made it, and so remove it. A shared class only until create has succeeded.
        monitor: the name of its monitoring group, or "".
    """

    __slots__ = ("made", "monitor", "name", "root", "shared")

    def __init__(self, root: Fd, name: str, shared: bool, made: bool, monitor: str) -> None:
        self.root = root
        self.name = name
        self.shared = shared
        self.made = made
        self.monitor = monitor

    def record(self) -> "dict[str, Any]":
        return {"name": self.name, "shared": self.shared, "made": self.made, "monitor": self.monitor}

    # --- making

    def verify(self, wanted: "IntelRdt") -> None:
        """Check all that can be checked before anything is made. Raises PyruncError."""
        if self.name in KERNELS_OWN:
            where = f"{WHERE}/closID" if self.shared else WHERE
            raise ConfigError("config.json", where, f'"{self.name}" is no name of a class: resctrl has its own of it')
        known = self.names("info")
        for member, text in _lines(wanted):
            for resource in parse(text):
                if resource not in known:
                    cause = f'resctrl has no resource "{resource}" on this host'
                    raise ConfigError("config.json", f"{WHERE}/{member}", cause)
        exists = self.exists(self.path())
        if exists and self.shared:
            self._compare(wanted)
        if self.shared and not exists and not _lines(wanted):
            hint = "make it first, or give its schemata"
            raise ConfigError("config.json", f"{WHERE}/closID", f'there is no class "{self.name}"', hint)
        if self.monitor:
            self._verify_monitor(exists)
        self.made = not exists

    def _verify_monitor(self, exists: bool) -> None:
        if not self.exists(self.path("mon_groups") if exists else "mon_groups"):
            raise ConfigError("config.json", f"{WHERE}/enableMonitoring", "resctrl can't monitor on this host")
        if exists and self.exists(self.monitor_path()):
            cause = f'class "{self.name}" has a monitoring group "{self.monitor}" already'
            raise ConfigError("config.json", f"{WHERE}/enableMonitoring", cause)

    def _compare(self, wanted: "IntelRdt") -> None:
        """Refuse an existing class that differs from l3CacheSchema and memBwSchema: others use it as it is."""
        present = parse(self.read(self.path("schemata")))
        for member, text in _lines(wanted):
            if member == "schemata":
                continue  # these are written: "runtimes MUST write the value"
            for resource, domains in parse(text).items():
                for domain, share in domains.items():
                    if present.get(resource, {}).get(domain) not in self._equals(resource, share):
                        line = ";".join(f"{d}={s}" for d, s in present.get(resource, {}).items())
                        cause = f'class "{self.name}" exists and has {resource}:{line}'
                        raise ConfigError("config.json", f"{WHERE}/{member}", cause)

    def _equals(self, resource: str, share: str) -> "tuple[str, ...]":
        """The texts by which the kernel may show a share that was written as this one: it rounds bandwidth up."""
        if resource not in DECIMAL:
            return (share,)
        try:
            step = int(self.read(f"info/{resource}/bandwidth_gran"))
            return share, str(-(-int(share) // step) * step)
        except (PyruncError, ValueError, ZeroDivisionError):
            return (share,)

    def make(self, wanted: "IntelRdt") -> None:
        """Make the directories, and write what may be used. `made` and `monitor` are set once the directories exist: we
        must not remove what we could not make."""
        made, self.made = self.made, False
        monitor, self.monitor = self.monitor, ""
        if made:
            self._make("", self.name)
            self.made = True
        self.apply(wanted)
        if monitor:
            self._make(self.path("mon_groups"), monitor)
            self.monitor = monitor

    def apply(self, wanted: "IntelRdt") -> None:
        """Write what may be used."""
        for _, text in _lines(wanted):
            self.write(self.path("schemata"), text + "\n")

    def settle(self) -> None:
        """Note that create has succeeded: from here on a shared class is everybody's, and stays."""
        self.made = self.made and not self.shared

    def join(self, pid: int) -> None:
        """Put a process in, and with it its future children. It enters the class first: the monitoring group is a part
        of that."""
        self.write(self.path("tasks"), str(pid))
        if self.monitor:
            self.write(f"{self.monitor_path()}/tasks", str(pid))

    # --- and removing

    def remove(self) -> None:
        """Remove what is ours. A shared class is removed if its create fails, unless somebody uses it by then."""
        if self.monitor:
            self._remove(self.path("mon_groups"), self.monitor)
        if self.made and not (self.shared and self.exists(self.name) and self.read(self.path("tasks"))):
            self._remove("", self.name)

    # --- files

    def path(self, file: str = "") -> str:
        return "/".join(part for part in (self.name.strip("/"), file) if part) or "."

    def monitor_path(self) -> str:
        return f"{self.path('mon_groups')}/{self.monitor}"

    def _open(self, path: str, flags: int) -> Fd:
        try:
            return openat2(self.root, path or ".", flags, resolve=INSIDE)
        except OSError as error:
            raise self._failure("opening", path, error) from error

    def exists(self, path: str) -> bool:
        try:
            openat2(self.root, path, posix.O_PATH, resolve=INSIDE).close()
        except FileNotFoundError:
            return False
        return True

    def names(self, path: str) -> "list[str]":
        with self._open(path, DIRECTORY) as directory:
            return posix.listdir(directory.number)

    def read(self, path: str) -> str:
        with self._open(path, posix.O_RDONLY) as file:
            try:
                return read_all(file).decode("utf-8", "replace").strip()
            except OSError as error:
                raise self._failure("reading", path, error) from error

    def write(self, path: str, text: str) -> None:
        with self._open(path, posix.O_WRONLY) as file:
            try:
                posix.write(file.number, text.encode())
            except OSError as error:
                raise self._failure(f'writing "{text.strip()}" to', path, error) from error

    def _make(self, parent: str, name: str) -> None:
        with self._open(parent, DIRECTORY) as directory:
            try:
                posix.mkdir(name, 0o755, dir_fd=directory.number)
            except OSError as error:
                raise self._failure("making", f"{parent}/{name}".lstrip("/"), error) from error

    def _remove(self, parent: str, name: str) -> None:
        try:
            with openat2(self.root, parent or ".", DIRECTORY, resolve=INSIDE) as directory:
                posix.rmdir(name, dir_fd=directory.number)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure("removing", f"{parent}/{name}".lstrip("/"), error) from error

    def _failure(self, doing: str, path: str, error: OSError) -> PyruncError:
        """The error for a failed operation, with what the kernel says of it in last_cmd_status."""
        cause = posix.strerror(error.errno or 0).lower()
        try:
            with openat2(self.root, "info/last_cmd_status", posix.O_RDONLY, resolve=INSIDE) as file:
                said = read_all(file).decode("utf-8", "replace").strip()
        except OSError:
            said = ""
        return PyruncError(f"resctrl: {doing}", path, f"{cause} ({said})" if said not in ("", "ok") else cause)


def plan(wanted: "IntelRdt", container_id: str) -> Group:
    """The group that a container is to have. Raises PyruncError when it can't have it."""
    root = find()
    if root is None:
        hint = "mount -t resctrl resctrl /sys/fs/resctrl"
        raise ConfigError("config.json", WHERE, "no resctrl file system is mounted on this host", hint)
    group = Group(root, **named(wanted, container_id))
    group.verify(wanted)
    return group


def named(wanted: "IntelRdt", container_id: str) -> "dict[str, Any]":
    """The record of a group, as far as it follows from the configuration alone."""
    name = wanted.get("closID") or ""
    monitor = container_id if wanted.get("enableMonitoring") else ""
    return {"name": name or container_id, "shared": bool(name), "made": not name, "monitor": monitor}


def load(record: "dict[str, Any]") -> "Group | None":
    """The group of an existing container. Without resctrl there is none: unmounting it removes all groups."""
    root = find()
    return Group(root, **record) if root is not None else None


def _lines(wanted: "IntelRdt") -> "list[tuple[str, str]]":
    """(member, text) for each write, in order: a later one may overrule an earlier one."""
    texts = (
        ("l3CacheSchema", wanted.get("l3CacheSchema") or ""),
        ("memBwSchema", wanted.get("memBwSchema") or ""),
        ("schemata", "\n".join(line for line in wanted.get("schemata") or [] if line)),
    )
    return [(member, text) for member, text in texts if text]


def parse(text: str) -> "Schemata":
    """`L3:0=0ff;1=f0` as {"L3": {"0": "ff", "1": "f0"}}. Blanks, and zeros in front, make no difference."""
    found: Schemata = {}
    for line in text.splitlines():
        resource, _, rest = line.partition(":")
        domains = found.setdefault(resource.strip(), {})
        for part in rest.split(";"):
            domain, _, share = part.partition("=")
            domains[_number(domain)] = _number(share)
    return found


def _number(text: str) -> str:
    text = text.strip().lower().removeprefix("0x")
    return text.lstrip("0") or text[:1]


# --- what `events` reports


def statistics(group: Group) -> "dict[str, Any]":
    """The member `intel_rdt` of the data of runc's events."""
    found: dict[str, Any] = {}
    known = group.names("info")
    root = group.read("schemata").splitlines()
    own = group.read(group.path("schemata")).splitlines()
    for resource, info, facts in (("L3", "l3_cache_info", L3_FACTS), ("MB", "mem_bw_info", MB_FACTS)):
        if resource in known:
            schema = info.replace("_info", "_schema")
            found[info] = {fact: _fact(group, f"info/{resource}/{fact}") for fact in facts}
            found[f"{schema}_root"] = _line_of(resource, root)
            found[schema] = _line_of(resource, own)
    found["schemata"] = [line.strip() for line in own]
    if "L3_MON" in known:
        features = group.read("info/L3_MON/mon_features").split()
        for member, names in (("mbm_stats", MBM), ("cmt_stats", CMT)):
            if not set(names).isdisjoint(features):
                found[member] = [_counters(group, place, names) for place in _domains(group)]
    return found


L3_FACTS = ("cbm_mask", "min_cbm_bits", "num_closids")
MB_FACTS = ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")
MBM = ("mbm_total_bytes", "mbm_local_bytes")
CMT = ("llc_occupancy",)


def _fact(group: Group, path: str) -> "int | str":
    """What a file of info/ says. cbm_mask is a mask, and stays text. The others are numbers."""
    text = group.read(path)
    return text if path.endswith("_mask") else int(text)


def _line_of(resource: str, schemata: "list[str]") -> str:
    return next((line.strip() for line in reversed(schemata) if line.strip().startswith(resource)), "")


def _domains(group: Group) -> "list[str]":
    """The directories with the counters, one for each cache: those of its monitoring group, if it has one, or else of
    the whole class."""
    data = f"{group.monitor_path()}/mon_data" if group.monitor else group.path("mon_data")
    return [f"{data}/{name}" for name in sorted(group.names(data))]


def _counters(group: Group, place: str, names: "tuple[str, ...]") -> "dict[str, int]":
    """Name -> value. A counter for which the hardware has no value just now ("Unavailable") is left out."""
    values = {name: group.read(f"{place}/{name}") for name in names if group.exists(f"{place}/{name}")}
    return {name: int(value) for name, value in values.items() if value.isdecimal()}

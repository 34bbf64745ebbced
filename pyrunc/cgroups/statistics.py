"""What a cgroup has used, as `events` prints it: the members and their order are those of runc's JSON.

Go leaves out what is zero in some places and not in others: `some()` is where it does.
"""

import posix

from pyrunc.cgroups.cgroup import UNIFIED, Cgroup
from pyrunc.cgroups.tree import processes
from pyrunc.linux.fd import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]

TICKS = 100  # USER_HZ, of every architecture that we run on
NO_LIMIT = 2**64 - 1
HUGE_PAGES = "/sys/kernel/mm/hugepages"
CPUSET_FLAGS = (
    "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab", "memory_pressure",
    "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip
# Files of v1 that say the same, the most telling first: the first group of which the first file says something is read.
BLKIO = ("ioServiceBytesRecursive", "ioServicedRecursive")
BLKIO_DETAILS = {
    "sectorsRecursive": "sectors_recursive",
    "ioServiceTimeRecursive": "io_service_time_recursive",
    "ioWaitTimeRecursive": "io_wait_time_recursive",
    "ioMergedRecursive": "io_merged_recursive",
    "ioQueueRecursive": "io_queued_recursive",
    "ioTimeRecursive": "time_recursive",
}
BLKIO_GROUPS = (
    ("blkio.bfq.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.throttle.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.throttle.", "io_serviced", "io_service_bytes"),
)
BLKIO_ORDER = (
    "ioServiceBytesRecursive", "ioServicedRecursive", "ioQueueRecursive", "ioServiceTimeRecursive",
    "ioWaitTimeRecursive", "ioMergedRecursive", "ioTimeRecursive", "sectorsRecursive", "psi",
)  # fmt: skip
IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write"),
}  # fmt: skip


def statistics(cgroup: Cgroup, but: "tuple[str, ...]" = ()) -> "Values":
    """Everything that the kernel counts for a cgroup, but what nobody wants to know. Controllers that are not there
    count nothing."""
    part = V2 if cgroup.unified else V1
    found: Values = {}
    for name, controllers, read in part:
        if name in but:
            continue
        directories = [cgroup.directory(controller) or "" for controller in controllers]
        found[name] = read(*directories)
    return {**found, "intel_rdt": {}, "network_interfaces": None}


# --- v1


def _cpu_v1(cpu: str, accounts: str) -> "Values":
    ticks = keyed(accounts, "cpuacct.stat")
    usage = {
        **some(total=number(accounts, "cpuacct.usage"), percpu=numbers(accounts, "cpuacct.usage_percpu")),
        **_per_cpu(accounts),
        "kernel": ticks.get("system", 0) * 10**9 // TICKS,
        "user": ticks.get("user", 0) * 10**9 // TICKS,
    }
    stat = keyed(cpu, "cpu.stat")
    return _cpu(usage, stat.get("nr_periods"), stat.get("nr_throttled"), stat.get("throttled_time"), None)


def _per_cpu(accounts: str) -> "Values":
    rows = [line.split() for line in text(accounts, "cpuacct.usage_all").splitlines()[1:]]
    return some(percpu_kernel=[int(row[2]) for row in rows], percpu_user=[int(row[1]) for row in rows])


def _cpuset(directory: str) -> "Values":
    def flag(name: str) -> int:
        return number(directory, f"cpuset.{name}")

    return {
        **some(cpus=listed(directory, "cpuset.cpus")),
        "cpu_exclusive": flag("cpu_exclusive"),
        **some(mems=listed(directory, "cpuset.mems")),
        **{name: flag(name) for name in CPUSET_FLAGS},
    }


def _memory_v1(directory: str) -> "Values":
    raw = keyed(directory, "memory.stat")
    parts = {
        "usage": _entry_v1(directory, "memory"),
        "swap": _entry_v1(directory, "memory.memsw"),
        "kernel": _entry_v1(directory, "memory.kmem"),
        "kernelTCP": _entry_v1(directory, "memory.kmem.tcp"),
    }
    return {**some(cache=raw.get("cache")), **_not_empty(parts), **some(raw=dict(sorted(raw.items())))}


def _entry_v1(directory: str, prefix: str) -> "Values":
    return _entry(
        number(directory, f"{prefix}.limit_in_bytes"),
        number(directory, f"{prefix}.usage_in_bytes"),
        number(directory, f"{prefix}.max_usage_in_bytes"),
        number(directory, f"{prefix}.failcnt"),
    )


def _blkio_v1(directory: str) -> "Values":
    found: Values = {}
    for prefix, serviced, served_bytes in BLKIO_GROUPS:
        operations = _blkio_entries(directory, f"{prefix}{serviced}")
        if not operations:
            continue
        found = {
            "ioServicedRecursive": operations,
            "ioServiceBytesRecursive": _blkio_entries(directory, f"{prefix}{served_bytes}"),
        }
        if "throttle" not in prefix:
            found |= {name: _blkio_entries(directory, prefix + file) for name, file in BLKIO_DETAILS.items()}
        break
    return some(**{name: found.get(name) for name in BLKIO_ORDER})


def _blkio_entries(directory: str, file: str) -> "list[Values]":
    """`8:0 Read 4096` or `8:0 12`; the sum in the last line is left out."""
    found = []
    for line in text(directory, file).splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        if colon:
            operation, _, value = rest.rpartition(" ")
            found.append(some(major=int(major), minor=int(minor), op=operation, value=int(value)))
    return found


def _hugetlb_v1(directory: str) -> "Values":
    return {
        size: {
            **some(
                usage=number(directory, f"{prefix}.usage_in_bytes"),
                max=number(directory, f"{prefix}.max_usage_in_bytes"),
            ),
            "failcnt": number(directory, f"{prefix}.failcnt"),
        }
        for size, prefix in _pages(directory, "usage_in_bytes")
    }


# --- v2


def _cpu_v2(directory: str) -> "Values":
    stat = keyed(directory, "cpu.stat")
    usage = {
        **some(total=stat.get("usage_usec", 0) * 1000),
        "kernel": stat.get("system_usec", 0) * 1000,
        "user": stat.get("user_usec", 0) * 1000,
    }
    throttled = stat.get("throttled_usec", 0) * 1000
    return _cpu(usage, stat.get("nr_periods"), stat.get("nr_throttled"), throttled, pressure(directory, "cpu"))


def _cpuset_v2(_: str) -> "Values":
    """runc reads none of v2's files for it."""
    return {"cpu_exclusive": 0, **dict.fromkeys(CPUSET_FLAGS, 0)}


def _memory_v2(directory: str) -> "Values":
    raw = keyed(directory, "memory.stat")
    limit, usage = number(directory, "memory.max"), number(directory, "memory.current")
    swap, swap_limit = number(directory, "memory.swap.current"), number(directory, "memory.swap.max")
    together = swap_limit if swap_limit == NO_LIMIT else swap_limit + limit
    parts = {
        "usage": _entry(limit, usage, number(directory, "memory.peak"), 0),
        "swap": _entry(together, swap + usage, 0, 0)
        if _is_there(directory, "memory.swap.current")
        else _entry(0, 0, 0, 0),
    }
    return {
        **some(cache=raw.get("file")),
        **_not_empty(parts),
        **some(raw=dict(sorted(raw.items())), psi=pressure(directory, "memory")),
    }


def _io(directory: str) -> "Values":
    found: Values = {}
    for line in text(directory, "io.stat").splitlines():
        device, *items = line.split()
        major, colon, minor = device.partition(":")
        for item in items if colon else ():
            key, _, value = item.partition("=")
            if key in IO_STAT:
                name, operation = IO_STAT[key]
                entry = some(major=int(major), minor=int(minor), op=operation, value=int(value))
                found.setdefault(name, []).append(entry)
    return some(**{name: found.get(name) for name in BLKIO_ORDER[:-1]}, psi=pressure(directory, "io"))


def _hugetlb_v2(directory: str) -> "Values":
    return {
        size: {
            **some(usage=number(directory, f"{prefix}.current")),
            "failcnt": keyed(directory, f"hugetlb.{size}.events").get("max", 0),
        }
        for size, prefix in _pages(directory, "current")
    }


def pressure(directory: str, resource: str) -> "Values | None":
    """Pressure stall information (PSI), Linux 4.20. None where the kernel keeps none."""
    found: Values = {}
    for line in text(directory, f"{resource}.pressure").splitlines():
        kind, *items = line.split()
        values = dict(item.split("=") for item in items)
        averages = {name: _plain(float(values[name])) for name in ("avg10", "avg60", "avg300")}
        found[kind] = {**averages, "total": int(values["total"])}
    zero = {"avg10": 0, "avg60": 0, "avg300": 0, "total": 0}
    return {"some": found.get("some", zero), "full": found.get("full", zero)} if found else None


def _plain(value: float) -> "float | int":
    """Go writes a float without a fraction as an integer."""
    return int(value) if value == int(value) else value


# --- both


def _pids(directory: str) -> "Values":
    if not _is_there(directory, "pids.current"):
        return some(current=len(processes(directory)))
    limit = number(directory, "pids.max")
    return some(current=number(directory, "pids.current"), limit=0 if limit == NO_LIMIT else limit)


def _cpu(
    usage: "Values", periods: "int | None", throttled: "int | None", time: "int | None", psi: "Values | None"
) -> "Values":
    throttling = some(periods=periods, throttledPeriods=throttled, throttledTime=time)
    return {**_not_empty({"usage": usage}), **some(throttling=throttling, psi=psi)}


def _entry(limit: int, usage: int, most: int, failures: int) -> "Values":
    return {"limit": limit, **some(usage=usage, max=most), "failcnt": failures}


def _not_empty(parts: "Values") -> "Values":
    """Without those of which every member is zero."""
    return {name: part for name, part in parts.items() if any(part.values())}


def _pages(directory: str, of: str) -> "list[tuple[str, str]]":
    """(size, prefix of its files), of reserved pages where the kernel counts them (Linux 5.7)."""
    found = []
    try:
        kilobytes = sorted(
            int(name.removeprefix("hugepages-").removesuffix("kB")) for name in posix.listdir(HUGE_PAGES)
        )
    except (FileNotFoundError, ValueError):
        return []
    for size in kilobytes:
        name = f"{size >> 20}GB" if size >= 1 << 20 else f"{size >> 10}MB" if size >= 1 << 10 else f"{size}KB"
        for prefix in (f"hugetlb.{name}.rsvd", f"hugetlb.{name}"):
            if _is_there(directory, f"{prefix}.{of}"):
                found.append((name, prefix))
                break
    return sorted(found)


def some(**values: "Any") -> "Values":
    """Those that are neither zero nor empty."""
    return {name: value for name, value in values.items() if value}


def text(directory: str, file: str) -> str:
    """A file's text; "" where the controller or the kernel does not have it."""
    if not directory:
        return ""
    try:
        return read_file(f"{directory}/{file}").decode()
    except OSError:
        return ""


def _is_there(directory: str, file: str) -> bool:
    return bool(directory) and posix.access(f"{directory}/{file}", posix.F_OK)


def number(directory: str, file: str) -> int:
    value = text(directory, file).strip()
    return NO_LIMIT if value == "max" else int(value or 0)


def numbers(directory: str, file: str) -> "list[int]":
    return [int(word) for word in text(directory, file).split()]


def keyed(directory: str, file: str) -> "dict[str, int]":
    """`key value` a line."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text(directory, file).splitlines())}


def listed(directory: str, file: str) -> "list[int]":
    """`0-3,7` as numbers."""
    from pyrunc.linux.process import numbers as expand

    return expand(text(directory, file))


# (member of the statistics, the controllers whose directories are read, by whom)
V1 = (
    ("cpu", ("cpu", "cpuacct"), _cpu_v1),
    ("cpuset", ("cpuset",), _cpuset),
    ("memory", ("memory",), _memory_v1),
    ("pids", ("pids",), _pids),
    ("blkio", ("blkio",), _blkio_v1),
    ("hugetlb", ("hugetlb",), _hugetlb_v1),
)
V2 = (
    ("cpu", (UNIFIED,), _cpu_v2),
    ("cpuset", (UNIFIED,), _cpuset_v2),
    ("memory", (UNIFIED,), _memory_v2),
    ("pids", (UNIFIED,), _pids),
    ("blkio", (UNIFIED,), _io),
    ("hugetlb", (UNIFIED,), _hugetlb_v2),
)

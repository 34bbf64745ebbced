"""Stats: a cgroup's statistics as containerd's messages have them, io.containerd.cgroups.v1 and v2."""

from pyrunc.cgroups.counters import keyed, number, text
from pyrunc.protobuf import STRING, UINT32, UINT64, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.protobuf import Message, Values


def _numbers(names: str, first: int = 1) -> "Message":
    return {index: (name, UINT64) for index, name in enumerate(names.split(), first)}


MEMORY_V1 = (
    "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon"
    " inactive_file active_file unevictable"
)
TOTALS_V1 = " ".join(f"total_{name}" for name in MEMORY_V1.split())
ENTRY = _numbers("limit usage max failcnt")
DEVICE: "Message" = {1: ("op", STRING), 2: ("device", STRING), **_numbers("major minor value", 3)}
BLKIO = (
    "ioServiceBytesRecursive", "ioServicedRecursive", "ioQueueRecursive", "ioServiceTimeRecursive",
    "ioWaitTimeRecursive", "ioMergedRecursive", "ioTimeRecursive", "sectorsRecursive",
)  # fmt: skip
PIDS = _numbers("current limit")
RDMA_DEVICE: "Message" = {1: ("device", STRING), 2: ("hca_handles", UINT32), 3: ("hca_objects", UINT32)}
RDMA: "Message" = {1: ("current", [RDMA_DEVICE]), 2: ("limit", [RDMA_DEVICE])}
V1: "Message" = {
    1: ("hugetlb", [{**_numbers("usage max failcnt"), 4: ("pagesize", STRING)}]),
    2: ("pids", PIDS),
    3: ("cpu", {
        1: ("usage", {**_numbers("total kernel user"), 4: ("percpu", [UINT64])}),
        2: ("throttling", _numbers("periods throttledPeriods throttledTime")),
    }),
    4: ("memory", {
        **_numbers(f"{MEMORY_V1} hierarchical_memory_limit hierarchical_memsw_limit {TOTALS_V1}"),
        33: ("usage", ENTRY), 34: ("swap", ENTRY), 35: ("kernel", ENTRY), 36: ("kernelTCP", ENTRY),
    }),
    5: ("blkio", {index: (name, [DEVICE]) for index, name in enumerate(BLKIO, 1)}),
    6: ("rdma", RDMA),
    9: ("oom", _numbers("oom_kill_disable under_oom oom_kill")),
}  # fmt: skip

MEMORY_V2 = (
    "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon"
    " inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault"
    " workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree"
    " pglazyfreed thp_fault_alloc thp_collapse_alloc usage usage_limit swap_usage swap_limit max_usage swap_max_usage"
)
CPU_V2 = "usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec"
IO_V2 = "rbytes wbytes rios wios"
V2: "Message" = {
    1: ("pids", PIDS),
    2: ("cpu", _numbers(CPU_V2)),
    4: ("memory", _numbers(MEMORY_V2)),
    5: ("rdma", RDMA),
    6: ("io", {1: ("usage", [_numbers(f"major minor {IO_V2}")])}),
    7: ("hugetlb", [{**_numbers("current max"), 3: ("pagesize", STRING)}]),
    8: ("memory_events", _numbers("low high max oom oom_kill")),
}  # fmt: skip


NOT_SENT = ("cpuset",)  # a third of v1's files
RDMA_FILES = {"current": "rdma.current", "limit": "rdma.max"}


def metrics(cgroup: "Cgroup") -> "dict[str, Any]":
    """A cgroup's statistics as an Any."""
    version, message, read = ("v2", V2, _unified) if cgroup.unified else ("v1", V1, _legacy)
    return {"type_url": f"io.containerd.cgroups.{version}.Metrics", "value": encode(message, read(cgroup))}


def _legacy(cgroup: "Cgroup") -> "Values":
    """Statistics of cgroup v1. Docker's daemon dies of a missing part, so a part that is not known is sent empty."""
    found = cgroup.statistics(NOT_SENT)
    memory = found["memory"]
    return {
        "hugetlb": [{**values, "pagesize": size} for size, values in found["hugetlb"].items()],
        "pids": found["pids"],
        "cpu": {"usage": {}, "throttling": {}, **found["cpu"]},
        "memory": {"usage": {}, "swap": {}, "kernel": {}, "kernelTCP": {}, **memory.get("raw", {}), **memory},
        "blkio": found["blkio"],
        "rdma": rdma(cgroup.directory("rdma") or ""),
        "oom": keyed(cgroup.directory("memory") or "", "memory.oom_control"),
    }


def _unified(cgroup: "Cgroup") -> "Values":
    directory = cgroup.directory("memory") or ""
    found = cgroup.statistics(NOT_SENT)
    raw = found["memory"].get("raw", {})
    memory = {
        **raw,
        "workingset_refault": raw.get("workingset_refault_anon", 0) + raw.get("workingset_refault_file", 0),
        "workingset_activate": raw.get("workingset_activate_anon", 0) + raw.get("workingset_activate_file", 0),
        "usage": number(directory, "memory.current"),
        "usage_limit": number(directory, "memory.max"),
        "swap_usage": number(directory, "memory.swap.current"),
        "swap_limit": number(directory, "memory.swap.max"),
        "max_usage": number(directory, "memory.peak"),
        "swap_max_usage": number(directory, "memory.swap.peak"),
    }
    return {
        "pids": found["pids"],
        "cpu": keyed(directory, "cpu.stat"),
        "memory": memory,
        "rdma": rdma(directory),
        "io": {"usage": [_io(line) for line in text(directory, "io.stat").splitlines()]},
        "hugetlb": [
            {
                "current": number(directory, f"hugetlb.{size}.current"),
                "max": number(directory, f"hugetlb.{size}.max"),
                "pagesize": size,
            }
            for size in found["hugetlb"]
        ],
        "memory_events": keyed(directory, "memory.events"),
    }


def _io(line: str) -> "Values":
    device, *items = line.split()
    major, _, minor = device.partition(":")
    values = {name: int(value) for name, _, value in (item.partition("=") for item in items) if name in IO_V2.split()}
    return {"major": int(major), "minor": int(minor or 0), **values}


def rdma(directory: str) -> "Values":
    """RDMA's counters, from lines such as `mlx5_0 hca_handle=2 hca_object=2000`. A value of `max` is sent as the most
    that the message can say."""
    return {name: [_adapter(line) for line in text(directory, file).splitlines()] for name, file in RDMA_FILES.items()}


def _adapter(line: str) -> "Values":
    device, *items = line.split()
    values = dict(item.split("=") for item in items)
    found = {f"{name}s": 0xFFFFFFFF if value == "max" else int(value) for name, value in values.items()}
    return {"device": device, **found}

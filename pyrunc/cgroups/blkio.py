"""blkio, which v2 calls io: weights, and limits by device. config-linux.md#block-io"""

import posix

from pyrunc.cgroups.controller import Controller, missing
from pyrunc.cgroups.counters import pressure, some, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyrunc.cgroups.counters import Values
    from pyrunc.cgroups.files import Write

    Device = dict[str, Any]

# Groups of v1's files that count the same things, the most detailed group first. The first group that has counted
# anything is read.
GROUPS = (
    ("blkio.bfq.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.throttle.", "io_serviced_recursive", "io_service_bytes_recursive"),
    ("blkio.throttle.", "io_serviced", "io_service_bytes"),
)
DETAILS = {  # what throttling does not count
    "sectorsRecursive": "sectors_recursive",
    "ioServiceTimeRecursive": "io_service_time_recursive",
    "ioWaitTimeRecursive": "io_wait_time_recursive",
    "ioMergedRecursive": "io_merged_recursive",
    "ioQueueRecursive": "io_queued_recursive",
    "ioTimeRecursive": "time_recursive",
}
ORDER = (
    "ioServiceBytesRecursive", "ioServicedRecursive", "ioQueueRecursive", "ioServiceTimeRecursive",
    "ioWaitTimeRecursive", "ioMergedRecursive", "ioTimeRecursive", "sectorsRecursive",
)  # fmt: skip
IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write"),
}  # fmt: skip


def number_of(device: "Device") -> str:
    return f"{device['major']}:{device['minor']}"


def weights_v1(directory: str, blkio: "dict[str, Any]") -> "Iterator[Write]":
    """Write the weights to CFQ's files where the kernel still has them, elsewhere to BFQ's (Linux >= 5.0)."""
    prefix = "blkio.bfq." if posix.access(f"{directory}/blkio.bfq.weight", posix.F_OK) else "blkio."
    if blkio.get("weight"):
        yield f"{prefix}weight", str(blkio["weight"])
    if blkio.get("leafWeight"):
        yield "blkio.leaf_weight", str(blkio["leafWeight"])
    for device in blkio.get("weightDevice") or []:
        if device.get("weight"):
            yield f"{prefix}weight_device", f"{number_of(device)} {device['weight']}"
        if device.get("leafWeight"):
            yield "blkio.leaf_weight_device", f"{number_of(device)} {device['leafWeight']}"


def weights_v2(directory: str, blkio: "dict[str, Any]") -> "Iterator[Write]":
    """Write the weights. BFQ takes them as config.json has them. io.weight (blk-iocost) has a scale of its own."""
    bfq = posix.access(f"{directory}/io.bfq.weight", posix.F_OK)
    file = "io.bfq.weight" if bfq else "io.weight"
    weight = blkio.get("weight")
    if weight:
        yield file, str(weight) if bfq else io_weight(weight)
    for device in blkio.get("weightDevice") or []:
        if device.get("leafWeight"):
            raise missing("blockIO.weightDevice.leafWeight", unified=True)
        if device.get("weight"):
            value = str(device["weight"]) if bfq else io_weight(device["weight"])
            yield file, f"{number_of(device)} {value}"


def io_weight(weight: int) -> str:
    """v1's 10..1000 on v2's scale of 1..10000."""
    return str(1 + (weight - 10) * 9999 // 990)


def rates(devices: "list[Device]") -> "list[str]":
    """A line of v1 for each device: `8:0 1048576`; 0 is no limit."""
    return [f"{number_of(device)} {device.get('rate', 0)}" for device in devices]


def io_max(key: str) -> "Callable[[list[Device]], list[str]]":
    """The function that makes a line of v2 for each device: `8:0 rbps=1048576`, or rbps=max."""
    return lambda devices: [f"{number_of(device)} {key}={device.get('rate') or 'max'}" for device in devices]


def statistics_v1(directory: str) -> "Values":
    found: Values = {}
    for prefix, serviced, served_bytes in GROUPS:
        operations = _entries(directory, f"{prefix}{serviced}")
        if not operations:
            continue
        found = {
            "ioServicedRecursive": operations,
            "ioServiceBytesRecursive": _entries(directory, f"{prefix}{served_bytes}"),
        }
        if "throttle" not in prefix:
            found |= {name: _entries(directory, prefix + file) for name, file in DETAILS.items()}
        break
    return some(**{name: found.get(name) for name in ORDER})


def _entries(directory: str, file: str) -> "list[Values]":
    """Lines such as `8:0 Read 4096` or `8:0 12`, without the sum in the last one."""
    found = []
    for line in text(directory, file).splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        if colon:
            operation, _, value = rest.rpartition(" ")
            found.append(some(major=int(major), minor=int(minor), op=operation, value=int(value)))
    return found


def statistics_v2(directory: str) -> "Values":
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
    return some(**{name: found.get(name) for name in ORDER}, psi=pressure(directory, "io"))


CONTROLLER = Controller("blockIO", "blkio", (
    # property                   v1                                            v2
    ("weight",                   weights_v1,                                   weights_v2),
    ("leafWeight",               weights_v1,                                   None),
    ("weightDevice",             weights_v1,                                   weights_v2),
    ("throttleReadBpsDevice",    ("blkio.throttle.read_bps_device", rates),    ("io.max", io_max("rbps"))),
    ("throttleWriteBpsDevice",   ("blkio.throttle.write_bps_device", rates),   ("io.max", io_max("wbps"))),
    ("throttleReadIOPSDevice",   ("blkio.throttle.read_iops_device", rates),   ("io.max", io_max("riops"))),
    ("throttleWriteIOPSDevice",  ("blkio.throttle.write_iops_device", rates),  ("io.max", io_max("wiops"))),
), name_v2="io", statistics=(statistics_v1, statistics_v2))  # fmt: skip

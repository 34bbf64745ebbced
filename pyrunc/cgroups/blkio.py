"""blkio and io: weights, and limits by device. config-linux.md#block-io"""

import posix

from pyrunc.cgroups.limits import Limits, missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write

# property: (file of v1, key in io.max of v2)
THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def number_of(device: "dict[str, Any]") -> str:
    return f"{device['major']}:{device['minor']}"


def writes_v1(directory: str, blkio: "dict[str, Any]") -> "Iterator[Write]":
    """CFQ's files where the kernel still has them, BFQ's elsewhere (Linux >= 5.0)."""
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
    for name, (file, _) in THROTTLES.items():
        for device in blkio.get(name) or []:
            yield file, f"{number_of(device)} {device.get('rate', 0)}"


def writes_v2(directory: str, blkio: "dict[str, Any]") -> "Iterator[Write]":
    """BFQ takes weights as config.json has them; io.weight (blk-iocost) has a scale of its own."""
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
    for name, (_, key) in THROTTLES.items():
        for device in blkio.get(name) or []:
            yield "io.max", f"{number_of(device)} {key}={device.get('rate') or 'max'}"


def io_weight(weight: int) -> str:
    """v1's 10..1000 on v2's scale of 1..10000."""
    return str(1 + (weight - 10) * 9999 // 990)


BOTH = ("weight", "weightDevice", *THROTTLES)
V1 = Limits("blockIO", (), also=writes_v1, controller="blkio", covers=(*BOTH, "leafWeight"))
V2 = Limits("blockIO", (), also=writes_v2, controller="io", covers=BOTH)

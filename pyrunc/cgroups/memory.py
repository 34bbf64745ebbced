"""memory: limit, reservation, swap. config-linux.md#memory"""

from pyrunc.cgroups.limits import Limits, or_max, read, write
from pyrunc.errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_limit_and_swap(directory: str, memory: "dict[str, Any]") -> None:
    """The kernel keeps limit <= limit with swap at every moment: of two that shrink the smaller goes first."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not swap:
        swap = -1  # no limit on memory: then none on both together either
    pairs = [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", swap)]
    if swap == -1 or (
        swap
        and swap > _number(directory, "memory.limit_in_bytes")
        and limit > _number(directory, "memory.memsw.limit_in_bytes")
    ):
        pairs.reverse()
    for file, value in pairs:
        if value:
            write(directory, file, str(value))


def _number(directory: str, file: str) -> int:
    return int(read(directory, file))


V1 = Limits("memory", (
    ("reservation", "memory.soft_limit_in_bytes", str),
    ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", str),
    ("swappiness", "memory.swappiness", str),
    ("disableOOMKiller", "memory.oom_control", lambda _: "1"),
), also=write_limit_and_swap, covers=("limit", "swap"))  # fmt: skip


def write_swap(directory: str, memory: "dict[str, Any]") -> None:
    """v2 counts swap alone: what config.json calls swap, less the memory in it."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not swap:
        swap = -1
    if not swap:
        return
    if swap > 0:
        if limit <= 0:
            raise PyruncError(
                "memory limit", f"swap {swap}", "a limit on swap needs one on memory", "set memory.limit too"
            )
        if swap < limit:
            raise PyruncError(
                "memory limit", f"swap {swap}", f"is less than the memory limit {limit}, which it includes"
            )
        swap -= limit
    write(directory, "memory.swap.max", or_max(swap))


V2 = Limits("memory", (
    ("limit", "memory.max", or_max),
    ("reservation", "memory.low", or_max),
), also=write_swap, covers=("swap",))  # fmt: skip

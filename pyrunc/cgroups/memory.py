"""memory: limit, reservation, swap. config-linux.md#memory"""

import posix

from pyrunc.cgroups.limits import Limits, or_max, read
from pyrunc.errors import PyruncError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write

V1 = Limits("memory", (
    ("reservation", "memory.soft_limit_in_bytes", str),
    ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", str),
    ("swappiness", "memory.swappiness", str),
    ("disableOOMKiller", "memory.oom_control", lambda _: "1"),
), also=lambda directory, memory: limit_and_swap(directory, memory), covers=("limit", "swap"))  # fmt: skip


def limit_and_swap(directory: str, memory: "dict[str, Any]") -> "Iterator[Write]":
    """v1's limit on swap includes memory, and is never below the limit on memory."""
    limit, swap, file = memory.get("limit") or 0, _swap(memory), "memory.memsw.limit_in_bytes"
    if limit:
        yield "memory.limit_in_bytes", str(limit)
    if swap > 0 or (swap and _counts_swap(directory, file)):
        yield file, str(swap)


def _counts_swap(directory: str, file: str) -> bool:
    """A kernel that counts none (no CONFIG_SWAP, swapaccount=0) limits none: no limit is what a container has there
    anyway. On v2 engines and runc take it so for no swap at all, too."""
    try:
        return not directory or bool(posix.stat(f"{directory}/{file}"))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PyruncError("looking for cgroup file", f"{directory}/{file}", reason(error)) from error


def _swap(memory: "dict[str, Any]") -> int:
    """Without a limit on memory there is none on both together either."""
    swap: int = memory.get("swap") or 0
    return -1 if memory.get("limit") == -1 and not swap else swap


def limit_and_swap_alone(directory: str, memory: "dict[str, Any]") -> "Iterator[Write]":
    """v2 counts swap alone: what config.json calls swap, less the memory in it."""
    limit, swap, file = memory.get("limit") or 0, _swap(memory), "memory.swap.max"
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
        if swap or _counts_swap(directory, file):
            yield file, str(swap)
    elif swap and _counts_swap(directory, file):
        yield file, "max"
    if limit:
        if directory and memory.get("checkBeforeUpdate"):
            _check(directory, "memory+swap", _swap(memory))
            _check(directory, "memory", limit)
        yield "memory.max", or_max(limit)


def _check(directory: str, what: str, limit: int) -> None:
    """The kernel of v2 takes any limit and kills until it holds. checkBeforeUpdate (spec 1.1): refuse it instead."""
    used = int(read(directory, "memory.current"))
    if 0 < limit < used:
        raise PyruncError("limiting memory", "", f"rejecting {what} limit {limit} < usage {used}")


V2 = Limits("memory", (
    ("reservation", "memory.low", or_max),
), also=limit_and_swap_alone, covers=("limit", "swap"))  # fmt: skip

"""memory: limit, reservation, swap. config-linux.md#memory"""

import posix

from pyrunc.cgroups.controller import Controller, or_max
from pyrunc.cgroups.counters import NO_LIMIT, is_there, keyed, not_empty, number, pressure, some
from pyrunc.cgroups.files import read
from pyrunc.errors import PyruncError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.counters import Values
    from pyrunc.cgroups.files import Write


def limit_and_swap_v1(directory: str, memory: "dict[str, Any]") -> "Iterator[Write]":
    """Write both limits. v1's limit on swap includes memory, as config.json's does. It can't be below memory's."""
    limit, swap, file = memory.get("limit") or 0, _swap(memory), "memory.memsw.limit_in_bytes"
    if limit:
        yield "memory.limit_in_bytes", str(limit)
    if swap > 0 or (swap and _counts_swap(directory, file)):
        yield file, str(swap)


def limit_and_swap_v2(directory: str, memory: "dict[str, Any]") -> "Iterator[Write]":
    """Write both limits. v2's limit on swap is on swap alone: config.json's, minus the memory in it."""
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


def _swap(memory: "dict[str, Any]") -> int:
    """The limit on memory and swap together. If none is named, lifting the limit on memory lifts this one too."""
    swap: int = memory.get("swap") or 0
    return -1 if memory.get("limit") == -1 and not swap else swap


def _counts_swap(directory: str, file: str) -> bool:
    """Whether the kernel counts swap: not without CONFIG_SWAP, nor with swapaccount=0.

    Where it does not, a container has "no limit" anyway. On v2, engines and runc accept "no swap at all" there too.
    """
    try:
        return not directory or bool(posix.stat(f"{directory}/{file}"))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PyruncError("looking for cgroup file", f"{directory}/{file}", reason(error)) from error


def _check(directory: str, what: str, limit: int) -> None:
    """Refuse a limit that is below what is used: checkBeforeUpdate, runtime-spec 1.1.

    v2's kernel takes any limit, and kills processes until it holds.
    """
    used = int(read(directory, "memory.current"))
    if 0 < limit < used:
        peak = number(directory, "memory.peak")  # Linux 5.19
        raise PyruncError(
            "limiting memory",
            "",
            f"rejecting {what} limit {limit} < usage {used}",
            f"peak usage: {peak}" if peak else "",
        )


def statistics_v1(directory: str) -> "Values":
    raw = keyed(directory, "memory.stat")
    parts = {
        "usage": _entry_v1(directory, "memory"),
        "swap": _entry_v1(directory, "memory.memsw"),
        "kernel": _entry_v1(directory, "memory.kmem"),
        "kernelTCP": _entry_v1(directory, "memory.kmem.tcp"),
    }
    return {**some(cache=raw.get("cache")), **not_empty(parts), **some(raw=dict(sorted(raw.items())))}


def _entry_v1(directory: str, prefix: str) -> "Values":
    return _entry(
        number(directory, f"{prefix}.limit_in_bytes"),
        number(directory, f"{prefix}.usage_in_bytes"),
        number(directory, f"{prefix}.max_usage_in_bytes"),
        number(directory, f"{prefix}.failcnt"),
    )


def statistics_v2(directory: str) -> "Values":
    raw = keyed(directory, "memory.stat")
    limit, usage = number(directory, "memory.max"), number(directory, "memory.current")
    swap, swap_limit = number(directory, "memory.swap.current"), number(directory, "memory.swap.max")
    together = swap_limit if swap_limit == NO_LIMIT else swap_limit + limit
    parts = {
        "usage": _entry(limit, usage, number(directory, "memory.peak"), 0),
        "swap": _entry(together, swap + usage, 0, 0)
        if is_there(directory, "memory.swap.current")
        else _entry(0, 0, 0, 0),
    }
    return {
        **some(cache=raw.get("file")),
        **not_empty(parts),
        **some(raw=dict(sorted(raw.items())), psi=pressure(directory, "memory")),
    }


def _entry(limit: int, usage: int, most: int, failures: int) -> "Values":
    return {"limit": limit, **some(usage=usage, max=most), "failcnt": failures}


CONTROLLER = Controller("memory", "memory", (
    # property           v1                                        v2
    ("limit",            limit_and_swap_v1,                        limit_and_swap_v2),
    ("swap",             limit_and_swap_v1,                        limit_and_swap_v2),
    ("reservation",      ("memory.soft_limit_in_bytes", str),      ("memory.low", or_max)),
    ("kernelTCP",        ("memory.kmem.tcp.limit_in_bytes", str),  None),
    ("swappiness",       ("memory.swappiness", str),               None),
    ("disableOOMKiller", ("memory.oom_control", lambda _: "1"),    None),
), zeros=("swappiness",), statistics=(statistics_v1, statistics_v2))  # fmt: skip

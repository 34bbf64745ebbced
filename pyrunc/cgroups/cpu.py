"""cpu: shares, quota, period, burst, idle, realtime. config-linux.md#cpu"""

from pyrunc.cgroups.limits import Limits, or_max

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write

V1 = Limits("cpu", (
    ("shares", "cpu.shares", str),  # an idle cgroup has none: before it becomes idle
    ("period", "cpu.cfs_period_us", str),
    ("quota", "cpu.cfs_quota_us", str),
    ("burst", "cpu.cfs_burst_us", str),
    ("realtimePeriod", "cpu.rt_period_us", str),
    ("realtimeRuntime", "cpu.rt_runtime_us", str),
    ("idle", "cpu.idle", str),
))  # fmt: skip


def cpu_max(_: str, cpu: "dict[str, Any]") -> "Iterator[Write]":
    """Quota and period share one file in v2; the kernel's default period is 100 ms."""
    if cpu.get("quota") or cpu.get("period"):
        quota = or_max(cpu.get("quota") or -1)
        yield "cpu.max", f"{quota} {cpu['period']}" if cpu.get("period") else quota


def weight_of_shares(shares: int) -> str:
    """cgroup v1 shares (2..262144, 1024 is one CPU's worth) as a v2 weight (1..10000, 100 is the default).

    The quadratic in log2(shares) through (2, 1), (1024, 100) and (262144, 10000), as runc >= 1.3 and crun >= 1.23
    have it: a straight line would give 1024 shares a weight of 39.
    """
    import math

    clamped = max(2, min(262144, shares))
    exponent = math.log2(clamped)
    return str(math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612.0 - 7.0 / 34.0)))


V2 = Limits("cpu", (
    ("shares", "cpu.weight", weight_of_shares),
    ("burst", "cpu.max.burst", str),
    ("idle", "cpu.idle", str),
), also=cpu_max, covers=("quota", "period"))  # fmt: skip

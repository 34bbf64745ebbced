"""cpu: shares, quota, period, burst, idle, realtime. config-linux.md#cpu"""

from pyrunc.cgroups.controller import Controller, or_max
from pyrunc.cgroups.counters import keyed, not_empty, number, numbers, pressure, some, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.counters import Values
    from pyrunc.cgroups.files import Write

TICKS = 100  # USER_HZ, on every architecture that we run on


def shares_v1(_: str, cpu: "dict[str, Any]") -> "Iterator[Write]":
    if has_shares(cpu):
        yield "cpu.shares", str(cpu["shares"])


def shares_v2(_: str, cpu: "dict[str, Any]") -> "Iterator[Write]":
    if has_shares(cpu):
        yield "cpu.weight", weight_of_shares(cpu["shares"])


def has_shares(cpu: "dict[str, Any]") -> bool:
    """Whether shares can be written. The kernel refuses them in an idle cgroup."""
    return bool(cpu.get("shares")) and cpu.get("idle") != 1


def weight_of_shares(shares: int) -> str:
    """cgroup v1 shares (2..262144, 1024 is one CPU's worth) as a v2 weight (1..10000, 100 is the default).

    The quadratic in log2(shares) through (2, 1), (1024, 100) and (262144, 10000), as runc >= 1.3 and crun >= 1.23
    have it: a straight line would give 1024 shares a weight of 39.
    """
    import math

    clamped = max(2, min(262144, shares))
    exponent = math.log2(clamped)
    return str(math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612.0 - 7.0 / 34.0)))


def cpu_max(_: str, cpu: "dict[str, Any]") -> "Iterator[Write]":
    """Write quota and period, which are one file on v2. The kernel's default period is 100 ms."""
    if cpu.get("quota") or cpu.get("period"):
        quota = or_max(cpu.get("quota") or -1)
        yield "cpu.max", f"{quota} {cpu['period']}" if cpu.get("period") else quota


def statistics_v1(directory: str, accounts: str) -> "Values":
    ticks = keyed(accounts, "cpuacct.stat")
    usage = {
        **some(total=number(accounts, "cpuacct.usage"), percpu=numbers(accounts, "cpuacct.usage_percpu")),
        **_each_cpu(accounts),
        "kernel": ticks.get("system", 0) * 10**9 // TICKS,
        "user": ticks.get("user", 0) * 10**9 // TICKS,
    }
    stat = keyed(directory, "cpu.stat")
    return {**not_empty({"usage": usage}), **_throttling(stat, stat.get("throttled_time", 0))}


def _each_cpu(accounts: str) -> "Values":
    rows = [line.split() for line in text(accounts, "cpuacct.usage_all").splitlines()[1:]]
    return some(percpu_kernel=[int(row[2]) for row in rows], percpu_user=[int(row[1]) for row in rows])


def statistics_v2(directory: str) -> "Values":
    stat = keyed(directory, "cpu.stat")
    usage = {
        **some(total=stat.get("usage_usec", 0) * 1000),
        "kernel": stat.get("system_usec", 0) * 1000,
        "user": stat.get("user_usec", 0) * 1000,
    }
    throttling = _throttling(stat, stat.get("throttled_usec", 0) * 1000)
    return {**not_empty({"usage": usage}), **throttling, **some(psi=pressure(directory, "cpu"))}


def _throttling(stat: "dict[str, int]", nanoseconds: int) -> "Values":
    periods, throttled = stat.get("nr_periods"), stat.get("nr_throttled")
    return some(throttling=some(periods=periods, throttledPeriods=throttled, throttledTime=nanoseconds))


CONTROLLER = Controller("cpu", "cpu", (
    # property           v1                             v2
    ("shares",           shares_v1,                     shares_v2),  # before it becomes idle
    ("period",           ("cpu.cfs_period_us", str),    cpu_max),
    ("quota",            ("cpu.cfs_quota_us", str),     cpu_max),
    ("burst",            ("cpu.cfs_burst_us", str),     ("cpu.max.burst", str)),
    ("realtimePeriod",   ("cpu.rt_period_us", str),     None),
    ("realtimeRuntime",  ("cpu.rt_runtime_us", str),    None),
    ("idle",             ("cpu.idle", str),             ("cpu.idle", str)),
), zeros=("burst", "idle"), harmless_zeros=("burst", "idle"), statistics=(statistics_v1, statistics_v2),
   counted_by=("cpu", "cpuacct"))  # fmt: skip

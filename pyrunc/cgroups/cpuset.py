"""cpuset: on which CPUs and memory nodes processes may be. config-linux.md#cpu (cpus and mems)"""

from pyrunc.cgroups.controller import Controller
from pyrunc.cgroups.counters import number, some, text
from pyrunc.linux.process import numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cgroups.counters import Values

FLAGS = (
    "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab", "memory_pressure",
    "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def statistics_v1(directory: str) -> "Values":
    return {
        **some(cpus=numbers(text(directory, "cpuset.cpus"))),
        "cpu_exclusive": number(directory, "cpuset.cpu_exclusive"),
        **some(mems=numbers(text(directory, "cpuset.mems"))),
        **{name: number(directory, f"cpuset.{name}") for name in FLAGS},
    }


def statistics_v2(_: str) -> "Values":
    """No statistics: runc reads none of v2's files for cpuset."""
    return {"cpu_exclusive": 0, **dict.fromkeys(FLAGS, 0)}


CONTROLLER = Controller("cpu", "cpuset", (
    ("cpus", ("cpuset.cpus", str), ("cpuset.cpus", str)),
    ("mems", ("cpuset.mems", str), ("cpuset.mems", str)),
), statistics=(statistics_v1, statistics_v2))  # fmt: skip

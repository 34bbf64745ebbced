"""cpuset: on which CPUs and memory nodes. config-linux.md#cpu, cpus and mems"""

from pyrunc.cgroups.limits import Limits

V1 = V2 = Limits("cpu", (
    ("cpus", "cpuset.cpus", str),
    ("mems", "cpuset.mems", str),
), controller="cpuset")  # fmt: skip

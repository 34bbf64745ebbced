"""net_cls and net_prio: the class and the priority of packets. config-linux.md#network

v1 only: v2 leaves this to BPF programs (cgroup-v2.rst, "Miscellaneous").
"""

from pyrunc.cgroups.controller import Controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def lines(priorities: "list[dict[str, Any]]") -> "list[str]":
    """A line for each interface: `eth0 5`."""
    return [f"{interface['name']} {interface['priority']}" for interface in priorities]


CLASSES = Controller("network", "net_cls", (
    # property       v1                                    v2
    ("classID",      ("net_cls.classid", str),             None),
))  # fmt: skip
PRIORITIES = Controller("network", "net_prio", (
    ("priorities",   ("net_prio.ifpriomap", lines),        None),
))  # fmt: skip

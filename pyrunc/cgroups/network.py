"""net_cls and net_prio: how packets are classed. config-linux.md#network; v1 only: v2 has programs for that"""

from pyrunc.cgroups.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write


def priorities(_: str, network: "dict[str, Any]") -> "Iterator[Write]":
    for interface in network.get("priorities") or []:
        yield "net_prio.ifpriomap", f"{interface['name']} {interface['priority']}"


CLASS = Limits("network", (("classID", "net_cls.classid", str),), controller="net_cls")
PRIORITY = Limits("network", (), also=priorities, controller="net_prio", covers=("priorities",))

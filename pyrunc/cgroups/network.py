"""net_cls and net_prio: how packets are classed. config-linux.md#network; v1 only"""

from pyrunc.cgroups.limits import Limits, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_priorities(directory: str, network: "dict[str, Any]") -> None:
    for interface in network.get("priorities") or []:
        write(directory, "net_prio.ifpriomap", f"{interface['name']} {interface['priority']}")


CLASS = Limits("network", (("classID", "net_cls.classid", str),), controller="net_cls")
PRIORITY = Limits("network", (), also=write_priorities, controller="net_prio", covers=("priorities",))

"""rdma: handles and objects of RDMA devices. config-linux.md#rdma"""

from pyrunc.cgroups.controller import Controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def lines(devices: "dict[str, dict[str, Any]]") -> "list[str]":
    """A line for each device: `mlx5_0 hca_handle=2 hca_object=2000`."""
    found = []
    for name, limit in devices.items():
        values = [f"hca_handle={limit['hcaHandles']}"] if limit.get("hcaHandles") is not None else []
        values += [f"hca_object={limit['hcaObjects']}"] if limit.get("hcaObjects") is not None else []
        found.append(" ".join([name, *values]))
    return found


CONTROLLER = Controller("rdma", "rdma", (
    ("", ("rdma.max", lines), ("rdma.max", lines)),
))  # fmt: skip

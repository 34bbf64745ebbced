"""rdma: handles and objects of RDMA devices. config-linux.md#rdma; one file in both versions"""

from pyrunc.cgroups.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write


def limits(_: str, devices: "dict[str, dict[str, Any]]") -> "Iterator[Write]":
    for name, limit in devices.items():
        values = [f"hca_handle={limit['hcaHandles']}"] if limit.get("hcaHandles") is not None else []
        values += [f"hca_object={limit['hcaObjects']}"] if limit.get("hcaObjects") is not None else []
        yield "rdma.max", " ".join([name, *values])


V1 = V2 = Limits("rdma", (), also=limits)

"""pids: how many processes and threads. config-linux.md#pids"""

from pyrunc.cgroups.limits import Limits, or_max

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write


def limit(_: str, pids: "dict[str, Any]") -> "Iterator[Write]":
    """0 is a limit since runtime-spec 1.3: no further process may be made. The first one counts: so it is 1."""
    if pids.get("limit") is not None:
        yield "pids.max", or_max(pids["limit"] or 1)


V1 = V2 = Limits("pids", (), also=limit, covers=("limit",))

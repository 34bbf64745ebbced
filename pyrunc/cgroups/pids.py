"""pids: how many processes and threads. config-linux.md#pids"""

from pyrunc.cgroups.limits import Limits, or_max, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_limit(directory: str, pids: "dict[str, Any]") -> None:
    """0 is a limit since runtime-spec 1.3: no further process may be made. The first one counts: so it is 1."""
    if pids.get("limit") is not None:
        write(directory, "pids.max", or_max(pids["limit"] or 1))


V1 = V2 = Limits("pids", (), also=write_limit)

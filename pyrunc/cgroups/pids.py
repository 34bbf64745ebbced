"""pids: how many processes and threads there may be. config-linux.md#pids"""

from pyrunc.cgroups.controller import Controller, or_max
from pyrunc.cgroups.counters import NO_LIMIT, is_there, number, some
from pyrunc.cgroups.tree import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cgroups.counters import Values


def at_least_one(limit: int) -> str:
    """The text for a limit. 0 is one since runtime-spec 1.3: no further process. The first one counts, so it is 1."""
    return or_max(limit or 1)


def statistics(directory: str) -> "Values":
    if not is_there(directory, "pids.current"):
        return some(current=len(processes(directory)))
    limit = number(directory, "pids.max")
    return some(current=number(directory, "pids.current"), limit=0 if limit == NO_LIMIT else limit)


CONTROLLER = Controller("pids", "pids", (
    ("limit", ("pids.max", at_least_one), ("pids.max", at_least_one)),
), zeros=("limit",), statistics=(statistics, statistics))  # fmt: skip

"""The mount options of the host's cgroup v2: CRIU takes them away, and they are set again here.

A mount of cgroup2 outside of a cgroup namespace sets the options for the whole host: cgroup_namespaces(7), and the
kernel's admin-guide/cgroup-v2.rst. CRIU mounts it without any. Without nsdelegate, a delegated cgroup can reach beyond
itself.
"""

import posix

from pyrunc.errors import reason
from pyrunc.linux.fd import open_at, read_file
from pyrunc.linux.mount import reconfigure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.log import Log

OPTIONS = (
    "nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting",
    "pids_localevents",
)  # fmt: skip


def options() -> "tuple[str, list[str]]":
    """Where cgroup v2 is mounted, and which of the options it has; "" and none where it is not mounted."""
    for line in read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            given = rest.rpartition(" ")[2].split(",")
            return fields.split(" ")[4], [name for name in OPTIONS if name in given]
    return "", []


def give_back(place: str, before: "list[str]", log: "Log") -> None:
    """Set the options again that were there before. When that fails, a warning says so."""
    now = options()[1]
    lost = [name for name in before if name not in now]
    if not lost:
        return
    try:
        with open_at(None, place, posix.O_PATH | posix.O_DIRECTORY) as mount:
            reconfigure(mount, [(name, None) for name in (*now, *lost)])
    except OSError as error:
        log.warning(f"criu has taken {', '.join(lost)} from {place}, and they can't be given back: {reason(error)}")

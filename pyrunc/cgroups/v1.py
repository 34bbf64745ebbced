"""cgroup v1: a hierarchy for each controller, or for a few. A hybrid host has v2's too, which limits nothing."""

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.cgroups.files import UNIFIED, read, write
from pyrunc.linux.fd import make_directories, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cgroups.oom import Watch
    from pyrunc.spec.types import DeviceRule, Resources


class CgroupV1(Cgroup):
    __slots__ = ()

    unified = False
    dispensable = (UNIFIED,)
    freezer = "freezer"
    freeze_file, freeze_value, thaw_value = "freezer.state", "FROZEN", "THAWED"
    frozen_values = (b"FROZEN", b"FREEZING")
    asked_file = "freezer.self_freezing"
    oom_file = "memory.oom_control"

    def directory(self, controller: str) -> "str | None":
        for name, path in self.paths.items():
            if controller in name.split(","):
                return path
        return None

    def _make_directory(self, name: str, path: str) -> None:
        make_directories(path, 0o755)
        if "cpuset" in name.split(","):
            _inherit_cpuset(path, self.mounts[name])

    def _change_devices(self, directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
        from pyrunc.cgroups import device_rules

        device_rules.replace(directory, old, new)

    def _set_devices(self, directory: str, resources: "Resources") -> None:
        from pyrunc.cgroups import device_rules

        device_rules.apply(directory, resources.get("devices") or [])

    def _stands_still(self, directory: str) -> bool:
        return read_file(f"{directory}/{self.freeze_file}").strip() == b"FROZEN"

    def watch_oom(self) -> "Watch":
        from pyrunc.cgroups.oom import WatchV1

        return WatchV1(self.directory("memory"))

    def _kill_at_once(self) -> bool:
        """Kill by v2's hierarchy, on a hybrid host. There is always more to do: a process may be in v1's hierarchies
        and not in v2's."""
        super()._kill_at_once()
        return False


def _inherit_cpuset(path: str, mount: str) -> None:
    """Give a new cpuset the CPUs and nodes of its parent. It has none at first, and no process can join it before it
    has some. A parent that somebody else has made may have none either."""
    if path == mount:
        return
    parent = path.rpartition("/")[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read(path, file):
            _inherit_cpuset(parent, mount)
            write(path, file, read(parent, file))

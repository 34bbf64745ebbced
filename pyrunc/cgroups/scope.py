"""A cgroup that systemd makes: a transient scope, with v1's or v2's directories in it. systemd.scope(5)"""

from pyrunc.cgroups import systemd, systemd_properties
from pyrunc.cgroups.cgroup import NOT_PERMITTED, Cgroup
from pyrunc.cgroups.files import NAMED, UNIFIED, errno_of
from pyrunc.cgroups.v1 import CgroupV1
from pyrunc.cgroups.v2 import CgroupV2
from pyrunc.errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from pyrunc.cgroups.files import Write
    from pyrunc.cgroups.systemd import Unit
    from pyrunc.spec.types import DeviceRule, Resources


class Scope(Cgroup):
    """What systemd does, or has to be told. The rest is as in v1 or v2.

    Attributes:
        unit: the scope, and whether the user's own instance has it. None: it turned out to be somebody else's.
    """

    __slots__ = ("unit",)

    needs_process = True
    may_enter_late = False  # a scope ends when it is empty

    def __init__(
        self, paths: "dict[str, str]", mounts: "dict[str, str] | None", unit: "Unit", delegated: str = ""
    ) -> None:
        super().__init__(paths, mounts, delegated)
        self.unit: Unit | None = unit

    def record(self) -> "dict[str, Any]":
        return {**super().record(), "unit": self.unit}

    def at(self, paths: "dict[str, str]") -> "Self":
        return type(self)(paths, self.mounts, self._unit(), self.delegated)

    def _unit(self) -> "Unit":
        assert self.unit is not None
        return self.unit

    def _below(self) -> str:
        """The end of each path, after the scope's own: `/SUBGROUP`, or nothing."""
        subgroup = self.unit.get("subgroup") if self.unit is not None else ""
        return f"/{subgroup}" if subgroup else ""

    def expected(self) -> "Self":
        """The same cgroup with the directories that systemd will make: those of the whole scope."""
        path = systemd.control_group_to_be(self._unit())
        return self.at({name: mount + path for name, mount in self.mounts.items()})

    def refuse_used(self) -> None:
        """Refuse existing directories as other kinds do. systemd would use them, too."""
        Cgroup.refuse_used(self.expected())

    def start(self, container_id: str, pid: int, resources: "Resources", annotations: "dict[str, str]") -> None:
        """Have systemd make the scope with the process in it. Then put the process where systemd does not: into v1's
        other hierarchies, and below the scope."""
        unit = self._unit()
        limits = systemd_properties.properties(resources, self.unified, unit["user"])
        own = systemd_properties.of_annotations(annotations)
        try:
            control_group = systemd.start(unit, container_id, pid, limits + own)
        except systemd.Taken:
            self.unit = None  # not ours to stop
            raise
        below = self._below()
        for name, mount in self.mounts.items():
            self.paths[name] = mount + control_group + below
        self.make()  # systemd passes on the controllers that it knows: hugetlb, rdma and misc are not among them
        if below or not self.unified or NAMED in self.paths:
            self.join(pid)
        if below:
            self.make()  # without a process of its own the scope passes controllers on

    def learn(self, own: str) -> None:
        """Learn the directories. systemd uses the same path in all hierarchies. Where the process is elsewhere, the
        scope has no directory."""
        lines = [line.split(":", 2) for line in own.splitlines()]
        found = {name: path for _, name, path in lines if name in self.mounts}
        ours = found.get(UNIFIED if self.unified else NAMED)
        self.paths = {name: self.mounts[name] + path for name, path in found.items() if path == ours}

    def plan(self, resources: "Resources") -> "list[tuple[str, list[Write]]]":
        return super().plan(systemd_properties.round_up(resources))

    def announce(self, resources: "Resources") -> "Callable[[], None]":
        """Tell systemd of new limits. This comes before we write the files: systemd writes to the same ones."""
        unit = self._unit()
        properties = systemd_properties.properties(resources, self.unified, unit["user"])
        before = systemd.set_properties(unit, [each for each in properties if not each[0].startswith("Device")])

        def take_back() -> None:
            systemd.set_properties(unit, before)

        return take_back

    def join_unified(self, pid: int) -> None:
        """Move a process into v2's directory. A rootless caller may not write to cgroup.procs across the tree, so
        systemd does it for him."""
        try:
            super().join_unified(pid)
        except PyruncError as error:
            if errno_of(error) not in NOT_PERMITTED:
                raise
            unit = self._unit()
            below = f"{self.paths[UNIFIED]}/".partition(f"/{unit['name']}/")[2].rstrip("/")
            systemd.move(unit, pid, below)

    def remove(self) -> None:
        if self.unit is not None:
            try:
                systemd.stop(self.unit)
            except systemd.NotThere:
                pass  # once systemd is back, it finds the cgroup empty or gone
        below = self._below()
        Cgroup.remove(self.at({name: path.removesuffix(below) for name, path in self.paths.items()}) if below else self)

    def remove_at_once(self) -> bool:
        return False  # systemd is asked, and may take its time


class ScopeV1(Scope, CgroupV1):
    __slots__ = ()

    def _change_devices(self, directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
        cause = "on cgroup v1 systemd has the list of devices, and would put its own back"
        raise PyruncError("changing device rules of cgroup", directory, cause)


class ScopeV2(Scope, CgroupV2):
    __slots__ = ()


def kind(unified: bool) -> "type[Scope]":
    return ScopeV2 if unified else ScopeV1

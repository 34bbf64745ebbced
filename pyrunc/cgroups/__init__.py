"""A container's cgroup: find its place, or load it from its record. cgroup.py has what can be done with it.

There are three kinds: v1.py, v2.py, and scope.py for systemd's. The code of a kind is loaded with the first of it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.scope import Scope
    from pyrunc.cgroups.systemd import Unit

NONE: "dict[str, Any]" = {"paths": {}, "unified": False, "mounts": {}, "unit": None}  # the record of no cgroup


def place(cgroups_path: "str | None", container_id: str, delegated: str = "", named: bool = False) -> "Cgroup":
    """The cgroup that linux.cgroupsPath names. Nothing is made. config-linux.md#cgroups-path

    Args:
        delegated: the path below it of the cgroup that the container is to manage itself; v2 alone.
        named: whether it has one in name=systemd of v1 too, where v2 has the controllers.
    """
    from pyrunc.cgroups import hierarchy

    found = hierarchy.find(named)
    paths = hierarchy.directories(found, cgroups_path or container_id)
    return _kind(hierarchy.is_unified(found), paths, {h.name: h.mount for h in found}, None, delegated)


def place_nowhere() -> "Cgroup":
    """The caller's own cgroup: none is made, and nothing is limited."""
    return _kind(False, {}, {}, None)


def place_scope(
    cgroups_path: "str | None",
    container_id: str,
    user: bool,
    delegated: str = "",
    named: bool = False,
    subgroup: str = "",
) -> "Scope":
    """systemd's scope that linux.cgroupsPath names. Its directories are known once systemd has made it.

    Args:
        user: whether the caller's own instance of systemd is to make it, and not the system's.
        delegated, named: as of `place`.
        subgroup: the path below the scope at which the container's cgroup is.
    """
    from pyrunc.cgroups import hierarchy, scope, systemd

    found = hierarchy.find(named)
    unit = systemd.unit_of(cgroups_path or "", container_id, user)
    if subgroup:
        unit["subgroup"] = subgroup
    systemd.version(user)  # fails here, before anything is made, if systemd does not answer
    return scope.kind(hierarchy.is_unified(found))({}, {h.name: h.mount for h in found}, unit, delegated)


def load(record: "dict[str, Any]") -> "Cgroup":
    """The cgroup of an existing container, as `Cgroup.record` has written it down."""
    return _kind(record["unified"], record["paths"], record["mounts"], record.get("unit"), record.get("delegated", ""))


def load_code(to_stay: bool = False) -> None:
    """Load the code that makes and limits a cgroup on this host: otherwise the first container would wait for it.

    Args:
        to_stay: from now on, trust that hierarchies stay mounted where they are.
    """
    from pyrunc.cgroups import controllers, device_rules, hierarchy  # noqa: F401

    if to_stay:
        hierarchy.known = {}
    _kind(hierarchy.is_unified(hierarchy.find()), {}, {}, None)


def _kind(
    unified: bool, paths: "dict[str, str]", mounts: "dict[str, str]", unit: "Unit | None", delegated: str = ""
) -> "Cgroup":
    if unit is not None:
        from pyrunc.cgroups import scope

        return scope.kind(unified)(paths, mounts, unit, delegated)
    if unified:
        from pyrunc.cgroups.v2 import CgroupV2

        return CgroupV2(paths, mounts, delegated)
    from pyrunc.cgroups.v1 import CgroupV1

    return CgroupV1(paths, mounts)

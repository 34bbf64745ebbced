"""update: other limits for a container that exists. All of them, or none."""

from pyrunc.container.container import Container
from pyrunc.errors import PyruncError, StateError
from pyrunc.spec import rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cgroups.rdt import Group
    from pyrunc.spec.types import IntelRdt, Resources

# Members that the kernel takes together, in one file or bounding each other: with one the others are written again.
TOGETHER = {"memory": ("limit", "swap"), "cpu": ("quota", "period")}
# What makes two entries of a list the same one.
SAME = {"pageSize": ("pageSize",), "major": ("major", "minor"), "name": ("name",)}


def update(container: Container, changes: "Resources", rdt: "IntelRdt | None" = None) -> None:
    """Change the limits that `changes` names, and keep the others; config.json on record is then what holds.

    The rules for devices are never touched: engines and their plug-ins (nvidia's) add to them behind our back.

    Args:
        rdt: the members of linux.intelRdt that are to change in the container's class of service.
    """
    for pointer, doubt, hint in rules.resources_warnings(changes):
        container.log.warning(f"resources {pointer}: {doubt}{hint and '; '}{hint}")
    container.directory.lock("update")
    try:
        if container.status() == "stopped":
            raise StateError("cannot update container", container.id, "container not running")
        linux = container.config["linux"]
        old: dict[str, Any] = {**(linux.get("resources") or {})}
        wanted: dict[str, Any] = {name: value for name, value in changes.items() if name != "devices" and value}
        if rdt:
            group = _group(container)
            schemata = group.read(group.path("schemata"))
        try:
            if rdt:
                group.apply(rdt)
            container.cgroup.update(_with_companions(wanted, old))  # type: ignore[arg-type]
        except PyruncError:
            if rdt:
                group.apply({"schemata": [schemata]})
            raise
        linux["resources"] = merged(old, wanted)
        if rdt:
            linux["intelRdt"] = merged(linux["intelRdt"], rdt)
        container.directory.save_config(container.config)
    finally:
        container.directory.unlock()


def _group(container: Container) -> "Group":
    group = container.rdt_group()
    if group is None:
        cause = "its configuration has no intelRdt: it has no class of service"
        raise StateError("cannot update container", container.id, cause)
    return group


def _with_companions(changes: "dict[str, Any]", old: "dict[str, Any]") -> "dict[str, Any]":
    found = {**changes}
    for name, members in TOGETHER.items():
        if any(changes.get(name, {}).get(member) for member in members):
            before = old.get(name) or {}
            found[name] = {**{member: before.get(member) for member in members}, **_said(changes[name])}
    memory = changes.get("memory") or {}
    if memory.get("limit") == -1 and not memory.get("swap"):
        found["memory"] = {**found["memory"], "swap": None}  # nor a limit on both together
    return found


def _said(members: "dict[str, Any]") -> "dict[str, Any]":
    return {name: value for name, value in members.items() if value is not None}


def merged(old: "Any", new: "Any") -> "Any":
    """`old` with what `new` says; lists of devices, pages and interfaces by their entries."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: merged(old.get(name), value) for name, value in new.items() if value is not None}}
    if isinstance(old, list) and isinstance(new, list):
        replaced = [_identity(entry) for entry in new]
        return [entry for entry in old if _identity(entry) not in replaced] + new
    return new


def _identity(entry: "dict[str, Any]") -> "list[Any]":
    for name, members in SAME.items():
        if name in entry:
            return [entry.get(member) for member in members]
    return [entry]

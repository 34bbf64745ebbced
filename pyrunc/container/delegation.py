"""Whose the container's cgroup is. config-linux.md#cgroup-ownership"""

from pyrunc.cgroups import make
from pyrunc.cgroups.cgroup import Cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, IDMapping

NOBODY = -1


def delegate(cgroup: Cgroup, config: "Config") -> None:
    """A container with a cgroup namespace of its own, and a writable view of it, may arrange what is in its cgroup:
    v2's directory is its user's then."""
    linux = config["linux"]
    new = {n["type"] for n in linux.get("namespaces") or [] if not n.get("path")}
    if "cgroup" not in new or not cgroup.unified:
        return
    writable = any(
        mount.get("type") in ("cgroup", "cgroup2") and "ro" not in (mount.get("options") or [])
        for mount in config.get("mounts") or []
    )
    process = config.get("process")
    uid = process["user"]["uid"] if process and process.get("user") else 0
    owner = host_id(linux.get("uidMappings") or [], uid) if "user" in new else uid
    if writable and owner != NOBODY:
        make.delegate(cgroup, owner)


def host_id(mappings: "list[IDMapping]", inside: int) -> int:
    """The host's ID of one of the container's; NOBODY where it is not mapped."""
    for mapping in mappings:
        if 0 <= inside - mapping["containerID"] < mapping["size"]:
            return mapping["hostID"] + inside - mapping["containerID"]
    return NOBODY

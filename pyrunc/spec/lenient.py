"""What runc takes, and engines and people write, although the schemas refuse it. Imported once the checker has refused.

- A null member of an object. Go writes null for slices and pointers that are nil where `omitempty` is
  missing, and reads it as if the member were absent. So do we: it is removed. Inside the maps whose names are
  free, null stays an error: there Go makes an empty string of it, which nobody can have meant as a limit or a
  kernel parameter.
- linux.rootfsPropagation with an r in front, as mount(8) spells the recursive forms: runc's table has them.
- fileMode of a device with the bits of its file type: st_mode as Docker once copied it. Those bits are
  dropped, as runc drops them.
- A seccomp rule without names, which is no rule: generators leave such.
- Limits whose names have letters of the other case (`CPU`, `pagesize`): Go compares names without it, and runc's own
  documents have such. Ignored, as unknown members are, they would limit nothing.

`pyrunc validate` is not lenient: it says what the specification says.
"""

from pyrunc.spec import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAPS = {"annotations", "sysctl", "unified", "netDevices", "rdma"}
PROPAGATIONS = {"rprivate", "rshared", "rslave", "runbindable", ""}
PERMISSIONS = 0o777
MEMBERS = {"blockIO": types.BlockIO, "cpu": types.CPU, "memory": types.Memory, "pids": types.Pids}


def tolerated(document: object) -> object:
    """What the schema is to judge of `document`, from which nulls, file types and empty rules are removed for good."""
    drop_nulls(document)
    linux = document.get("linux") if isinstance(document, dict) else None
    resources = linux.get("resources") if isinstance(linux, dict) else document
    if isinstance(resources, dict):
        respell(resources)
    if not isinstance(document, dict) or not isinstance(linux, dict):
        return document
    drop_file_types(linux.get("devices"))
    drop_nameless_rules(linux.get("seccomp"))
    propagation = linux.get("rootfsPropagation")
    if not isinstance(propagation, str) or propagation not in PROPAGATIONS:
        return document
    return {**document, "linux": {name: linux[name] for name in linux if name != "rootfsPropagation"}}


def drop_nulls(document: object) -> None:
    """Remove the null members of all objects within, except in MAPS. A stack, not recursion: nesting may be deep."""
    left = [(document, False)]
    while left:
        value, is_map = left.pop()
        if isinstance(value, dict):
            if not is_map:
                for name in [name for name, member in value.items() if member is None]:
                    del value[name]
            left += [(member, name in MAPS and not is_map) for name, member in value.items()]
        elif isinstance(value, list):
            left += [(item, False) for item in value]


def respell(resources: "dict[str, Any]") -> None:
    """Give limits the names that they have in the specification, whatever the case of their letters."""
    _respell(resources, types.Resources)
    for name, members in MEMBERS.items():
        if isinstance(resources.get(name), dict):
            _respell(resources[name], members)
    limits = resources.get("hugepageLimits")
    for limit in limits if isinstance(limits, list) else ():
        if isinstance(limit, dict):
            _respell(limit, types.HugepageLimit)


def _respell(members: "dict[str, Any]", kind: type) -> None:
    proper = {name.lower(): name for name in kind.__annotations__}
    for name in [*members]:
        wanted = proper.get(name.lower(), name)
        if wanted != name:
            value, there = members.pop(name), members.get(wanted)
            if isinstance(value, dict) and isinstance(there, dict):
                there.update({**value, **there})  # Go reads `cpu` and `CPU` into one structure
            else:
                members.setdefault(wanted, value)


def drop_file_types(devices: object) -> None:
    """Leave the permission bits of each device's fileMode."""
    for device in devices if isinstance(devices, list) else ():
        mode = device.get("fileMode") if isinstance(device, dict) else None
        if isinstance(mode, int) and mode > PERMISSIONS:
            device["fileMode"] = mode & PERMISSIONS


def drop_nameless_rules(seccomp: object) -> None:
    """Leave the rules that are about a system call."""
    rules = seccomp.get("syscalls") if isinstance(seccomp, dict) else None
    if isinstance(seccomp, dict) and isinstance(rules, list):
        seccomp["syscalls"] = [rule for rule in rules if not isinstance(rule, dict) or rule.get("names") != []]

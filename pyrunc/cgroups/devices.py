"""devices: which may be used. config-linux.md#allowed-device-list

Everything is forbidden that no rule allows, and of several rules that match the last one counts.
"""

from pyrunc.cgroups.limits import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import DeviceRule

# After the rules of config.json: without these no container works. The list is runc's, 10:200 is /dev/net/tun.
DEFAULT: "tuple[DeviceRule, ...]" = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
)


def text_of(rule: "DeviceRule") -> str:
    """A rule as devices.allow and devices.deny take it: `c 1:3 rwm`; `a` is everything."""
    kind = rule.get("type") or "a"
    major, minor = rule.get("major"), rule.get("minor")
    access = (rule.get("access") or "rwm").replace("a", "")
    if kind == "a":
        return "a"
    return f"{kind} {'*' if major in (None, -1) else major}:{'*' if minor in (None, -1) else minor} {access}"


def apply_v1(directory: str, rules: "list[DeviceRule]") -> None:
    """Forbid all, then rule by rule: the kernel keeps a list of exceptions, to which one adds or takes away."""
    write(directory, "devices.deny", "a")
    for rule in [*rules, *DEFAULT]:
        write(directory, "devices.allow" if rule["allow"] else "devices.deny", text_of(rule))

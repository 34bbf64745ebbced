"""devices: the rules that say which may be used, and v1's way to apply them. config-linux.md#allowed-device-list

What no rule allows is forbidden. Of several rules that match a device the last one counts. v2: device_filter.py.
"""

from pyrunc.cgroups.files import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import DeviceRule

# These follow the rules of config.json: without them no container works. The list is runc's; 10:200 is /dev/net/tun.
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


def apply(directory: str, rules: "list[DeviceRule]") -> None:
    """Forbid all, then write rule by rule: the kernel keeps a list of exceptions, and each rule adds to it or takes
    away."""
    write(directory, "devices.deny", "a")
    for rule in [*rules, *DEFAULT]:
        write(directory, "devices.allow" if rule["allow"] else "devices.deny", text_of(rule))


def replace(directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
    """Change the list rule by rule: what both have stays allowed all the time. Of a rule that goes, what another one
    allows is allowed again."""
    for rule in new:
        if rule not in old:
            write(directory, "devices.allow" if rule["allow"] else "devices.deny", text_of(rule))
    for rule in old:
        if rule not in new and rule["allow"]:
            write(directory, "devices.deny", text_of(rule))
            for other in [*new, *DEFAULT]:
                if _concerns(other, rule):
                    name = "devices.allow" if other["allow"] else "devices.deny"
                    write(directory, name, text_of({**rule, "access": other.get("access") or "rwm"}))


def _concerns(rule: "DeviceRule", device: "DeviceRule") -> bool:
    """Whether a rule is about a device, among others perhaps."""
    if (rule.get("type") or "a") not in ("a", device.get("type")):
        return False
    return all(rule.get(name) in (None, -1, device.get(name)) for name in ("major", "minor"))

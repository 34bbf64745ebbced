"""devices: the rules for which may be used, and how v1 applies them. config-linux.md#allowed-device-list

What no rule allows is forbidden. Of several rules that match a device the last one counts, for each of r, w and m by
itself. For v2, see device_filter.py.

v1 has no rules, but a list: it allows all or nothing, with exceptions. It knows no exception to an exception: if one
device of an allowed driver is forbidden, that has no effect, and is no error. So the list is worked out here.
"""

from pyrunc.cgroups.files import write
from pyrunc.errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import DeviceRule

    Devices = tuple[str, int, int]  # b or c, major, minor; ALL of them

ALL = -1
EVERYTHING: "list[Devices]" = [("b", ALL, ALL), ("c", ALL, ALL)]
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


class DeviceList:
    """The list that v1 keeps.

    Attributes:
        all: whether it allows all devices except for some, or only some.
    """

    __slots__ = ("all", "exceptions")

    def __init__(self, rules: "list[DeviceRule]", may_allow_all: bool) -> None:
        """Make the list. Raises PyruncError when it can't express the rules."""
        self.all = False
        self.exceptions: dict[Devices, set[str]] = {}
        for rule in rules:
            devices, access = devices_of(rule), access_of(rule)
            if devices == EVERYTHING and len(access) == 3 and (may_allow_all or not rule["allow"]):
                self.all, self.exceptions = rule["allow"], {}
                continue
            for each in devices:
                if rule["allow"] == self.all:
                    self._take_back(each, access)
                else:
                    self.exceptions.setdefault(each, set()).update(access)

    def _take_back(self, devices: "Devices", access: "set[str]") -> None:
        for known, has in self.exceptions.items():
            if _covers(devices, known):
                has -= access
            elif has & access and _meets(devices, known):
                cause = f"cgroup v1 can't except {_text(devices, access)} from {_text(known, has)} of an earlier rule"
                raise PyruncError("linux.resources", "devices", cause, "name what is allowed, device by device")


def devices_of(rule: "DeviceRule") -> "list[Devices]":
    kind, major, minor = rule.get("type") or "a", rule.get("major"), rule.get("minor")
    numbers = ALL if major is None else major, ALL if minor is None else minor
    return [(each, *numbers) for each in ("b", "c") if kind in ("a", each)]


def access_of(rule: "DeviceRule") -> "set[str]":
    return {*(rule.get("access") or "rwm")} - {"a"}


def _covers(some: "Devices", others: "Devices") -> bool:
    return all(one in (ALL, other) for one, other in zip(some, others, strict=True))


def _meets(some: "Devices", others: "Devices") -> bool:
    return all(one == other or ALL in (one, other) for one, other in zip(some, others, strict=True))


def _text(devices: "Devices", access: "set[str]") -> str:
    """Devices as devices.allow and devices.deny take them: `c 1:3 rwm`."""
    kind, *numbers = devices
    major, minor = ("*" if number == ALL else number for number in numbers)
    return f"{kind} {major}:{minor} {''.join(each for each in 'rwm' if each in access)}"


def list_of(rules: "list[DeviceRule]") -> DeviceList:
    """The list for the rules: all except some, or only some, whichever can express them. Raises PyruncError."""
    try:
        return DeviceList([*rules, *DEFAULT], may_allow_all=True)
    except PyruncError:
        return DeviceList([*rules, *DEFAULT], may_allow_all=False)


def apply(directory: str, rules: "list[DeviceRule]") -> None:
    wanted = list_of(rules)
    _write(directory, wanted.all, "a")  # this also removes all exceptions
    for devices, access in wanted.exceptions.items():
        if access:
            _write(directory, not wanted.all, _text(devices, access))


def replace(directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
    """Replace one list of rules by another. Devices that both allow stay allowed all the time. What others have added
    stays as it is."""
    before, after = list_of(old), list_of(new)
    if before.all != after.all:
        return apply(directory, new)
    for devices in {**before.exceptions, **after.exceptions}:
        had, has = before.exceptions.get(devices, set()), after.exceptions.get(devices, set())
        if has - had:
            _write(directory, not after.all, _text(devices, has - had))
        if had - has:
            _write(directory, after.all, _text(devices, had - has))


def _write(directory: str, allow: bool, text: str) -> None:
    write(directory, "devices.allow" if allow else "devices.deny", text)

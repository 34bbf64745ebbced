"""The sets of capabilities of a process, as bits. capabilities(7), config.md#linux-process"""

from pyrunc.spec.rules import CAPABILITIES

BIT = {name: 1 << number for number, name in enumerate(CAPABILITIES)}
CAP_SYS_ADMIN = BIT["CAP_SYS_ADMIN"]
CAP_SYS_PTRACE = BIT["CAP_SYS_PTRACE"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Capabilities


class Sets:
    """The five sets as bit masks, without names that this runtime does not know (spec 1.1). rules.py warns of
    those.
    """

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, capabilities: "Capabilities") -> None:
        self.bounding = mask(capabilities.get("bounding"))
        self.effective = mask(capabilities.get("effective"))
        self.permitted = mask(capabilities.get("permitted"))
        self.inheritable = mask(capabilities.get("inheritable"))
        self.ambient = mask(capabilities.get("ambient"))

    def any(self) -> int:
        """The capabilities that are in at least one of the sets."""
        return self.bounding | self.permitted | self.effective | self.inheritable


def mask(names: "list[str] | None") -> int:
    bits = 0
    for name in names or ():
        bits |= BIT.get(name.upper(), 0)
    return bits


def names_of(mask: int) -> "list[str]":
    return [name for name, bit in BIT.items() if mask & bit]

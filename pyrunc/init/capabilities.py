"""The names of capabilities, and the sets of a process. capabilities(7), config.md#linux-process"""

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip  # the index is the number

BIT = {name: 1 << number for number, name in enumerate(NAMES)}
CAP_SYS_ADMIN = BIT["CAP_SYS_ADMIN"]
CAP_SYS_PTRACE = BIT["CAP_SYS_PTRACE"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Capabilities


class Sets:
    """The five sets as bit masks. Names that this runtime does not know are not in them (spec 1.1; rules.py warns)."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, capabilities: "Capabilities") -> None:
        self.bounding = mask(capabilities.get("bounding"))
        self.effective = mask(capabilities.get("effective"))
        self.permitted = mask(capabilities.get("permitted"))
        self.inheritable = mask(capabilities.get("inheritable"))
        self.ambient = mask(capabilities.get("ambient"))

    def any(self) -> int:
        """What is in one of them at least."""
        return self.bounding | self.permitted | self.effective | self.inheritable


def mask(names: "list[str] | None") -> int:
    bits = 0
    for name in names or ():
        bits |= BIT.get(name.upper(), 0)
    return bits


def names_of(mask: int) -> "list[str]":
    return [name for name, bit in BIT.items() if mask & bit]

"""linux.resources as properties of a unit: systemd.resource-control(5)"""

from pyrunc.cgroups import blkio, cpu, memory, systemd
from pyrunc.cgroups.device_rules import DEFAULT, access_of, devices_of
from pyrunc.errors import PyruncError
from pyrunc.linux.process import numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyrunc.cgroups.systemd import Property
    from pyrunc.spec.types import DeviceRule, Resources

INFINITY = 2**64 - 1
UNITS = "KMGTPE"
PERIOD = 100_000  # µs, the kernel's default
PER_CENT = 10_000  # µs in a second: systemd keeps whole per cents
IDLE_SINCE = 252
IO_LIMITS = {
    "throttleReadBpsDevice": "IOReadBandwidthMax", "throttleWriteBpsDevice": "IOWriteBandwidthMax",
    "throttleReadIOPSDevice": "IOReadIOPSMax", "throttleWriteIOPSDevice": "IOWriteIOPSMax",
}  # fmt: skip
ANNOTATION = "org.systemd.property."


def properties(resources: "Resources", unified: bool, user: bool = False) -> "list[Property]":
    """The limits that systemd has properties for. The others are only written to the cgroup."""
    values: dict[str, Any] = {**resources}
    found = [*(_v2(values, user) if unified else _v1(values))]
    return list(dict(found).items())  # of a property that comes twice the last counts: `unified` overrules the others


def round_up(resources: "Resources") -> "Resources":
    """The same resources with a quota that systemd can hold: it keeps whole per cents of a CPU.

    The cgroup's file gets this quota too. It is rounded up: the cgroup may not have less than was asked for.
    """
    processor = resources.get("cpu") or {}
    quota, period = processor.get("quota") or 0, processor.get("period") or PERIOD
    if quota <= 0:
        return resources
    return {**resources, "cpu": {**processor, "quota": per_second(quota, period) * period // 1_000_000}}


def per_second(quota: int, period: int) -> int:
    """A quota in µs a second, rounded up to a whole per cent."""
    return min(-(-(quota * 1_000_000 // period) // PER_CENT) * PER_CENT, INFINITY)


def _v1(resources: "dict[str, Any]") -> "Iterator[Property]":
    limits = resources.get("memory") or {}
    if limits.get("limit"):
        yield "MemoryLimit", ("t", infinite(limits["limit"]))
    processor = resources.get("cpu") or {}
    if processor.get("shares"):
        yield "CPUShares", ("t", processor["shares"])
    yield from _quota(processor)
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        yield "BlockIOWeight", ("t", weight)
    yield from _tasks(resources)
    yield "DevicePolicy", ("s", "strict")
    yield "DeviceAllow", ("a(ss)", allowed_devices(resources.get("devices") or []))


def _v2(resources: "dict[str, Any]", user: bool) -> "Iterator[Property]":
    """Properties for v2, without the rules for devices: then systemd attaches no program, and leaves ours alone."""
    limits = resources.get("memory") or {}
    for file, value in memory.limit_and_swap_v2("", limits):
        yield UNIFIED[file][0], ("t", of_text(value))
    if limits.get("reservation"):
        yield "MemoryLow", ("t", infinite(limits["reservation"]))
    processor = resources.get("cpu") or {}
    if cpu.has_shares(processor):
        yield "CPUWeight", ("t", int(cpu.weight_of_shares(processor["shares"])))
    if processor.get("idle"):
        yield from _idle("1", user)
    yield from _quota(processor)
    for member, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if processor.get(member):
            yield name, ("ay", _converted(f"cpu.{member}", mask, processor[member]))
    yield from _tasks(resources)
    yield from _io(resources.get("blockIO") or {})
    files = resources.get("unified") or {}
    for file, value in files.items():
        if file == "cpu.weight" and files.get("cpu.idle", "").strip() == "1":
            continue
        yield from _of_file(file, value.strip(), user)


def _quota(processor: "dict[str, Any]") -> "Iterator[Property]":
    quota, period = processor.get("quota") or 0, processor.get("period") or 0
    if period:
        yield "CPUQuotaPeriodUSec", ("t", period)
    if quota or period:
        yield "CPUQuotaPerSecUSec", ("t", per_second(quota, period or PERIOD) if quota > 0 else INFINITY)


def _tasks(resources: "dict[str, Any]") -> "Iterator[Property]":
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        yield "TasksMax", ("t", infinite(limit or 1))  # 0 means 1: see pids.at_least_one; nor does systemd take 0


def _io(limits: "dict[str, Any]") -> "Iterator[Property]":
    if limits.get("weight"):
        yield "IOWeight", ("t", int(blkio.io_weight(limits["weight"])))
    for member, name in IO_LIMITS.items():
        devices = limits.get(member) or []
        if devices:
            rates = [(f"/dev/block/{blkio.number_of(device)}", device.get("rate") or INFINITY) for device in devices]
            yield name, ("a(st)", rates)


def _idle(value: str, user: bool) -> "Iterator[Property]":
    """The property for cpu.idle. Since version 252 systemd says "idle" by a weight of 0. Before, it can't say it."""
    if value == "1" and systemd.version(user) >= IDLE_SINCE:
        yield "CPUWeight", ("t", 0)


def _of_file(file: str, value: str, user: bool) -> "Iterator[Property]":
    if file == "cpu.idle":
        yield from _idle(value, user)
    elif file == "cpu.max":
        quota, _, period = value.partition(" ")
        numbers = {
            "quota": _converted(file, _quota_of, quota),
            "period": _converted(file, number, period or str(PERIOD)),
        }
        yield from _quota(numbers)
    elif file in UNIFIED:
        name, signature, convert = UNIFIED[file]
        yield name, (signature, _converted(file, convert, value))


def _converted(what: str, convert: "Callable[[str], Any]", value: str) -> "Any":
    """A text as a property's value. Raises PyruncError for a text that the kernel would not take either."""
    try:
        return convert(value)
    except ValueError as error:
        raise PyruncError("linux.resources", what, f'"{value}" is no value of it: {error}') from error


def _quota_of(text: str) -> int:
    return -1 if text == "max" else number(text)


def mask(text: str) -> bytes:
    """`0-3,8` as bits, the lowest first."""
    bits = 0
    for number in numbers(text):
        bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def infinite(value: int) -> int:
    return INFINITY if value < 0 else value


def of_text(text: str) -> int:
    """A number, perhaps with a letter behind it, as the kernel reads it (memparse()), or max."""
    if text == "max":
        return INFINITY
    shift = UNITS.find(text[-1:].upper()) + 1 if text else 0
    return min(number(text[:-1] if shift else text) << 10 * shift, INFINITY)


def number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError("expected a number")
    return int(text)


# A file of v2 -> (the property, its type, the conversion from the file's text).
UNIFIED: "dict[str, tuple[str, str, Callable[[str], Any]]]" = {
    "cpu.weight": ("CPUWeight", "t", number),
    "cpuset.cpus": ("AllowedCPUs", "ay", mask),
    "cpuset.mems": ("AllowedMemoryNodes", "ay", mask),
    "memory.high": ("MemoryHigh", "t", of_text),
    "memory.low": ("MemoryLow", "t", of_text),
    "memory.max": ("MemoryMax", "t", of_text),
    "memory.min": ("MemoryMin", "t", of_text),
    "memory.swap.max": ("MemorySwapMax", "t", of_text),
    "pids.max": ("TasksMax", "t", lambda text: of_text(text) or 1),
}


def allowed_devices(rules: "list[DeviceRule]") -> "list[tuple[str, str]]":
    """What all rules together allow, as DeviceAllow= takes it. For v1, where systemd writes the list of devices itself.

    systemd knows no exceptions to what it allows. So a rule that forbids takes away only those entries that it covers
    wholly. The rest is in the kernel's list, which we write after systemd.
    """
    allowed: dict[tuple[str, int, int], set[str]] = {}
    for rule in [*rules, *DEFAULT]:
        access = access_of(rule)
        for each, major, minor in devices_of(rule):
            if rule["allow"]:
                allowed.setdefault((each, major, minor), set()).update(access)
                continue
            for key, letters in allowed.items():
                if key[0] == each and major in (-1, key[1]) and minor in (-1, key[2]):
                    letters -= access
    return [(_device(*key), "".join(each for each in "rwm" if each in allowed[key])) for key in allowed if allowed[key]]


def _device(kind: str, major: int, minor: int) -> str:
    """A device as DeviceAllow= names it, or all devices of a driver."""
    name = {"b": "block", "c": "char"}[kind]
    if minor != -1:
        return f"/dev/{name}/{major}:{minor}"
    return f"{name}-{'*' if major == -1 else major}"


def of_annotations(annotations: "dict[str, str]") -> "list[Property]":
    """Properties that annotations add to the unit: `org.systemd.property.NAME: VALUE`, in GVariant's text format."""
    from pyrunc.cgroups import gvariant

    found: list[Property] = []
    for key, value in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key[len(ANNOTATION) :]
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise PyruncError("annotation", key, "is no name of a property: at least three ASCII letters")
        try:
            signature, parsed = gvariant.parse(value)
            if name.endswith("Sec") and not name.endswith("USec") and signature in gvariant.NUMBERS:
                name, signature, parsed = f"{name[:-3]}USec", "t", int(parsed * 1_000_000)
                if not 0 <= parsed <= INFINITY:
                    raise ValueError("out of range")
        except (ValueError, OverflowError, RecursionError) as error:
            raise PyruncError("annotation", key, f'"{value}" is no GVariant text: {error}') from None
        found.append((name, (signature, parsed)))
    return found

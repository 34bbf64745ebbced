"""pyrunc update ID: change the limits of a container."""

from pyrunc.cli.arguments import Arguments, Flag, Usage, is_count
from pyrunc.cli.call import Call
from pyrunc.container.container import Container
from pyrunc.container.update import update
from pyrunc.errors import UsageError
from pyrunc.linux.fd import read_all, read_file
from pyrunc.spec import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.spec.types import IntelRdt, Resources

UNITS = "kmgtp"


def number(text: str) -> int:
    return int(text) if is_count(text.removeprefix("-")) else _no_number()


def count(text: str) -> int:
    return int(text) if is_count(text) else _no_number()


def size(text: str) -> int:
    """Bytes: `-1`, `1073741824`, `512m`, `1.5 GiB`; powers of 1024."""
    if text == "-1":
        return -1
    rest = text.lower().removesuffix("b").removesuffix("i")
    power = UNITS.find(rest[-1:]) + 1 if rest[-1:] else 0
    digits = (rest[:-1] if power else rest).removesuffix(" ")
    whole, _, fraction = digits.partition(".")
    if not (is_count(whole) and is_count(fraction or "0")):
        _no_number()
    return int(float(digits) * 1024**power) if fraction else int(whole) * 1024**power


def text(value: str) -> str:
    return value


def _no_number() -> int:
    raise ValueError("is not a number")


# flag: (member of resources, its property, how its value is read, help)
LIMITS: "dict[str, tuple[str, str, Callable[[str], Any], str]]" = {
    "blkio-weight": ("blockIO", "weight", count, "the share of block I/O, 10 to 1000"),
    "cpu-period": ("cpu", "period", count, "the period of --cpu-quota, in microseconds"),
    "cpu-quota": ("cpu", "quota", number, "CPU time in a period, in microseconds; -1 for no limit"),
    "cpu-burst": ("cpu", "burst", count, "CPU time beyond the quota that may be saved up, in microseconds"),
    "cpu-share": ("cpu", "shares", count, "the share of CPU time beside other containers; 1024 is one"),
    "cpu-rt-period": ("cpu", "realtimePeriod", count, "the period of --cpu-rt-runtime, in microseconds"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", number, "realtime CPU time in a period, in microseconds"),
    "cpu-idle": ("cpu", "idle", number, "1: only CPU time that nobody else wants"),
    "cpuset-cpus": ("cpu", "cpus", text, "the CPUs to run on: 0-3,7"),
    "cpuset-mems": ("cpu", "mems", text, "the memory nodes to use"),
    "memory": ("memory", "limit", size, "the limit on memory, in bytes or as 512m, 2g; -1 for none"),
    "memory-reservation": ("memory", "reservation", size, "memory that is left when others need some"),
    "memory-swap": ("memory", "swap", size, "the limit on memory and swap together; -1 for none"),
    "pids-limit": ("pids", "limit", number, "how many processes and threads; -1 for no limit"),
}
OBSOLETE = ("kernel-memory", "kernel-memory-tcp")

USAGE = Usage(
    "update",
    "ID",
    "change the limits of a container",
    (
        Flag("resources", "r", help="read linux.resources from FILE (JSON), - is standard input", value="FILE"),
        *(Flag(name, help=row[3], value="VALUE") for name, row in LIMITS.items()),
        Flag("device-add", help="give it a device: HOSTPATH[:PATH[:rwm]]", value="DEVICE", many=True),
        Flag("device-rm", help="take away a device that --device-add gave", value="PATH", many=True),
        Flag("l3-cache-schema", help="the share of the L3 cache: L3:0=ff;1=f0", value="VALUE"),
        Flag("mem-bw-schema", help="the share of memory bandwidth: MB:0=50;1=70", value="VALUE"),
        *(Flag(name, help="ignored", value="VALUE", hidden=True) for name in OBSOLETE),
    ),
    least=1,
    most=1,
    details="""What is not named stays as it is. If the kernel refuses a value, nothing is changed. With --resources
the other flags are ignored, but not those of the schemata. Rules for devices are changed
by --device-add and --device-rm alone, together with the node in the container's /dev.""",
)


def main(call: Call) -> None:
    arguments = call.arguments
    container = Container.load(call.state_root, call.id, call.log)
    for name in OBSOLETE:
        if name in arguments.given:
            call.log.warning("Kernel memory settings are ignored and will be removed")
    source = arguments.text("resources")
    changes, rdt = _of_file(source) if source else _of_flags(arguments), _rdt(arguments)
    if not (arguments.texts("device-add") or arguments.texts("device-rm")):
        update(container, changes, rdt)
        return
    from pyrunc.container import late_devices

    late_devices.change(
        container, arguments.texts("device-add"), arguments.texts("device-rm"), lambda: update(container, changes, rdt)
    )


def _rdt(arguments: Arguments) -> "IntelRdt | None":
    """The container's class of service has other files than its cgroup. config-linux.md#intelrdt"""
    found: IntelRdt = {}
    if arguments.text("l3-cache-schema"):
        found["l3CacheSchema"] = arguments.text("l3-cache-schema")
    if arguments.text("mem-bw-schema"):
        found["memBwSchema"] = arguments.text("mem-bw-schema")
    return found or None


def _of_file(source: str) -> "Resources":
    data = read_all(0, load.LARGEST) if source == "-" else read_file(source)
    return load.resources(data, "standard input" if source == "-" else source)


def _of_flags(arguments: Arguments) -> "Resources":
    """Checked by the same rules as a file."""
    from pyrunc.spec.jsonc import dumps

    found: dict[str, dict[str, Any]] = {}
    for name, (member, key, convert, _) in LIMITS.items():
        given = arguments.text(name)
        if given:
            try:
                found.setdefault(member, {})[key] = convert(given)
            except ValueError as error:
                raise UsageError(f"invalid value for {name}", f'"{given}"', str(error)) from None
    return load.resources(dumps(found).encode(), "flags")

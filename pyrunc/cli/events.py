"""pyrunc events ID: what a container uses, and when it runs out of memory."""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, say
from pyrunc.container import events
from pyrunc.container.container import Container
from pyrunc.errors import UsageError
from pyrunc.spec.jsonc import dumps

LONGEST = 1 << 31  # seconds; poll(2) and the clock have ends of their own

# time.ParseDuration's, in seconds
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

USAGE = Usage(
    "events",
    "ID",
    "show what a container uses, and when it runs out of memory",
    (
        Flag("interval", help="how often: 5s, 100ms, 1m30s", value="DURATION", default="5s"),
        Flag("stats", help="show the statistics once"),
    ),
    least=1,
    most=1,
    details="""A line of JSON for each event: `stats` at every interval, `oom` when the kernel kills.
It ends with the container.""",
)


def main(call: Call) -> None:
    container = Container.load(call.state_root, call.id, call.log)
    interval = duration(call.arguments.text("interval"))
    if interval <= 0:
        raise UsageError("--interval", "", "duration interval must be greater than 0")
    if call.arguments.on("stats"):
        return say(dumps(events.stats(container)))
    for event in events.events(container, interval):
        say(dumps(event))


def duration(text: str) -> float:
    """Seconds, of a duration as Go writes it: 1h2m3.5s."""
    total, rest = 0.0, text.lstrip("+")
    if rest == "0":
        return 0.0
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        if unit not in UNITS or not digits.replace(".", "", 1).isdecimal():
            raise UsageError("--interval", f'"{text}"', "is no duration", "such as 5s, 100ms or 1m30s")
        total += float(digits) * UNITS[unit]
    if total > LONGEST:
        raise UsageError("--interval", f'"{text:.40}"', "is more than a program waits")
    return total

"""Show where the milliseconds of a container's life go.

    python benchmarks/phases.py --runtime pyrunc

With the Python that pyrunc is installed for. First what it costs to get as far as a verb: an interpreter that does
nothing, and `pyrunc state`. Then, in one process through the library, the verbs, the parts of `create`, and the steps
of the runtime and of the container's process, from the longest on. Medians, in milliseconds. For root.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

try:
    from pyrunc import cgroups
    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.container import launch
    from pyrunc.container.container import Container
    from pyrunc.container.state import StateRoot
    from pyrunc.linux import process
    from pyrunc.log import Log
    from pyrunc.spec import load
except ImportError:
    sys.exit("pyrunc is not installed for this Python: use that of its virtual environment")

Times = dict[str, list[float]]

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("read and check config.json", load, "config"),
    ("find the cgroup's place", cgroups, "place"),
    ("make the cgroup", Cgroup, "make"),
    ("set its limits", Cgroup, "limit"),
    ("clone3", process, "clone3"),
    ("lead the child to ready", launch.Launch, "_lead"),
)


class StepTimes(Log):
    """A log that keeps what --debug says of each step."""

    def __init__(self, times: Times) -> None:
        super().__init__(debug=True)
        self.times = times

    def debug(self, text: str) -> None:
        name, _, duration = text.partition(": ")
        number, _, unit = duration.partition(" ")
        if name.startswith("step ") and unit == "µs":
            self.times.setdefault(name, []).append(int(number) / 1000)


def timed(times: Times, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments, **keywords)
        times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        return result

    return wrapper


def show(title: str, times: Times, most: int = 100) -> None:
    print(f"\n{title}")
    for name, values in list(times.items())[:most]:
        print(f"  {name:36}{statistics.median(values):7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="pyrunc", help="the command (default: pyrunc)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="take this configuration")
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="how often each (default: 50)")
    options = parser.parse_args()
    program = shutil.which(options.runtime) or sys.exit(f"{options.runtime}: no such program")

    start: Times = {}
    verbs: Times = {}
    parts: Times = {}
    steps: Times = {}
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-state-", dir="/run") as state,
        common.Bundles(options.config) as bundles,
    ):
        bundle = bundles.make("once", "/bin/true")
        root = StateRoot(state)

        def life(log: Log | None = None) -> None:
            container = timed(verbs, "create", Container.create)(root, "once", str(bundle), None, log)
            timed(verbs, "start", container.start)()
            timed(verbs, "wait", container.wait)()
            timed(verbs, "delete", Container.delete)(root, "once")

        life()
        verbs.clear()
        container = Container.create(root, "waiting", str(bundles.make("waiting", "/bin/true")))
        bare = [str(Path(sys.executable).resolve()), "-ISB", "-Xutf8", "-c", "import posix; posix._exit(0)"]
        for _ in range(options.runs):
            timed(start, "a bare interpreter", common.run)(*bare)
            timed(start, "pyrunc state", common.run)(program, "--root", state, "state", "waiting")
            life()
        Container.delete(root, container.id)
        without_instruments = {name: values[:] for name, values in verbs.items()}
        for name, home, attribute in PARTS:
            setattr(home, attribute, timed(parts, name, getattr(home, attribute)))
        for _ in range(options.runs):
            life()
        for _ in range(options.runs):
            life(StepTimes(steps))

    show("Commands", start)
    show("Verbs, through the library", without_instruments)
    show("Parts of create", parts)
    longest = dict(sorted(steps.items(), key=lambda item: -statistics.median(item[1])))
    show(f"Steps of the runtime and of the container's process, the longest of {len(steps)}", longest, 16)


if __name__ == "__main__":
    main()

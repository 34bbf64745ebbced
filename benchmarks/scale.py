"""Many containers on one host, in pods, alone, and with one shim for all: what the shims of pyrunc and runc's take.

    python benchmarks/scale.py
    python benchmarks/scale.py --full --idle 60

With the Python that pyrunc is installed for. The shims are driven as in shims.py, and take turns. Of each arrangement:
the time from `start` to a container that runs, for the first ten and for the last ten of all; Stats of all containers,
asked for together; the memory of all shims (PSS); and the CPU time of all shims while nothing happens. `--full` is
1,000 containers of each in each arrangement, and takes 10 GB of memory.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from shims import GROUP, SHIMS, Measured, cpu, pss

from engines.shim import Container, Host

ENDS = 10  # how many containers the first and the last are
# which group of containers, each with one shim, the container of a number belongs to
ARRANGEMENTS: dict[str, Callable[[int], int]] = {
    "pods of 10": lambda number: number // 10, "alone": lambda number: number, "one shim": lambda number: 0,
}  # fmt: skip


def begun(host: Host, name: str, id: str, group: str) -> tuple[Container, float]:
    c = Measured(host, id, "/bin/sleep", "100000", annotations={GROUP: group})
    c.name = name
    before = time.perf_counter()
    c.start_shim()
    c.create()
    c.call("Start")
    return c, (time.perf_counter() - before) * 1000


class Many:
    """All containers of one shim in one arrangement."""

    def __init__(self, host: Host, name: str, arrangement: str) -> None:
        self.host = host
        self.name = name
        self.arrangement = arrangement
        self.made: list[Container] = []
        self.times: list[float] = []

    def add(self, number: int) -> None:
        group = f"{self.name}-{ARRANGEMENTS[self.arrangement](number)}"
        id = f"{self.name}-{os.getpid()}-{self.arrangement.replace(' ', '-')}-{number}"  # its cgroup has the name, too
        c, took = begun(self.host, self.name, id, group)
        self.made.append(c)
        self.times.append(took)

    def look(self) -> None:
        """At all that does not take part of another's time."""
        self.shims = {c.call("Connect")["shim_pid"] for c in self.made}
        before = time.perf_counter()
        for c, call in [(c, c.client.send("Stats", id=c.id)) for c in self.made]:
            c.client.receive(call)
        self.stats = (time.perf_counter() - before) * 1000
        self.memory = sum(map(pss, self.shims))
        self.ticks = self.used()

    def used(self) -> int:
        return sum(map(cpu, self.shims))

    def show(self) -> None:
        count = len(self.made)
        first, last = statistics.median(self.times[:ENDS]), statistics.median(self.times[-ENDS:])
        print(
            f"{self.arrangement:11} {self.name:7} {count:5} {len(self.shims):6} {first:9.1f} {last:9.1f}"
            f" {last / first:6.2f} {self.stats:9.1f} {self.memory / 1024:9.1f} {self.memory / count:9.0f}"
            f" {self.used() - self.ticks:9}",
            flush=True,
        )

    def remove(self) -> None:
        for c in reversed(self.made):
            c.remove()


def measure(host: Host, names: list[str], arrangement: str, count: int, idle: float) -> None:
    """The shims in turn, a container each, so that what else the machine does is in all of them."""
    all_of = [Many(host, name, arrangement) for name in names]
    try:
        for number in range(count):
            for many in all_of:
                many.add(number)
        for many in all_of:
            many.look()
        time.sleep(idle)
        for many in all_of:
            many.show()
    finally:
        for many in all_of:
            many.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 containers; else 50")
    parser.add_argument("--count", type=int, metavar="N", help="another number of containers")
    parser.add_argument("--idle", type=float, default=5, metavar="SECONDS", help="of nothing (default: 5)")
    parser.add_argument("--shim", choices=SHIMS, action="append", help="of these alone")
    parser.add_argument("--arrangement", choices=ARRANGEMENTS, action="append", help="these alone")
    asked = parser.parse_args()
    count = asked.count or (1000 if asked.full else 50)
    titles = ("of them", "shims", "first, ms", "last, ms", "ratio", "Stats, ms", "PSS, MB", "kB each", "ticks")
    print(f"{'arrangement':11} {'shim':7} {titles[0]:>5}{titles[1]:>6}{titles[2]:>10}{titles[3]:>10}{titles[4]:>7}"
          f"{titles[5]:>10}{titles[6]:>10}{titles[7]:>10}{titles[8]:>10}")  # fmt: skip
    host = Host()
    try:
        for arrangement in asked.arrangement or ARRANGEMENTS:
            measure(host, asked.shim or [*SHIMS], arrangement, count, asked.idle)
    finally:
        host.close()


if __name__ == "__main__":
    main()

"""Many containers on one host, in pods, alone, and with one shim for all: what the shims of pyrunc and runc's take.

    python benchmarks/scale.py
    python benchmarks/scale.py --full --idle 60

With the Python that pyrunc is installed for. The shims are driven as in shims.py. Of each arrangement: the time from
`start` to a container that runs, for the first ten and for the last ten of all; Stats of all containers, asked for
together; the memory of all shims (PSS); and the CPU time of all shims while nothing happens. `--full` is 1,000
containers in each arrangement, and takes 10 GB of memory for runc's shims alone.
"""

import argparse
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


def measure(host: Host, name: str, arrangement: str, count: int, idle: float) -> None:
    made: list[Container] = []
    times: list[float] = []
    try:
        for number in range(count):
            group = f"{name}-{ARRANGEMENTS[arrangement](number)}"
            c, took = begun(host, name, f"{name}-{arrangement.replace(' ', '-')}-{number}", group)
            made.append(c)
            times.append(took)
        shims = {c.call("Connect")["shim_pid"] for c in made}
        before = time.perf_counter()
        for asked in [(c, c.client.send("Stats", id=c.id)) for c in made]:
            asked[0].client.receive(asked[1])
        stats = (time.perf_counter() - before) * 1000
        memory = sum(map(pss, shims)) / 1024
        ticks = sum(map(cpu, shims))
        time.sleep(idle)
        ticks = sum(map(cpu, shims)) - ticks
        first, last = statistics.median(times[:ENDS]), statistics.median(times[-ENDS:])
        print(
            f"{arrangement:11} {name:7} {count:5} {len(shims):6} {first:9.1f} {last:9.1f} {last / first:6.2f}"
            f" {stats:9.1f} {memory:9.1f} {memory * 1024 / count:9.0f} {ticks:9}",
            flush=True,
        )
    finally:
        for c in reversed(made):
            c.remove()


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
            for name in asked.shim or SHIMS:
                measure(host, name, arrangement, count, asked.idle)
    finally:
        host.close()


if __name__ == "__main__":
    main()

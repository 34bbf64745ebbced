"""Time containers that containerd runs, with pyrunc's shim and with runc's, in turn, on one containerd of its own.

    python benchmarks/containerd.py

With the Python that pyrunc is installed for. Needs containerd and runc, and nothing of theirs that runs: the engine is
in namespaces of its own, as in tests/engines. What `ctr` itself takes is in every line; it is shown last.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engines.containerd import Containerd
from engines.image import NAME
from engines.shim import SHIM

RUNTIMES = {"pyrunc": "io.containerd.pyrunc.v2", "runc": "io.containerd.runc.v2"}
TIMED = """
for i in $(seq {runs}); do
    for runtime in {names}; do
        begin=$(date +%s%N)
        {command} || exit 1
        echo $runtime $(($(date +%s%N) - begin))
    done
done
"""


def timed(engine: Containerd, runs: int, command: str) -> dict[str, list[float]]:
    names = " ".join(RUNTIMES.values())
    done = engine.run("bash", "-c", TIMED.format(runs=runs, names=names, command=command), timeout=30 + runs * 5)
    if done.returncode:
        sys.exit(done.stderr.decode())
    found: dict[str, list[float]] = {}
    for line in done.stdout.decode().splitlines():
        runtime, nanoseconds = line.split()
        found.setdefault(runtime, []).append(int(nanoseconds) / 1e6)
    return found


def show(what: str, found: dict[str, list[float]]) -> None:
    base = statistics.median(found[RUNTIMES["runc"]])
    for name, runtime in RUNTIMES.items():
        middle, least = statistics.median(found[runtime]), min(found[runtime])
        print(f"{what:26} {name:7} median {middle:6.1f} ms  least {least:6.1f} ms  {middle / base:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="rounds (default: 30)")
    runs = parser.parse_args().runs
    with Containerd(SHIM.parent) as engine:
        for runtime in RUNTIMES.values():
            engine.ctr("run", "--rm", "--runtime", runtime, NAME, "warm", "/bin/true")
            engine.ctr("run", "-d", "--runtime", runtime, NAME, runtime, "/bin/sleep", "100000")
        show("run --rm /bin/true", timed(engine, runs, f"ctr run --rm --runtime $runtime {NAME} b$i /bin/true"))
        show("tasks exec /bin/true", timed(engine, runs, "ctr tasks exec --exec-id b$i $runtime /bin/true"))
        show("ctr version", timed(engine, runs, "ctr version >/dev/null"))


if __name__ == "__main__":
    main()

"""Time a container through the library, in one process, beside the same container through commands.

    python benchmarks/library.py --runtime crun --runtime runc

With the Python that pyrunc is installed for. Through the library: create, start, wait for its end, delete, of a
container that runs /bin/true; nothing is started for it but the container itself, as in the shim. Beside it, in turn,
`RUNTIME run` of the same bundle. Everything runs in a mount namespace without the unified hierarchy of hybrid mode,
which crun 1.8 would refuse. For root, on a machine that does nothing else.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import common

try:
    from pyrunc.container.container import Container
    from pyrunc.container.state import StateRoot
except ImportError:
    sys.exit("pyrunc is not installed for this Python: use that of its virtual environment")

WARM_UP = 3
LIBRARY = "pyrunc, library"


def used() -> float:
    """CPU seconds of this process and of all its children that have been waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def through_the_library(root: StateRoot, bundle: Path) -> common.Cost:
    began, cpu = time.perf_counter(), used()
    container = Container.create(root, "once", str(bundle))
    container.start()
    status = container.wait()
    Container.delete(root, "once")
    cost = common.Cost(time.perf_counter() - began, used() - cpu)
    if status:
        sys.exit(f"the container's exit status is {status}")
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", default=[], help="one to compare with; the first is 1")
    parser.add_argument("--config", type=Path, metavar="FILE", help="take this configuration")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="rounds that count (default: 100)")
    common.add_pause(parser)
    options = parser.parse_args()
    common.without_unified_cgroup()

    table = common.Table([*options.runtime, LIBRARY])
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-state-", dir="/run") as state,
        common.Bundles(options.config) as bundles,
    ):
        contestants = [*options.runtime, LIBRARY]
        for round in range(WARM_UP + options.runs):
            turn = round % len(contestants)
            for index, name in [*enumerate(contestants)][turn:] + [*enumerate(contestants)][:turn]:
                bundle = bundles.make(str(index), "/bin/true")
                time.sleep(options.pause)
                if name == LIBRARY:
                    cost = through_the_library(StateRoot(f"{state}/library"), bundle)
                else:
                    program = shutil.which(name) or sys.exit(f"{name}: no such program")
                    cost = common.run(program, "--root", f"{state}/{index}", "run", "--bundle", bundle, "once")
                if round >= WARM_UP:
                    table.add("create, start, delete", name, cost)
    table.show()


if __name__ == "__main__":
    main()

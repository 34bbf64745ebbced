"""Time checkpoint and restore of any number of runtimes with the same CRIU, interleaved.

    python benchmarks/checkpoint.py --runtime runc --runtime dist/pyrunc
    python benchmarks/checkpoint.py --runtime runc --runtime pyrunc --rounds 40

A container of busybox, which sleeps, is written, restored and written again. Each round does that once with every
runtime, in an order that rotates; the first rounds don't count. Wall time is that of the command from spawn to exit.
CRIU's own is that of the last line of its log (its CPU time is not known). CPU time is that of the command and of all
that it was the parent of. CRIU is the one in PATH. For root.
"""

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common

WARM_UP = 2
VERBS = ("checkpoint", "restore")


class Runtime:
    """One runtime with its state root and a container that is written and restored."""

    def __init__(self, name: str, index: int, bundles: common.Bundles, state: Path) -> None:
        program = shutil.which(name)
        if program is None:
            sys.exit(f"{name}: no such program")
        self.name = name
        self.command = [program, "--root", str(state / str(index))]
        self.bundle = bundles.make(f"{index}-saved", "/bin/sleep", "3600")
        self.images, self.work = state / f"{index}-images", state / f"{index}-work"
        null = subprocess.DEVNULL  # a file of ours could not be written
        words = (*self.command, "run", "--detach", "--bundle", str(self.bundle), "saved")
        subprocess.run(words, stdin=null, stdout=null, stderr=null, check=True)

    def once(self, table: "common.Table | None") -> None:
        for verb in VERBS:
            where = () if verb == "checkpoint" else ("--detach", "--bundle", self.bundle)
            folders = ("--image-path", self.images, "--work-path", self.work)
            cost = common.run(*self.command, verb, *folders, *where, "saved")
            if table is not None:
                table.add(verb, self.name, cost)
                table.add(f"{verb}: CRIU", self.name, common.Cost(self.crius(verb), math.nan))
        shutil.rmtree(self.images)
        shutil.rmtree(self.work)

    def crius(self, verb: str) -> float:
        """The time of the last line of its log."""
        log = self.work / ("dump.log" if verb == "checkpoint" else "restore.log")
        line = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        return float(line[1 : line.index(")")])

    def end(self) -> None:
        common.run(*self.command, "delete", "--force", "saved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", required=True, help="program; may be given several times")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    table = common.Table(arguments.runtime)
    with common.Bundles() as bundles, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        runtimes = [Runtime(name, index, bundles, Path(folder)) for index, name in enumerate(arguments.runtime)]
        try:
            for number in range(arguments.rounds + WARM_UP):
                for index in range(len(runtimes)):
                    runtimes[(number + index) % len(runtimes)].once(table if number >= WARM_UP else None)
        finally:
            for runtime in runtimes:
                runtime.end()
    table.show()


if __name__ == "__main__":
    main()

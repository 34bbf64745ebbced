"""Where the CPU time of a shim's `start` goes, until it can make a container: in milliseconds, the least of all rounds.

    python benchmarks/shim_start.py

With the Python that pyrunc is installed for; it does what the launcher has the interpreter do. For root.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pyrunc

HOME = Path(pyrunc.__file__).parents[1]
CODE = """
import time
times = [("the interpreter", time.thread_time_ns())]
def mark(what): times.append((what, time.thread_time_ns()))
import marshal, posix, sys
out = posix.dup(1)
home = sys.argv[1]
sys.path.append(home)
archive = posix.open(home + "/pyrunc/modules.marshal", posix.O_RDONLY | posix.O_CLOEXEC)
exec(marshal.loads(posix.read(archive, int.from_bytes(posix.read(archive, 4), "little"))))
mark("the archive's finder")
from pyrunc.shim import main, start
mark("modules of start")
def let_go(ready): mark("start, to its answer")
start._let_go = let_go
from pyrunc.shim import loop
def run(self):
    mark("the shim's modules, and what it sets up")
    posix.write(out, "".join(f"\\n{what}\\t{at}" for what, at in times).encode())
    posix._exit(0)
loop.Loop.run = run
sys.exit(main.main(["-namespace", "b", "-id", "x", "-publish-binary", "/bin/false", "-ready", "-1", "start"]))
"""


def measured(folder: str) -> list[tuple[str, float]]:
    words = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && "$@" || exit 1', "sh"]
    words += [sys._base_executable, "-ISB", "-Xutf8", "-c", CODE, str(HOME)]  # type: ignore[attr-defined]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder, check=True)
    found, before = [], 0
    for line in done.stdout.splitlines()[1:]:
        what, at = line.split("\t")
        found.append((what, (int(at) - before) / 1e6))
        before = int(at)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, metavar="N", help="rounds (default: 40)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text("{}")
        rounds = [measured(folder) for _ in range(runs)]
    for each in zip(*rounds, strict=True):
        print(f"{each[0][0]:40} {min(took for _, took in each):6.2f}")


if __name__ == "__main__":
    main()

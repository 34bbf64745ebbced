"""Time what a seccomp profile costs: compiled by libseccomp, and taken from the cache.

    python benchmarks/seccomp.py --config FILE

With the Python that pyrunc is installed for. FILE is any config.json with linux.seccomp, such as Docker's. Compiling
includes loading libseccomp's binding once, as it does for a `create` that finds no cached filter.
"""

import argparse
import json
import posix
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

try:
    from pyrunc.linux.fd import open_at
    from pyrunc.seccomp import cache
except ImportError:
    sys.exit("pyrunc is not installed for this Python: use that of its virtual environment")


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a config.json with linux.seccomp")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="how often each (default: 100)")
    options = parser.parse_args()
    profile = json.loads(options.config.read_text()).get("linux", {}).get("seccomp")
    if not profile:
        parser.error(f"{options.config} has no linux.seccomp")

    misses, hits = [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for number in range(options.runs):
            Path(folder, str(number)).mkdir(mode=0o700)
            with open_at(None, f"{folder}/{number}", posix.O_RDONLY | posix.O_DIRECTORY) as root:
                misses.append(milliseconds(lambda: cache.program(profile, root)))
                hits.append(milliseconds(lambda: cache.program(profile, root)))
                size = len(cache.program(profile, root)[0])
    rules = sum(len(rule["names"]) for rule in profile.get("syscalls", []))
    print(f"{rules} names of system calls; the program has {size} bytes. Milliseconds:")
    print(f"compiled, first time, with imports  {misses[0]:8.2f}")
    print(f"compiled, median of {options.runs:<16}{statistics.median(misses):8.2f}")
    print(f"cached, median of {options.runs:<18}{statistics.median(hits):8.2f}")


if __name__ == "__main__":
    main()

"""Time how a process gets into cgroups of v1: moved by another, moving itself, and moving its one thread.

For all controllers one after the other, as a runtime does it. The first two write to cgroup.procs, for which the kernel
takes a lock of all processes, whose writers wait for an RCU grace period; the third writes 0 to `tasks`, and since
Linux 5.5 a single thread that moves itself needs no lock. Only the first write after a while waits, so each is given
a while. For root, where the host has cgroup v1.
"""

import argparse
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
RUNS = 30
PAUSE = 0.15


def make() -> list[Path]:
    """A cgroup in each hierarchy of v1."""
    made = []
    for hierarchy in sorted({path.parent.resolve() for path in ROOT.glob("*/release_agent")}):
        folder = hierarchy / f"benchmark-{os.getpid()}"
        folder.mkdir()
        made.append(folder)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / name).exists():
                (folder / name).write_text((hierarchy / name).read_text())
    return made


def enter(folders: list[Path], file: str, who: int) -> float:
    began = time.perf_counter()
    for folder in folders:
        (folder / file).write_text(str(who))
    return (time.perf_counter() - began) * 1000


def moved_by_another(folders: list[Path]) -> float:
    child = os.fork()
    if not child:
        signal.pause()
    took = enter(folders, "cgroup.procs", child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return took


def moving_itself(folders: list[Path], file: str) -> float:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(enter(folders, file, 0)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return float(pipe.read())


WAYS: dict[str, Callable[[list[Path]], float]] = {
    "moved by another: PID to cgroup.procs": moved_by_another,
    "moving itself: 0 to cgroup.procs": lambda folders: moving_itself(folders, "cgroup.procs"),
    "moving its thread: 0 to tasks": lambda folders: moving_itself(folders, "tasks"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not (ROOT / "pids/release_agent").exists():
        parser.error(f"no cgroup v1 in {ROOT}")
    folders = make()
    try:
        print(f"{len(folders)} hierarchies; milliseconds for all{'':8}median     min     max")
        for name, way in WAYS.items():
            times = []
            for _ in range(RUNS):
                time.sleep(PAUSE)
                times.append(way(folders))
            print(f"{name:40}{statistics.median(times):8.2f}{min(times):8.2f}{max(times):8.2f}")
    finally:
        time.sleep(PAUSE)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


if __name__ == "__main__":
    main()

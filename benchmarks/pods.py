"""Time the containers of a pod through CRI, with pyrunc's shim and with runc's, in turn, on one containerd of its own.

    python benchmarks/pods.py

With the Python that pyrunc is installed for. Needs containerd, runc and grpcio; PYRUNC_CONTAINERD names the folder of
another containerd than the installed one. Each time is that of a container from CreateContainer until it is removed,
in a pod that is there; then that of a whole pod with one container.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engines import containerd, image
from engines.cri import EXITED, Pod
from engines.shim import SHIM

HANDLERS = ("pyrunc", "runc")
PARENT = "/pyrunc-benchmark"


def container(pod: Pod, name: str) -> None:
    id = pod.add(name, "/bin/true")
    pod.status(id, EXITED)
    pod.remove(id)


def whole(engine: containerd.Containerd, handler: str, number: int) -> None:
    with Pod(engine.socket, str(engine.folder), PARENT, handler, name=f"w{number}") as pod:
        container(pod, "only")


def show(what: str, found: dict[str, list[float]]) -> None:
    base = statistics.median(found["runc"])
    for handler, times in found.items():
        middle = statistics.median(times)
        print(f"{what:22} {handler:7} median {middle:6.1f} ms  least {min(times):6.1f} ms  {middle / base:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="rounds (default: 30)")
    runs = parser.parse_args().runs
    more: dict[str, list[float]] = {handler: [] for handler in HANDLERS}
    pods: dict[str, list[float]] = {handler: [] for handler in HANDLERS}
    with containerd.Containerd(SHIM.parent, cri=True) as engine:
        for name, command in ((image.NAME, ("/bin/sh",)), (image.PAUSE, ("/bin/sleep", "100000"))):
            engine.ctr("-n", "k8s.io", "images", "import", image.make(engine.folder / "cri.tar", name, command))
        there = {handler: Pod(engine.socket, str(engine.folder), PARENT, handler) for handler in HANDLERS}
        try:
            for number in range(runs):
                for handler, pod in there.items():
                    began = time.perf_counter()
                    container(pod, f"c{number}")
                    more[handler].append((time.perf_counter() - began) * 1000)
            for number in range(max(1, runs // 3)):
                for handler in HANDLERS:
                    began = time.perf_counter()
                    whole(engine, handler, number)
                    pods[handler].append((time.perf_counter() - began) * 1000)
        finally:
            for pod in there.values():
                pod.__exit__()
    show("another container", more)
    show("a pod of one container", pods)


if __name__ == "__main__":
    main()

"""Time the calls of a shim without containerd and its client: pyrunc's shim and runc's, in turn, each call alone.

    python benchmarks/shims.py
    python benchmarks/shims.py --cpu    # CPU time and page faults of each call: a busy machine changes them little

With the Python that pyrunc is installed for. Needs containerd's package for runc's shim, and runc. What containerd
does is done by hand, as in tests/engines: its two commands, and its calls over ttrpc.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from engines.shim import SHIM, Container, Host
from pyrunc.linux.fd import Fd
from pyrunc.linux.process import setns
from pyrunc.shim.service import NAMES

SHIMS = {"pyrunc": str(SHIM), "runc": shutil.which("containerd-shim-runc-v2") or ""}
CLONE_NEWNS = 0x20000
TRUE = json.dumps({"cwd": "/", "args": ["/bin/true"], "env": ["PATH=/bin"]}).encode()
POD = "io.kubernetes.cri.sandbox-id"
GROUP = "io.containerd.runc.v2.group"
IDLE_SECONDS = 60
AT_A_TIME = 8  # containers, for --cpu
SETTLED_SECONDS = 0.4  # until perf counts, and until all that is to be counted is over


class Times:
    """Milliseconds: what was measured, of which shim."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[float]]] = {}

    def add(self, what: str, name: str, milliseconds: float) -> None:
        self.found.setdefault(what, {}).setdefault(name, []).append(milliseconds)

    def measure(self, what: str, name: str, action: "Callable[..., object]", *arguments: object) -> None:
        began = time.perf_counter()
        action(*arguments)
        self.add(what, name, (time.perf_counter() - began) * 1000)

    def show(self) -> None:
        for what, each in self.found.items():
            base = statistics.median(each["runc"])
            for name, values in each.items():
                middle = statistics.median(values)
                ratio = f"{middle / base:5.2f}"
                print(f"{what:38} {name:7} median {middle:7.2f}  least {min(values):7.2f}  {ratio}")


class Measured(Container):
    """A container whose commands are measured: their wall time, and their own CPU time."""

    times: Times | None = None
    name = ""

    def command(self, verb: str, **_: object) -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "TTRPC_ADDRESS": self.host.address, "GOMAXPROCS": "2"}
        words = [SHIMS[self.name], "-namespace", "tests", "-address", "/run/none", "-publish-binary", "/bin/false"]
        words += ["-id", self.id, *(["-bundle", str(self.bundle)] if verb == "delete" else []), verb]
        read, write = os.pipe()
        began = time.perf_counter()
        pid = os.fork()
        if not pid:
            self._become(words, environment, write)
        os.close(write)
        said = b""
        while data := os.read(read, 4096):  # containerd waits for its end, too
            said += data
        os.close(read)
        _, status, used = os.wait4(pid, 0)
        if self.times is not None and status == 0:
            self.times.add(f"{verb}, wall", self.name, (time.perf_counter() - began) * 1000)
            self.times.add(f"{verb}, CPU", self.name, (used.ru_utime + used.ru_stime) * 1000)
        return subprocess.CompletedProcess(words, status, said, b"")

    def start_shim(self, **more: object) -> Container:
        super().start_shim(**more)
        self.client.services = NAMES[:1]  # runc's of containerd 1.6 has no other
        return self

    def _become(self, words: "list[str]", environment: "dict[str, str]", out: int) -> None:
        try:
            with Fd(os.open(f"/proc/{self.host.keeper.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
                setns(namespace, CLONE_NEWNS)
            os.chdir(self.bundle)
            null = os.open("/dev/null", os.O_RDWR)
            for number, fd in enumerate((null, out, out)):
                os.dup2(fd, number)
            os.execve(words[0], words, environment)
        finally:
            os._exit(1)


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def added(c: Container, number: int) -> None:
    c.call("Exec", exec_id=f"e{number}", spec={"type_url": "x", "value": TRUE})
    waiting = c.client.send("Wait", id=c.id, exec_id=f"e{number}")
    c.call("Start", exec_id=f"e{number}")
    assert c.client.receive(waiting)["exit_status"] == 0
    c.call("Delete", exec_id=f"e{number}")


def lone(host: Host, times: Times, name: str, number: int) -> None:
    """From `start` to `delete`."""
    c = Measured(host, f"{name}-{number}", "/bin/true")
    c.name, c.times = name, times
    c.start_shim()
    try:
        times.measure("Create", name, c.create)
        waiting = c.client.send("Wait", id=c.id)
        times.measure("Start", name, lambda: c.call("Start"))
        c.client.receive(waiting)
        times.measure("Delete", name, lambda: c.call("Delete"))
        try:
            c.call("Shutdown")
        except (EOFError, OSError):
            pass  # runc's may have gone before it answers
    finally:
        c.command("delete")
        c.times = None
        c.remove()


def in_pod(host: Host, times: Times, name: str, number: int) -> Container:
    c = Measured(host, f"{name}-pod-{number}", "/bin/sleep", "100000", annotations={POD: f"{name}-pod"})
    c.name = name

    which = "another of a pod" if number else "a pod's first"
    times.measure(f"start: {which}", name, c.start_shim)

    def made() -> None:
        c.create()
        c.call("Start")

    times.measure(f"Create, Start: {which}", name, made)
    return c


def counted(pid: int, work: "Callable[[], object]") -> dict[str, float]:
    """What a shim and the processes that it makes meanwhile use: milliseconds of CPU, page faults."""
    with tempfile.NamedTemporaryFile("r") as out:
        events = "task-clock,page-faults"
        perf = subprocess.Popen(["perf", "stat", "-x,", "-e", events, "-p", str(pid), "-o", out.name])
        time.sleep(SETTLED_SECONDS)
        work()
        time.sleep(SETTLED_SECONDS)
        perf.send_signal(signal.SIGINT)
        perf.wait()
        fields = [line.split(",") for line in out.read().splitlines() if "," in line]
    return {field[2].partition(":")[0]: float(field[0]) for field in fields}


def started(containers: list[Container]) -> None:
    for c in containers:
        waiting = c.client.send("Wait", id=c.id)
        c.call("Start")
        c.client.receive(waiting)


def show_cpu(host: Host, runs: int) -> None:
    """For containers of a pod, after its first; the least of some rounds."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    pods = {name: in_pod(host, Times(), name, 0) for name in SHIMS}
    try:
        for number in range(runs):
            for name, first in pods.items():
                annotations = {POD: f"{name}-pod"}
                some: list[Container] = []
                for index in range(AT_A_TIME):
                    c = Measured(host, f"{name}-cpu-{number}-{index}", "/bin/true", annotations=annotations)
                    c.name = name
                    some.append(c.start_shim())
                base = number * AT_A_TIME
                calls: dict[str, Callable[[], object]] = {
                    "Create": lambda some=some: [c.create() for c in some],
                    "Start, Wait": lambda some=some: started(some),
                    "Delete": lambda some=some: [c.call("Delete") for c in some],
                    "Exec, Start, Wait, Delete": lambda first=first, base=base: [
                        added(first, base + index) for index in range(AT_A_TIME)
                    ],
                }
                pid = first.call("Connect")["shim_pid"]
                for what, work in calls.items():
                    for event, value in counted(pid, work).items():
                        least = found.setdefault((what, event), {})
                        least[name] = min(value / AT_A_TIME, least.get(name, value))
                for c in some:
                    c.address = ""  # the shim stays: it is the pod's
                    c.remove()
        for (what, event), each in found.items():
            ratio = each["pyrunc"] / each["runc"]
            print(f"{what:28} {event:12} pyrunc {each['pyrunc']:8.2f}  runc {each['runc']:8.2f}  {ratio:5.2f}")
    finally:
        for c in pods.values():
            c.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="rounds (default: 30)")
    parser.add_argument("--idle", action="store_true", help=f"and {IDLE_SECONDS} s of idleness at the end")
    parser.add_argument("--cpu", action="store_true", help="CPU time and page faults instead (needs perf)")
    asked = parser.parse_args()
    host = Host()
    if asked.cpu:
        try:
            return show_cpu(host, asked.runs)
        finally:
            host.close()
    times = Times()
    pods: dict[str, list[Container]] = {name: [] for name in SHIMS}
    try:
        for number in range(asked.runs):
            for name in SHIMS:
                lone(host, times, name, number)
        memory: dict[str, list[int]] = {name: [] for name in SHIMS}
        for number in range(11):
            for name in SHIMS:
                pods[name].append(in_pod(host, times, name, number))
                memory[name].append(pss(pods[name][0].call("Connect")["shim_pid"]))
        for number in range(asked.runs):
            for name, of_pod in pods.items():
                times.measure("Exec, Start, Wait, Delete: /bin/true", name, added, of_pod[0], number)
        times.show()
        for name, found in memory.items():
            each = (found[-1] - found[0]) / (len(found) - 1)
            print(f"{'PSS, kB: with one container; each more':38} {name:7} {found[0]:6}  {each:6.0f}")
        if asked.idle:
            shims = {name: of_pod[0].call("Connect")["shim_pid"] for name, of_pod in pods.items()}
            before = {name: cpu(pid) for name, pid in shims.items()}
            time.sleep(IDLE_SECONDS)
            for name, pid in shims.items():
                print(f"{'ticks of CPU, idle for a minute':38} {name:7} {cpu(pid) - before[name]:6}")
    finally:
        for of_pod in pods.values():
            for c in reversed(of_pod):
                c.remove()
        host.close()


if __name__ == "__main__":
    main()

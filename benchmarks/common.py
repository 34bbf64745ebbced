"""What the benchmarks share: a bundle to run, a command timed to its end, and numbers made into a table."""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

Config = dict[str, Any]

TIMEOUT = 30  # seconds for one command
PR_SET_CHILD_SUBREAPER = 36
APPLETS = ("cat", "ls", "sh", "sleep", "true")
BIN = ("/bin/busybox", "/usr/bin/busybox")

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
CONFIG: Config = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "env": ["PATH=/bin:/usr/bin", "TERM=xterm"],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "benchmark",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}  # fmt: skip
"""What `runc spec` writes, but for the terminal: the default bundle."""


class Bundles:
    """Bundles that share one root file system, in a folder that is removed at the end.

    Args:
        config: a config.json to make them from, such as an engine wrote.
        bundle: a bundle to take configuration and root file system from.
        rootfs: a root file system in place of busybox.
    """

    def __init__(self, config: Path | None = None, bundle: Path | None = None, rootfs: Path | None = None) -> None:
        if bundle:
            config = bundle / "config.json"
        self.config: Config = json.loads(config.read_text()) if config else CONFIG
        self.folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
        root = self.config["root"]["path"]
        self.rootfs = rootfs or (bundle / root if bundle else self._make_rootfs())

    def __enter__(self) -> "Bundles":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_rootfs(self) -> Path:
        busybox = next((path for path in BIN if Path(path).exists()), None)
        if busybox is None:
            sys.exit("the benchmarks need busybox-static, or a --bundle")
        rootfs = self.folder / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(busybox, rootfs / "bin/busybox")
        for applet in APPLETS:
            (rootfs / "bin" / applet).symlink_to("busybox")
        return rootfs

    def make(self, name: str, *arguments: str) -> Path:
        """A bundle that runs something; with a cgroup of its own, and nothing of the host that is not there."""
        config: Config = json.loads(json.dumps(self.config))
        config["root"]["path"] = str(self.rootfs.resolve())
        config["process"] |= {"args": list(arguments), "terminal": False}
        config["process"].pop("apparmorProfile", None)
        config["process"].pop("selinuxLabel", None)
        config.pop("hooks", None)  # an engine's set up its network
        linux = config["linux"]
        linux["cgroupsPath"] = f"/benchmark-{os.getpid()}-{name}"
        for namespace in linux["namespaces"]:
            namespace.pop("path", None)
        for number, mount in enumerate(config.get("mounts", [])):
            if mount.get("type") == "bind" or {"bind", "rbind"} & {*mount.get("options", [])}:
                mount["source"] = str(self._source(mount, number))
        bundle = self.folder / name
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def _source(self, mount: Config, number: int) -> Path:
        """That of a bind mount, or something in its place: a file where one would be, else a folder."""
        source = Path(mount["source"])
        if source.exists():
            return source
        substitute = self.folder / f"source-{number}"
        if Path(mount["destination"]).parent == Path("/etc"):
            substitute.touch()
        else:
            substitute.mkdir(exist_ok=True)
        return substitute


class Cost:
    """What something took, in seconds: of the clock, and of the CPU for the command and all its children."""

    def __init__(self, wall: float, cpu: float) -> None:
        self.wall = wall
        self.cpu = cpu

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


def run(*command: str | Path) -> Cost:
    """Run a command to its end, silent. What it says is only wanted when it fails."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as output:
        streams = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)]
        null = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
        began = time.perf_counter()
        pid = os.posix_spawnp(words[0], words, os.environ, file_actions=[null, *streams])
        with _time_limit(pid):
            _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - began
        if status:
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
            sys.exit(f"{' '.join(words)}: exit status {os.waitstatus_to_exitcode(status)}\n{said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def bury(pid: int) -> Cost:
    """Wait for a container's process, which has become our child: see be_subreaper."""
    began = time.perf_counter()
    with _time_limit(pid):
        _, _, usage = os.wait4(pid, 0)
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


@contextlib.contextmanager
def _time_limit(pid: int) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> NoReturn:
        os.kill(pid, signal.SIGKILL)
        raise TimeoutError(f"process {pid} took more than {TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def add_pause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pause",
        type=float,
        default=0,
        metavar="SECONDS",
        help="before each measurement (default: 0): then caches are cold, as for a command called now and then, "
        "and none profits from what the kernel did for the last (the lock of cgroups is free for a while, once taken)",
    )


def be_subreaper() -> None:
    """The parent of containers whose runtime has gone: their ends are seen at once, and their CPU time counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def without_unified_cgroup() -> None:
    """Once more from the start, in a mount namespace without cgroup v2: crun 1.8 refuses hybrid mode."""
    if os.environ.get("BENCHMARK_ISOLATED") or not Path("/sys/fs/cgroup/unified").is_mount():
        return
    script = 'umount /sys/fs/cgroup/unified && exec "$@"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, *sys.argv]
    os.execvpe(words[0], words, os.environ | {"BENCHMARK_ISOLATED": "1"})


class Table:
    """Costs by what was done and by whom; printed as medians, with the ratio to the first of each group."""

    def __init__(self, contestants: list[str]) -> None:
        self.contestants = contestants
        self.costs: dict[str, dict[str, list[Cost]]] = {}

    def add(self, what: str, who: str, cost: Cost) -> None:
        self.costs.setdefault(what, {name: [] for name in self.contestants})[who].append(cost)

    def show(self) -> None:
        print("Milliseconds: wall (median, min, 90th percentile) and CPU (median); ratios of medians to the first.\n")
        width = max(len(name) for name in self.contestants)
        print(f"{'':24}  {'':{width}}  {'wall':>7} {'min':>7} {'p90':>7} {'CPU':>7}  {'wall':>6} {'CPU':>6}")
        for what, group in self.costs.items():
            first: tuple[float, float] | None = None
            for who, costs in group.items():
                if not costs:
                    continue  # crun has no such verb
                walls = sorted(cost.wall * 1000 for cost in costs)
                wall, cpu = statistics.median(walls), statistics.median(cost.cpu * 1000 for cost in costs)
                first = first or (wall, cpu)
                numbers = f"{wall:7.2f} {walls[0]:7.2f} {walls[int(len(walls) * 0.9)]:7.2f} {cpu:7.2f}"
                print(f"{what:24}  {who:{width}}  {numbers}  {wall / first[0]:6.2f} {cpu / first[1]:6.2f}")
                what = ""

"""Time /usr/bin/true where nobody trusts it: by pyrunc.run and from a pool, beside bwrap and the commands of engines.

    python benchmarks/sandbox.py [--docker IMAGE] [--podman IMAGE]

With the Python that pyrunc is installed for. Interleaved. The same for all, as far as they have it: the host's /usr,
read-only, a fresh /tmp, no network, memory and processes limited, a seccomp profile. bwrap has no limits and no
profile here; docker and podman take an image that is there, and their own profile. The pool's container is made before
the clock runs. nsjail is timed where it is installed. What there is not is left out, and said.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common

try:
    import pyrunc
except ImportError:
    sys.exit("pyrunc is not installed for this Python: use that of its virtual environment")

WARM_UP = 3
LINKS = [name for name in ("bin", "lib", "lib64", "sbin") if Path(f"/{name}").is_symlink()]
BWRAP = [
    "bwrap", "--ro-bind", "/usr", "/usr",
    *(word for name in LINKS for word in ("--symlink", f"usr/{name}", f"/{name}")),
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--unshare-all", "--die-with-parent", "true",
]  # fmt: skip
NSJAIL = [
    "nsjail", "-Mo", "-q", "-R", "/usr", *(word for name in LINKS for word in ("-s", f"usr/{name}:/{name}")),
    "-T", "/tmp", "--cgroup_mem_max", "536870912", "--cgroup_pids_max", "256", "--", "/usr/bin/true",
]  # fmt: skip
LIMITS = ["--rm", "--network", "none", "--memory", "512m", "--pids-limit", "256", "--read-only"]

Action = Callable[[], None]


def command(*words: str) -> Action:
    def action() -> None:
        common.run(*words)

    return action


def run() -> None:
    pyrunc.run(["true"], check=True)


def of_runc(folder: Path) -> Action:
    """The configuration of `run`, with the root file system that it has."""
    document = pyrunc.sandbox(["true"]).document
    (folder / "rootfs").mkdir(parents=True)
    for mount in document["mounts"]:
        place = folder / "rootfs" / mount["destination"][1:]
        if Path(mount["source"]).is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    for name in LINKS:
        (folder / "rootfs" / name).symlink_to(f"usr/{name}")
    document["linux"]["cgroupsPath"] = "/benchmark-sandbox"
    (folder / "config.json").write_text(json.dumps(document))
    return command("runc", "run", "--bundle", str(folder), "benchmark-sandbox")


def contestants(options: argparse.Namespace, folder: Path) -> dict[str, Action]:
    found: dict[str, Action] = {"pyrunc.run": run, "bwrap": command(*BWRAP), "nsjail": command(*NSJAIL)}
    found["runc run"] = of_runc(folder)
    if options.docker:
        found["docker run"] = command("docker", "run", *LIMITS, options.docker, "true")
    if options.podman:  # by the same runtime, and not crun
        found["podman run"] = command(
            "podman",
            "--runtime",
            "runc",
            "run",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=256:256",
            *LIMITS,
            options.podman,
            "true",
        )
    for name in [*found]:
        program = name.split()[0]
        if program != "pyrunc.run" and not shutil.which(program):
            print(f"{program} is not installed")
            del found[name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="rounds that count (default: 50)")
    parser.add_argument("--docker", metavar="IMAGE", help="time docker run, too, with this image")
    parser.add_argument("--podman", metavar="IMAGE", help="time podman run, too, with this image")
    options = parser.parse_args()
    common.without_unified_cgroup()
    times: dict[str, list[float]] = {}
    with common.Bundles() as bundles, pyrunc.Pool(["true"], 2) as pool:
        actions = {
            **contestants(options, bundles.folder / "runc"),
            "pyrunc.Pool": lambda: pool.run(check=True) and None,
        }
        for round in range(WARM_UP + options.runs):
            turn = round % len(actions)
            for name, action in [*actions.items()][turn:] + [*actions.items()][:turn]:
                pool.ready()
                began = time.perf_counter()
                action()
                if round >= WARM_UP:
                    times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    base = statistics.median(times["pyrunc.run"])
    print("| | median ms | least | of pyrunc.run |\n|--|--|--|--|")
    for name, each in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(each)
        print(f"| {name} | {median:.1f} | {min(each):.1f} | {median / base:.2f} |")
    subprocess.run(["uptime"], check=False)


if __name__ == "__main__":
    main()

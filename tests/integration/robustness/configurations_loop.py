"""Run beside a test: generated configurations, one after the other, in one process. See configurations.py.

Usage: python configurations_loop.py STATE-ROOT BUNDLE MARK FIRST-LAST. Prints a line of JSON for each of these seeds:
what became of it, the error, what it left.
"""

import gc
import glob
import json
import os
import signal
import sys
from pathlib import Path

from integration.robustness import configurations
from pyrunc.container.container import Container
from pyrunc.container.options import Options
from pyrunc.container.state import StateRoot
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd

SECONDS = 10


class Hang(BaseException):
    pass


def hang(*_: object) -> None:
    raise Hang


def main(root: str, bundle: str, mark: str, seeds: str) -> None:
    first, _, last = seeds.partition("-")
    signal.signal(signal.SIGALRM, hang)
    state_root = StateRoot(root)
    before = remains(root, mark)
    for seed in range(int(first), int(last or first) + 1):
        config, changed = configurations.make(seed, mark)
        Path(bundle, "config.json").write_text(json.dumps(config))
        outcome = attempt(state_root, bundle, f"{mark}-{seed}")
        after = remains(root, mark)
        if after["descriptors"] - before["descriptors"]:
            gc.collect()
            after = remains(root, mark)
        left = {what: sorted(found - before[what]) for what, found in after.items() if found - before[what]}
        tidy(left.get("cgroups", []))
        print(json.dumps({"seed": seed, "changed": [".".join(where) for where in changed], **outcome, "left": left}))


def attempt(state_root: StateRoot, bundle: str, name: str) -> dict[str, str]:
    """Create, start, wait, delete; what came of it."""
    signal.alarm(SECONDS)
    terminals: list[Fd] = []
    doing = "create"
    try:
        container = Container.create(state_root, name, bundle, Options(console=terminals.append))
        doing = "start"
        container.start()
        doing = "wait"
        return {"outcome": f"ended {container.wait()}"}
    except (PyruncError, OSError) as error:
        text = reason(error) if isinstance(error, OSError) else str(error)
        return {"outcome": f"{doing} failed", "kind": type(error).__name__, "error": text}
    except Hang:
        return {"outcome": f"{doing} hung", "error": ""}
    except BaseException as error:  # any other is a bug, for the test to tell
        return {"outcome": f"{doing} failed", "kind": type(error).__name__, "error": repr(error)}
    finally:
        signal.alarm(SECONDS)
        try:
            Container.delete(state_root, name, force=True)
        except PyruncError as error:
            if doing == "wait":
                print(error, file=sys.stderr)
        signal.alarm(0)
        for terminal in terminals:
            terminal.close()
        bury()


def bury() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def remains(root: str, mark: str) -> dict[str, set[str]]:
    return {
        "state": {name for name in os.listdir(root) if ":" not in name} if os.path.isdir(root) else set(),
        "mounts": set(Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()),
        "cgroups": {folder for top in ("", "*/") for folder in glob.glob(f"/sys/fs/cgroup/{top}{mark}*")},
        "descriptors": set(os.listdir("/proc/self/fd")),
        "processes": set(Path("/proc/thread-self/children").read_text().split()),
    }


def tidy(cgroups: list[str]) -> None:
    """The folders above a container's cgroup stay, as runc's; the next is judged by itself."""
    for top in cgroups:
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

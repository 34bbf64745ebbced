"""Time the verbs of any number of runtimes on the same bundle, interleaved.

    python benchmarks/verbs.py --runtime runc --runtime pyrunc
    python benchmarks/verbs.py --runtime runc --runtime pyrunc --config /run/…/config.json

Measured are `run` of /bin/true; `create`, `start` and `delete` of the same, each and as a sum; `exec` of /bin/true in
a container that runs; `state`, `pause`, `resume`, `update`, `events --stats` and `ps` of that. Wall time is that of
the command from spawn to exit; CPU time is that of the
command and of all that it was the parent of, the container's first process included. Each round runs everything once
with every runtime, in an order that rotates; the first rounds (caches: files, compiled seccomp filters) don't count.

The bundle is a small one with busybox, and a configuration as `runc spec` writes it. --config takes another one,
such as an engine wrote: its root file system is replaced, sources of bind mounts that do not exist are, hooks are
dropped and the cgroup is one of its own. For root, on a machine that does nothing else.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import common

WARM_UP = 3


class Runtime:
    """One runtime with its state root, its bundles, and a container to exec into.

    Args:
        name: program, by name or path; it is shown as given.
    """

    def __init__(self, name: str, index: int, bundles: common.Bundles, state: Path) -> None:
        program = shutil.which(name)
        if program is None:
            sys.exit(f"{name}: no such program")
        self.name = name
        self.command = [program, "--root", str(state / str(index))]
        self.once = bundles.make(f"{index}-once", "/bin/true")
        self.long = bundles.make(f"{index}-long", "/bin/sleep", "3600")
        self.pid_file = state / f"{index}.pid"
        self.running = 0

    def verb(self, verb: str, *arguments: str | Path) -> common.Cost:
        return common.run(*self.command, verb, *arguments)

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def start_long(self) -> None:
        self.verb("create", "--bundle", self.long, "--pid-file", self.pid_file, "long")
        self.running = self.pid()
        self.verb("start", "long")

    def end_long(self) -> None:
        self.verb("delete", "--force", "long")
        common.bury(self.running)


Costs = dict[str, common.Cost]


def run_true(runtime: Runtime) -> Costs:
    return {"run": runtime.verb("run", "--bundle", runtime.once, "run")}


def create_start_delete(runtime: Runtime) -> Costs:
    create = runtime.verb("create", "--bundle", runtime.once, "--pid-file", runtime.pid_file, "once")
    pid = runtime.pid()
    start = runtime.verb("start", "once")
    create.cpu += common.bury(pid).cpu  # the way to execve is create's work, whoever is charged with it
    delete = runtime.verb("delete", "once")
    return {
        "create + start + delete": create + start + delete,
        "  create": create,
        "  start": start,
        "  delete": delete,
    }


def exec_true(runtime: Runtime) -> Costs:
    return {"exec": runtime.verb("exec", "long", "/bin/true")}


def state(runtime: Runtime) -> Costs:
    return {"state": runtime.verb("state", "long")}


def others(runtime: Runtime) -> Costs:
    """The verbs that change or look at a container that runs."""
    return {
        "pause": runtime.verb("pause", "long"),
        "resume": runtime.verb("resume", "long"),
        "update": runtime.verb("update", "--pids-limit", "100", "--cpu-share", "512", "long"),
        **({} if "crun" in runtime.name else {"events": runtime.verb("events", "--stats", "long")}),
        "ps": runtime.verb("ps", "long"),
    }


MEASURES = {"run": run_true, "create": create_start_delete, "exec": exec_true, "state": state, "others": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", required=True, help="one to measure; the first is compared with")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help="take configuration and root file system of this bundle")
    source.add_argument("--config", type=Path, metavar="FILE", help="take this configuration")
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this, not everything")
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="rounds that count (default: 50)")
    common.add_pause(parser)
    parser.add_argument("--cgroup-v1", action="store_true", help="hide the unified hierarchy of hybrid mode")
    options = parser.parse_args()
    if options.cgroup_v1:
        common.without_unified_cgroup()

    common.be_subreaper()
    table = common.Table(options.runtime)
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-state-", dir="/run") as state,
        common.Bundles(options.config, options.bundle) as bundles,
    ):
        runtimes = [Runtime(name, index, bundles, Path(state)) for index, name in enumerate(options.runtime)]
        started: list[Runtime] = []
        try:
            for runtime in runtimes:
                runtime.start_long()
                started.append(runtime)
            for round in range(WARM_UP + options.runs):
                turn = round % len(runtimes)
                for measure in (MEASURES[name] for name in options.only or MEASURES):
                    for runtime in runtimes[turn:] + runtimes[:turn]:
                        time.sleep(options.pause)
                        for what, cost in measure(runtime).items():
                            if round >= WARM_UP:
                                table.add(what, runtime.name, cost)
        finally:
            for runtime in started:
                runtime.end_long()
    table.show()


if __name__ == "__main__":
    main()

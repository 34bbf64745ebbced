"""Run the validation programs of opencontainers/runtime-tools, and compare with the stored score.

The tree has to be built, as its own README says. A program is clean when it exits with 0,
has no `not ok` line, and hides no error in the YAML below its plan (the programs for hooks report failure only there).
Exit status: 0 when nothing is worse than stored, 1 when something is.
"""

import argparse
import re
import sys
from pathlib import Path

import sandbox
from scores import Entry, Scores

ATTEMPTS = 3  # for a program that is marked as racy in the stored score
TEST_LINE = re.compile(r"(not )?ok\b")
NO_TEST_LINE = re.compile(r"1\.\.\d+|TAP version")
ERROR_IN_YAML = re.compile(r'\s*"?error"?:')


class Result:
    """What one program said.

    Attributes:
        complaints: the lines that keep it from being clean, with what stands below them.
    """

    def __init__(self, outcome: sandbox.Outcome) -> None:
        self.outcome = outcome
        self.ok = self.total = 0
        self.complaints: list[str] = []
        tests: list[list[str]] = [[]]  # each line of a test with what follows it; first what comes before any
        for line in outcome.output.splitlines():
            if TEST_LINE.match(line):
                tests.append([line])
            elif not NO_TEST_LINE.match(line):
                tests[-1].append(line)
        before, *tests = tests
        self.total = len(tests)
        for test in tests:
            if test[0].startswith("not ") and not re.search(r"# *(SKIP|TODO)", test[0], re.IGNORECASE):
                self.complaints += test
            else:
                self.ok += 1
        if any(ERROR_IN_YAML.match(line) for line in before):
            self.complaints += before
        self.stopped = outcome.status == sandbox.TIMEOUT
        if self.stopped:
            self.complaints.append("it took too long, and was stopped")
        elif outcome.status:
            self.complaints.append(f"exit status {outcome.status}")
            self.complaints += outcome.errors.splitlines()[:20]

    @property
    def clean(self) -> bool:
        return not self.complaints

    def entry(self) -> Entry:
        return {"ok": self.ok, "total": self.total, "clean": self.clean}


def compare(result: Result, stored: Entry | None) -> str:
    """worse, better, new, or nothing."""
    if stored is None:
        return "new"
    if result.stopped or (stored["clean"] and not result.clean) or result.ok < stored["ok"]:
        return "worse"
    if (result.clean and not stored["clean"]) or result.ok > stored["ok"]:
        return "better"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="programs to run (default: all)")
    parser.add_argument("--tree", type=Path, required=True, help="a built tree of runtime-tools")
    parser.add_argument("--runtime", default="pyrunc", help="the runtime (default: pyrunc)")
    parser.add_argument("--cgroup", choices=sandbox.CGROUP_MODES, default="host", help="what is seen of cgroups")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one program")
    parser.add_argument("--store", action="store_true", help="make this the stored score; reasons are kept")
    parser.add_argument("--verbose", "-v", action="store_true", help="show all that the programs write")
    options = parser.parse_args()

    tree = options.tree.resolve()
    every = sorted(path.stem for path in tree.glob("validation/*/*.t") if path.stem == path.parent.name)
    names = sandbox.chosen(options.names, every, "program")
    environment = sandbox.environment(RUNTIME=str(sandbox.executable(options.runtime)))
    box = sandbox.Sandbox(options.cgroup, options.timeout)
    stored = Scores("runtime-tools")
    clean = worse = 0

    def run(name: str) -> Result:
        return Result(box.run([f"validation/{name}/{name}.t"], tree, environment))

    print(f"{'program':34}{'ok/total':>9}  {'seconds':>7}  result")
    with sandbox.only_one():
        for name in names:
            before = stored.entries.get(name)
            result = run(name)
            for _ in range(ATTEMPTS - 1 if before and before.get("racy") else 0):
                result = result if result.clean else run(name)
            change = compare(result, before)
            clean += result.clean
            worse += change == "worse"
            told = "clean" if result.clean else "not clean"
            change = change and f", {change.upper() if change == 'worse' else change}"
            counts = f"{result.ok}/{result.total}"
            print(f"{name:34}{counts:>9}  {result.outcome.seconds:7.1f}  {told}{change}", flush=True)
            explain(result, before, options.verbose)
            if options.store:
                kept = {k: v for k, v in (before or {}).items() if k == "racy" or not result.clean}
                stored.entries[name] = kept | result.entry()
    if options.store:
        stored.save()
    print(f"clean: {clean} of {len(names)}" + (f"; worse than stored: {worse}" if worse else ""))
    return 1 if worse else 0


def explain(result: Result, stored: Entry | None, verbose: bool) -> None:
    if verbose:
        print(result.outcome.output, result.outcome.errors, sep="\n")
        return
    for line in result.complaints:
        print(f"    {line}")
    if result.complaints and not result.stopped and stored and "reason" in stored:
        print(f"    = {stored['reason']}: {stored['because']}")


if __name__ == "__main__":
    sys.exit(main())

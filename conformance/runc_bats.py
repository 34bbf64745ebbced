"""Run runc's integration tests (tests/integration/*.bats) against a runtime, and compare with the stored score.

The tree has to be built, with its test helpers and images, as its own README says. bats and jq are needed. Exit status:
0 when every test that fails is one of which the stored score knows it, 1 when another one does.
"""

import argparse
import re
import sys
from pathlib import Path

import sandbox
from scores import Entry, Scores

TESTS = "tests/integration"
TEST_LINE = re.compile(r"(not )?ok \d+ (.*)")
PLAN = re.compile(r"^1\.\.(\d+)", re.MULTILINE)


class Result:
    """What one file's tests gave.

    Attributes:
        failed: the names of the tests that did, each with what it printed.
    """

    def __init__(self, outcome: sandbox.Outcome) -> None:
        self.outcome = outcome
        self.passed = 0
        self.skipped: list[str] = []
        self.failed: dict[str, list[str]] = {}
        printed: list[str] = []
        for line in outcome.output.splitlines():
            match = TEST_LINE.match(line)
            if not match:
                printed.append(line)
                continue
            printed = []
            name, _, skipped = match[2].partition(" # skip")
            if match[1]:
                self.failed[name] = printed
            elif skipped:
                self.skipped.append(name)
            else:
                self.passed += 1
        plan = PLAN.search(outcome.output)
        planned = int(plan[1]) if plan else 0
        if not planned or planned > self.passed + len(self.skipped) + len(self.failed):
            self.failed["(the rest of the file)"] = ["it ended too early", *printed]

    @property
    def counts(self) -> str:
        return f"{self.passed}/{len(self.skipped)}/{len(self.failed)}"

    def entry(self, stored: Entry) -> Entry:
        known = stored.get("failed", {})
        failed = {name: known.get(name, "") for name in self.failed}
        return {"passed": self.passed, "skipped": len(self.skipped), "failed": failed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FILE", help="files, without .bats (default: all)")
    parser.add_argument("--tree", type=Path, required=True, help="a built tree of runc")
    parser.add_argument("--runtime", default="pyrunc", help="the runtime (default: pyrunc)")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only tests whose names match; compares nothing")
    parser.add_argument("--cgroup", choices=sandbox.CGROUP_MODES, default="host", help="what is seen of cgroups")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one file")
    parser.add_argument("--store", action="store_true", help="make this the stored score; reasons are kept")
    parser.add_argument("--verbose", "-v", action="store_true", help="show all that the files write")
    options = parser.parse_args()
    if options.store and options.filter:
        parser.error("--store needs whole files: not with --filter")

    folder = options.tree.resolve() / TESTS
    names = sandbox.chosen(
        [name.removesuffix(".bats") for name in options.names], sorted(p.stem for p in folder.glob("*.bats")), "file"
    )
    environment = sandbox.environment(RUNC=str(sandbox.executable(options.runtime)), TERM="xterm")
    environment.pop("BATS_TEST_TIMEOUT", None)  # bats' watchdog would keep what events.bats waits for
    box = sandbox.Sandbox(options.cgroup, options.timeout)
    stored = Scores("runc-bats")
    totals, worse = [0, 0, 0], 0

    print(f"{'file':28}{'pass/skip/fail':>15}  {'seconds':>7}")
    with sandbox.only_one():
        for name in names:
            arguments = ["--filter", options.filter] if options.filter else []
            result = Result(box.run(["bats", "--tap", *arguments, f"{name}.bats"], folder, environment, terminal=True))
            before = stored.entries.get(name, {})
            known = before.get("failed", {})
            new = [test for test in result.failed if test not in known] if before and not options.filter else []
            gone = [] if options.filter else [test for test in known if test not in result.failed]
            change = f"  WORSE: {len(new)}" if new else f"  better: {len(gone)}" if gone else "" if before else "  new"
            print(f"{name:28}{result.counts:>15}  {result.outcome.seconds:7.1f}{change}", flush=True)
            for test, printed in result.failed.items():
                why = known.get(test)
                print(f"    not ok {test}" + (f"\n      = {why}" if why else ""))
                print(*(f"      {line}" for line in ([] if why else printed)), sep="\n", end="\n" if not why else "")
            if options.verbose:
                print(result.outcome.output)
            counts = (result.passed, len(result.skipped), len(result.failed))
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            worse += len(new)
            stored.entries[name] = result.entry(before)
    if options.store:
        stored.save()
    print("pass/skip/fail: " + "/".join(map(str, totals)) + (f"; new failures: {worse}" if worse else ""))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

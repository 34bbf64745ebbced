"""Configurations that the schema and the rules accept: each starts, or fails with a sentence that names what in it is
wrong, and leaves nothing.

2,000 of them, each from a seed (configurations.py). PYRUNC_SEEDS=FIRST-LAST tries others: that of one that failed, or
many.
"""

import collections
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from integration.robustness import configurations
from integration.support.container import MARK

SEEDS = os.environ.get("PYRUNC_SEEDS", "0-1999")
LOOP = Path(__file__).with_name("configurations_loop.py")
ALONE = ("invalid argument", "bad file descriptor", "invalid cross-device link", "too large", "not permitted")
# What people call a member, where its name is no word.
CALLED = {
    "oomScoreAdj": "OOM score",
    "ioPriority": "I/O priority",
    "memoryPolicy": "memory policy",
    "terminal": "terminal",
    "namespaces": "namespace",
    "sysctl": "kernel parameter",
    "maskedPaths": "masking",
    "readonlyPaths": "read-only",
    "hooks": "hook",
    "user": "user",
    "mounts": "mounting",
    "resources": "cgroup",
}


@pytest.fixture
def image(bundle):
    """An image with a file of each kind, for paths to lead to."""
    made = bundle()
    source = made.path / "source"
    for folder in (source, made.path.parent / "source"):
        folder.mkdir(exist_ok=True)
    made.file("../source/file")
    for name, target in (("link", "/etc"), ("loop", "loop"), ("dangling", "nowhere")):
        (made.rootfs / name).symlink_to(target)
        (source / name).symlink_to(target)
    for folder in (made.rootfs, source):
        os.mkfifo(folder / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
    for folder in made.path.parents:
        if not folder.stat().st_mode & 0o001:  # for users of a user namespace
            folder.chmod(folder.stat().st_mode | 0o011)
    yield made
    subprocess.run(["rm", "-rf", "--one-file-system", made.rootfs], check=True)  # deeper than pytest's own removal goes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_configurations_that_are_valid_start_or_are_explained(runtime, image):
    words = (sys.executable, LOOP, runtime.root, image.path, MARK, SEEDS)
    # What follows a path to "its own" namespace finds the loop's, not the host's.
    done = subprocess.run(
        ("unshare", "-m", "-u", "-n", "-i", *map(str, words)),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=880, cwd="/",
        env={**os.environ, "PYTHONPATH": str(LOOP.parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [result for result in results if fault(result)]
    told = collections.Counter(kind(result) for result in results)
    print(f"seeds {SEEDS}: {dict(told)}")
    text = "\n".join(f"{fault(result)}: PYRUNC_SEEDS={result['seed']}: {result}" for result in wrong[:20])
    assert not wrong, f"{len(wrong)} of {len(results)}\n{text}"
    if len(results) >= 100:
        assert told["refused"] < len(results) / 2, "most of them would tell nothing"
        assert told["started"] > len(results) / 4


def kind(result):
    if result["outcome"].startswith("ended"):
        return "started"
    return "refused" if is_of_the_checker(result) else "failed"


def is_of_the_checker(result):
    return result.get("kind") == "ConfigError" and result["error"].startswith("config.json")


def fault(result):
    """What is wrong with what came of a configuration, or ""."""
    left = {what: names for what, names in result["left"].items() if what != "cgroups"}
    # The folders above a container's cgroup stay, as runc's.
    left_cgroups = [name for name in result["left"].get("cgroups", []) if not name.endswith("-generated")]
    if left or left_cgroups:
        return "something is left"
    if result["outcome"].startswith("ended") or is_of_the_checker(result):
        return ""
    if "hung" in result["outcome"]:
        return "it hung"
    if result["kind"] in ("BaseException", "TypeError", "ValueError", "KeyError", "AssertionError", "IndexError"):
        return "a bug"
    return "" if names_a_member(result) else "nobody could tell what is wrong"


def names_a_member(result):
    """Whether the error has the name of a member, or what stands in it; where the kernel's word for what is invalid is
    the last, what stands in it."""
    config, changed = configurations.make(result["seed"], MARK)
    text = result["error"]
    words = {word for where in changed for word in leaves(value_at(config, where))}
    words |= {word for word in leaves(config) if word.startswith("/")}
    if any(word in text for word in words):
        return True
    if text.startswith("exec: "):  # the program
        return True
    names = [where[-1] for where in changed]
    names += [CALLED[name] for name in names if name in CALLED]
    return not text.lower().endswith(ALONE) and any(name.lower() in text.lower() for name in names)


def value_at(config, where):
    for name in where:
        config = config[name]
    return config


def leaves(value):
    """The words of a configuration that say something."""
    if isinstance(value, dict):
        yield from (name for name in value if "." in name or "/" in name)  # a kernel parameter, a file
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str) and len(value) > 2:
        yield value
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > 9:
        yield str(value)

"""Containers that are made ahead, for runs of a kind that comes often."""

import os
import signal
import time
from pathlib import Path

import pytest

import pyrunc
from integration.support.host import cgroups_of
from pyrunc.library import client, running
from pyrunc.library.sandbox import OF_HOST
from sizes import size


def ahead(state):
    return [each.name for each in Path(state, ":library").glob(":*/ahead/*") if ":" not in each.name]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def often(state):
    """There is one, of the kind of `run` without options."""
    for _ in range(20):
        pyrunc.run(["true"], state_root=state)
        if wait_for(lambda: ahead(state), 1):
            break
    assert ahead(state)
    (found,) = ahead(state)
    return found


def test_a_run_that_comes_often_finds_its_container_made(state, often):
    """Whose program and streams are its own; the next one has another container."""
    cgroup = pyrunc.run(["cat", "/proc/1/cpuset", "/proc/sys/kernel/hostname"], text=True, state_root=state)
    assert cgroup.stdout.endswith("sandbox\n")
    assert often not in ahead(state)
    seen = set()
    for number in range(size(200, 8)):
        if number % 3 == 0:
            assert wait_for(lambda: ahead(state))
        done = pyrunc.run(["sh", "-c", f"cat; echo {number} >&2; echo x >> /tmp/x; cat /tmp/x; exit {number % 7}"],
                          input=f"in {number}\n", text=True, state_root=state)  # fmt: skip
        assert (done.stdout, done.stderr) == (f"in {number}\nx\n", f"{number}\n")
        assert done.returncode == number % 7
        seen.add(done.stdout)
    assert len(seen) == size(200, 8)


def test_it_is_as_one_that_is_made_when_it_is_asked_for(state, often):
    script = (
        "env | sort; pwd; id; ls -l /dev /proc/self/fd | wc -l; cat /proc/self/limits /proc/self/mountinfo;"
        "cat /proc/1/cgroup; grep -v -e Pid -e ctxt -e Vm -e Rss -e Speculation /proc/self/status; umask;"
        "cat /proc/keys; echo /proc/[0-9]*"
    )

    def sees():
        lines = pyrunc.run(["sh", "-c", script], text=True, check=True, state_root=state).stdout.splitlines()
        return [" ".join(line.split()[4:]) if " / / " in line or " - " in line else line for line in lines]

    made = sees()
    assert often not in ahead(state)
    client._at_exit()
    assert sees() == made


def test_what_makes_another_kind():
    """All but the program. What would keep something of the caller's own in use has no kind."""
    kinds = {running.kind_of(pyrunc.sandbox(["true"], **options), ["true"]) for options in OTHERS}
    assert len(kinds) == len(OTHERS)
    assert "" not in kinds
    one = running.kind_of(pyrunc.sandbox(["true"]), ["true"])
    assert one == running.kind_of(pyrunc.sandbox(["other", "words"]), ["other", "words"])
    for words in (["a" * 10_000], ["a\0b"], ["\udcff"]):
        assert running.kind_of(pyrunc.sandbox(["true"]), words) == ""
    for options in ({"mounts": {"/data": "/usr"}}, {"writable": {"/data": "/tmp"}}, {"root": "/usr"}):
        assert running.kind_of(pyrunc.sandbox(["true"], **options), ["true"]) == ""


OTHERS = (
    {}, {"memory": "63m"}, {"pids": 7}, {"cpus": 0.5}, {"env": {"A": "b"}}, {"hostname": "x"}, {"network": True},
    {"user": 5}, {"seccomp": None}, {"tmp": "1m"}, {"cwd": "/"}, {"capabilities": ["CHOWN"]},
)  # fmt: skip


def test_another_kind_of_run_does_not_get_it(state, often):
    assert pyrunc.run(["hostname"], hostname="other", text=True, state_root=state).stdout == "other\n"


def test_a_file_that_was_replaced_makes_it_another_kind(monkeypatch, tmp_path):
    config = pyrunc.sandbox(["true"])
    before = running.kind_of(config, ["true"])
    stat = os.stat
    monkeypatch.setattr(running.os, "stat", lambda path: stat(tmp_path if path == OF_HOST[0] else path))
    assert running.kind_of(config, ["true"]) not in (before, "")


def test_its_mistakes_are_told_as_ever(state, often):
    with pytest.raises(pyrunc.StepError, match=r'^exec: "nothing": executable file not found in \$PATH$'):
        pyrunc.run(["nothing"], state_root=state)
    assert often not in ahead(state)
    assert wait_for(lambda: ahead(state))
    with pytest.raises(pyrunc.TimeoutExpired):
        pyrunc.run(["sleep", "1000"], timeout=0.05, state_root=state)
    assert wait_for(lambda: ahead(state))
    with pytest.raises(pyrunc.OutputLimitExceeded):
        pyrunc.run(["yes"], output_limit=10, state_root=state)


def test_it_goes_when_nobody_comes(state, often):
    assert wait_for(lambda: not ahead(state))
    assert not cgroups_of(often)


def test_it_goes_with_the_worker(state, often):
    client._at_exit()
    assert not cgroups_of(often)


@pytest.mark.parametrize("who", ["runner", "worker", "both"])
def test_it_goes_when_somebody_is_killed(state, often, who):
    worker = client._worker.pid
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    runners = [*map(int, children)]
    if who != "worker":
        for pid in runners:
            os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in runners))
    if who != "runner":
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)

    def runs():
        try:
            return pyrunc.run(["echo", "x"], state_root=state).stdout == b"x\n"
        except pyrunc.WorkerError:  # a runner that the worker has just forked still holds where requests come in
            return False

    assert wait_for(runs)
    if who != "worker":
        client._at_exit()
        pyrunc.run(["true"], state_root=state)
    assert wait_for(lambda: not cgroups_of(often))
    assert often not in ahead(state)

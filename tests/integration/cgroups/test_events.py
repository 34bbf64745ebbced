"""events: statistics as runc prints them, at intervals, and what runs out of memory."""

import contextlib
import json
import os
import shutil

import pytest

from integration.support.host import hierarchies
from integration.support.runtime import Runtime, wait_until
from pyrunc.container.container import Container as Loaded
from pyrunc.container.events import events
from pyrunc.container.state import StateRoot

V1 = "memory" in hierarchies()
HOG = "x=$(tr '\\0' x </dev/zero | head -c 200000000)"  # the shell's own memory


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def members(value, path=""):
    """The paths of all members, in order."""
    if not isinstance(value, dict):
        return []
    return [found for name, inner in value.items() for found in (f"{path}/{name}", *members(inner, f"{path}/{name}"))]


def test_statistics_are_one_line(container):
    made = container().up("sh", "-c", "while :; do :; done")
    wait_until(lambda: stats(made)["cpu"]["usage"]["total"] > 1_000_000, "CPU time")
    (event,) = lines(made.runtime("events", "--stats", made.id).out)
    assert (event["type"], event["id"]) == ("stats", made.id)
    assert event["data"]["pids"]["current"] == 1
    assert event["data"]["memory"]["usage"]["usage"] > 0
    assert event["data"]["network_interfaces"] is None


def stats(made):
    return lines(made.runtime("events", "--stats", made.id).out)[0]["data"]


def test_limits_are_shown(container):
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    found = stats(container(resources=resources).up())
    assert found["memory"]["usage"]["limit"] == 64 << 20
    assert found["pids"]["limit"] == 20


def test_the_document_is_runcs(container, tmp_path):
    """Compare member by member, in order. A member that is zero in one may be missing in the other."""
    runc = Runtime(shutil.which("runc") or "runc", tmp_path / "runc", tmp_path)
    made, other = container().up(), container()
    other.runtime = runc
    try:
        ours, theirs = members(stats(made)), members(stats(other.up()))
    finally:
        other.delete("--force")
    both = [name for name in theirs if name in ours]
    assert both == [name for name in ours if name in theirs]
    for name in ("/cpu/usage/total", "/memory/usage/limit", "/memory/raw", "/pids/current", "/hugetlb", "/intel_rdt"):
        assert name in both


def test_events_come_at_intervals_and_end_with_the_container(container):
    made = container().up()
    running = made.runtime.spawn("events", "--interval", "50ms", made.id)
    wait_until(lambda: len(running.out.splitlines()) >= 3, "three events")
    made.delete("--force")
    assert running.end() == 0
    assert {event["type"] for event in lines(running.out)} == {"stats"}


def test_running_out_of_memory_is_an_event(container):
    made = container(resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}}).up()
    running = made.runtime.spawn("events", "--interval", "50ms", made.id)
    wait_until(lambda: running.out, "a first event")
    assert made.attempt_exec("sh", "-c", HOG).code != 0
    wait_until(lambda: "oom" in [event["type"] for event in lines(running.out)], "the event")
    made.delete("--force")
    assert running.end() == 0


def test_statistics_come_while_something_wakes_it_all_the_time(container):
    """With the library: so the next event is there whenever it looks."""
    if not V1:
        pytest.skip("v2's kernel wakes it once in 10 ms at most")
    made = container().up()
    stream = events(Loaded.load(StateRoot(str(made.runtime.root)), made.id), 0.05)
    before = eventfds()
    assert next(stream)["type"] == "stats"
    (bell,) = eventfds() - before
    for _ in range(100_000):
        os.eventfd_write(bell, 1)
        if next(stream)["type"] == "stats":
            break
    else:
        pytest.fail("no statistics")
    stream.close()


def eventfds():
    """Those of this process."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "eventfd" in os.readlink(f"/proc/self/fd/{fd}"):
                found.add(int(fd))
    return found


@pytest.mark.parametrize("interval", ["0s", "-1s", "x", "5", "1y", ""])
def test_an_interval_that_is_none(container, interval):
    made = container().up()
    result = made.runtime("events", "--interval", interval, made.id, check=False)
    assert result.code == 1
    assert "interval" in result.err


def test_a_stopped_container_has_no_events(container):
    made = container().up("true")
    made.wait_for("stopped")
    for flags in ([], ["--stats"]):
        result = made.runtime("events", *flags, made.id, check=False)
        assert (result.code, f"with id {made.id} is not running" in result.err) == (1, True), result

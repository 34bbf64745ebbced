"""The shim where there is cgroup v2 alone: what it counts, and changes."""

import json
import os

import pytest

from engines.shim import Container, Host, wait_until
from pyrunc.protobuf import decode
from pyrunc.shim import metrics


@pytest.fixture
def running(host):  # at whose end the cgroups are looked at
    unified = Host(unified=True)
    c = Container(unified, f"unified-{os.getpid()}", "/bin/sh", "-c", "while :; do :; done")
    try:
        c.start_shim().create()
        c.call("Start")
        yield c
    finally:
        c.remove()
        unified.close()


def stats(c):
    any = c.call("Stats")["stats"]
    assert any["type_url"] == "io.containerd.cgroups.v2.Metrics"
    return decode(metrics.V2, any["value"])


def test_statistics(running):
    wait_until(lambda: stats(running)["cpu"]["usage_usec"] > 100000)
    found = stats(running)
    assert found["cpu"]["user_usec"] + found["cpu"]["system_usec"] <= found["cpu"]["usage_usec"]
    assert found["pids"]["current"] == 1
    assert len(running.call("Pids")["processes"]) == 1


def test_pause_and_update(running):
    running.call("Pause")
    assert running.call("State")["status"] == 4
    before = stats(running)["cpu"]["usage_usec"]
    assert stats(running)["cpu"]["usage_usec"] == before
    running.call("Resume")
    wait_until(lambda: stats(running)["cpu"]["usage_usec"] > before)
    running.call("Update", resources={"value": json.dumps({}).encode()})
    running.call("Kill", signal=9)
    assert running.call("Wait")["exit_status"] == 137
    running.call("Delete")

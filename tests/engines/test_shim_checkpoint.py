"""The task service's Checkpoint, and Create with one. With CRIU: $PYRUNC_CRIU, or the one in PATH."""

import time

import pytest

from engines import criu
from engines.shim import CONFIG, Failed, wait_until
from pyrunc.protobuf import encode
from pyrunc.shim import messages

COUNT = "i=0; while true; do i=$((i+1)); echo $i > /tmp/n; mv /tmp/n /tmp/count; sleep 0.02; done"


@pytest.fixture
def asked():
    """runc's options, with CRIU's path."""
    if not criu.works():
        pytest.skip("NOT TESTED: checkpoints of the shim: no criu that works here (PYRUNC_CRIU, or in PATH)")
    value = encode(messages.RUNC_OPTIONS, {"criu_path": criu.PROGRAM})
    return {"type_url": "containerd.runc.v1.Options", "value": value}


def options(**values):
    value = encode(messages.CHECKPOINT_OPTIONS, values)
    return {"type_url": messages.CHECKPOINT_OPTIONS_NAME, "value": value}


@pytest.fixture
def counter(container, host, tmp_path):
    """A container that counts in a folder of this test's."""

    def make():
        out = {"destination": "/tmp", "type": "bind", "source": str(tmp_path), "options": ["bind"]}
        return container("/bin/sh", "-c", COUNT, mounts=[*CONFIG["mounts"], out]).start_shim()

    return make


@pytest.fixture
def count(tmp_path):
    return lambda: int((tmp_path / "count").read_text()) if (tmp_path / "count").exists() else 0


@pytest.fixture
def counting(counter, asked, count):
    c = counter()
    c.create(options=asked)
    c.call("Start")
    wait_until(lambda: count() > 1)
    return c


@pytest.fixture
def goes_on(count):
    def look():
        before = count()
        wait_until(lambda: count() > before)

    return look


def test_a_container_runs_on_after_its_checkpoint(counting, goes_on, host):
    c = counting
    c.call("Checkpoint", path=f"{host.folder}/images")
    assert (host.folder / "images/inventory.img").exists()
    goes_on()
    assert c.call("State")["status"] == 2
    assert not (c.bundle / "criu-work").exists()


def test_checkpoint_with_exit_and_create_of_it(counting, counter, count, asked, host):
    c = counting
    c.call("Pause")  # as containerd does
    waiting = c.client.send("Wait", id=c.id)
    c.call("Checkpoint", path=f"{host.folder}/saved", options=options(exit=True))
    assert c.client.receive(waiting)["exit_status"] == 137
    written = count()
    assert c.call("Delete")["exit_status"] == 137
    again = counter()
    again.create(checkpoint=f"{host.folder}/saved", options=asked)
    time.sleep(0.2)
    assert count() == written, "it runs before Start"
    assert again.call("State")["status"] == 1
    again.call("Start")
    assert again.call("State")["status"] == 2
    wait_until(lambda: count() > written)
    assert host.topics(again.id)[:2] == ["create", "start"]
    again.call("Kill", signal=9)
    again.call("Wait")
    assert again.call("Delete")["exit_status"] == 137


def test_one_that_was_not_started_is_deleted(counting, counter, asked, host):
    c = counting
    c.call("Checkpoint", path=f"{host.folder}/third", options=options(exit=True))
    c.call("Wait")
    c.call("Delete")
    again = counter()
    again.create(checkpoint=f"{host.folder}/third", options=asked)
    again.call("Delete")


def test_a_broken_checkpoint_leaves_nothing(container, asked, host):
    c = container("/bin/true").start_shim()
    (host.folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(Failed, match="it is no checkpoint, or not a whole one"):
        c.create(checkpoint=f"{host.folder}/empty", options=asked)
    c.create(options=asked)


def test_a_checkpoint_that_fails_says_why_and_the_container_runs_on(counting, goes_on, container, asked, host):
    c = counting
    with pytest.raises(Failed, match="cgroups-mode"):
        c.call("Checkpoint", path=f"{host.folder}/x", options=options(cgroups_mode="some"))
    with pytest.raises(Failed, match="is not supported"):
        c.call("Checkpoint", path=f"{host.folder}/x", options=options(empty_namespaces=["pid"]))
    goes_on()
    created = container("/bin/true").start_shim()
    created.create(options=asked)
    with pytest.raises(Failed, match="Container cannot be checkpointed in created state"):
        created.call("Checkpoint", path=f"{host.folder}/x")


def test_nobody_waits_for_a_checkpoint(counting, host):
    c = counting
    running = c.client.send("Checkpoint", id=c.id, path=f"{host.folder}/slow")
    began = time.monotonic()
    c.call("State")
    c.call("Stats")
    assert time.monotonic() - began < 5
    c.client.receive(running)

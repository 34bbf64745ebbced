"""A verb that is called off, fails or dies half-way: nothing of it is left, and the rest of the pod runs on."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.neighbours import Pod, created, nothing_is_left
from engines.shim import CGROUPS, PYRUNC, Container, Failed, wait_until


def by_kill(pod: Pod, c: Container) -> None:
    c.call("Kill", signal=9)


def by_death(pod: Pod, c: Container) -> None:
    for pid in pod.children():
        if pid != pod.healthy.call("State")["pid"]:
            os.kill(pid, signal.SIGKILL)


def by_deadline(pod: Pod, c: Container) -> None:
    pass


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (by_kill, "killed meanwhile: .*running createRuntime hook #0"),
        (by_death, "its process was ended by signal 9"),
        (by_deadline, "context deadline exceeded: .*running createRuntime hook #0"),
    ],
)
def test_a_create_that_is_ended_leaves_nothing(pod, host, slow, call, how, words):
    c = pod.other("/bin/sleep", "100", hooks={"createRuntime": [slow.hook]})
    create = call(c, "Create", **created(c, host, timeout=2.0 if how is by_deadline else 0.0))
    slow.has_begun()
    deleted = call(c, "Delete")  # containerd's, which has given up: its turn comes after
    how(pod, c)
    with pytest.raises(Failed, match=words):
        create.answer()
    nothing_is_left(c, host)
    with pytest.raises(Failed, match="not found"):
        deleted.answer()
    wait_until(lambda: pod.children() == [pod.healthy.call("State")["pid"]])
    assert host.topics(c.id) == []
    slow.let_go()
    c.create()
    pod.ends_well()


def test_a_worker_has_nothing_of_the_shims(pod, host, slow, call):
    """Neither its listener nor a connection, nor an end of another container's streams."""
    c = pod.other("/bin/true", hooks={"createRuntime": [slow.hook]})
    create = call(c, "Create", **created(c, host))
    slow.has_begun()
    (worker,) = [pid for pid in pod.children() if pid != pod.healthy.call("State")["pid"]]
    theirs = {os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir()}
    shims = {os.readlink(link) for link in Path(f"/proc/{pod.shim}/fd").iterdir()}
    assert not {link for link in theirs & shims if link.startswith(("socket:", "pipe:"))}
    slow.let_go()
    create.answer()


def test_the_id_of_somebody_elses_container(pod, host):
    """It is why ours can't be made, and runs on."""
    c = pod.other("/bin/true")
    other = host.folder / "other"
    other.mkdir()
    config = json.loads((c.bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sleep", "100"]
    config["linux"]["cgroupsPath"] = f"/{CGROUPS}/other-{c.id}"
    config["root"] = {"path": str(host.rootfs)}
    (other / "config.json").write_text(json.dumps(config))
    command = [PYRUNC, "--root", "/run/containerd/pyrunc/tests"]
    none = subprocess.DEVNULL
    assert not host.run(*command, "run", "-d", "-b", other, c.id, stdin=none, stdout=none, stderr=none).returncode
    with pytest.raises(Failed, match="already exists"):
        c.create()
    assert not c.command("delete").returncode  # containerd, which tidies up
    assert b'"running"' in host.run(*command, "state", c.id, capture_output=True).stdout
    assert not host.run(*command, "delete", "--force", c.id).returncode
    c.create()
    pod.ends_well()


@contextlib.contextmanager
def few_descriptors(pod: Pod, more: int) -> Iterator[None]:
    """The shim gets only some more than it has."""
    soft, hard = resource.prlimit(pod.shim, resource.RLIMIT_NOFILE)
    there = len(os.listdir(f"/proc/{pod.shim}/fd"))
    resource.prlimit(pod.shim, resource.RLIMIT_NOFILE, (there + more, hard))
    try:
        yield
    finally:
        resource.prlimit(pod.shim, resource.RLIMIT_NOFILE, (soft, hard))


def created_once_it_is_undone(c: Container) -> None:
    """On a busy machine what undoes the first Create may be taken for one that hangs: that is answered before."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return c.create()
        except Failed as error:
            assert "already exists" in str(error)
            assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_no_descriptors_are_left(pod, host, more):
    """Each verb is answered. When there are some again, nothing is left of what has failed, and all goes."""

    def attempt(c: Container, verb: str, **values: object) -> None:
        with few_descriptors(pod, more), contextlib.suppress(Failed):
            c.call(verb, **values)

    c = pod.other("/bin/sleep", "100")
    attempt(c, "Create", **created(c, host))
    with contextlib.suppress(Failed):
        c.call("Delete")
    wait_until(lambda: not os.path.exists(f"/proc/{host.keeper.pid}/root/run/containerd/pyrunc/tests/{c.id}"))
    wait_until(lambda: host.run("mountpoint", "-q", c.bundle / "rootfs").returncode)  # which goes after that
    nothing_is_left(c, host)
    created_once_it_is_undone(c)
    attempt(c, "Start")
    pod.runs_on()
    with contextlib.suppress(Failed):  # what did not start has ended
        c.call("Kill", signal=9)
    assert c.call("Wait")["exit_status"] == 137
    attempt(c, "Delete")
    with contextlib.suppress(Failed):
        c.call("Delete")
    nothing_is_left(c, host)
    pod.ends_well()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").is_dir(), reason="cgroup v1's pids")
def test_no_processes_are_left(pod, host, call):
    """A bomb of somebody's has taken them all."""
    c = pod.other("/bin/true").create()
    c.call("Start")
    c.call("Wait")
    new = pod.other("/bin/true")
    cgroup = Path(f"/sys/fs/cgroup/pids/{CGROUPS}/full-{c.id}")
    cgroup.mkdir()
    (cgroup / "cgroup.procs").write_text(str(pod.shim))
    (cgroup / "pids.max").write_text("1")
    with pytest.raises(Failed, match="resource temporarily unavailable"):
        new.create()
    with pytest.raises(Failed, match="resource temporarily unavailable"):
        c.call("Delete")
    (cgroup / "pids.max").write_text("max")
    assert c.call("Delete")["exit_status"] == 0
    wait_until(lambda: host.run("mountpoint", "-q", new.bundle / "rootfs").returncode)
    nothing_is_left(c, host)
    pod.ends_well()
    pod.healthy.kill_shim()
    cgroup.rmdir()


def test_a_container_that_somebody_else_has_deleted(pod, host, container):
    """Delete tells its exit status, and the shim ends."""
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    done = host.run(Path(PYRUNC), "--root", "/run/containerd/pyrunc/tests", "delete", "--force", c.id)
    assert done.returncode == 0
    assert c.call("Wait")["exit_status"] == 137
    assert c.call("Delete")["exit_status"] == 137
    nothing_is_left(c, host)
    c.call("Shutdown")
    wait_until(lambda: not os.path.exists(c.socket))


def test_many_short_processes_at_a_time_are_told_each_and_in_order(pod, host):
    """They end before their start is answered, or after: never before it is told, and never twice."""
    c = pod.other("/bin/sleep", "100").create()
    c.call("Start")
    names = [f"p{number}" for number in range(24)]
    for number, name in enumerate(names):
        spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/sh", "-c", f"exit {number}"], "env": []}).encode()}
        c.call("Exec", exec_id=name, spec=spec)
    waiting = [c.client.send("Wait", id=c.id, exec_id=name) for name in names]
    starts = [c.client.send("Start", id=c.id, exec_id=name) for name in names]
    pids = [c.client.receive(start)["pid"] for start in starts]
    assert [c.client.receive(wait)["exit_status"] for wait in waiting] == [*range(24)]
    wait_until(lambda: host.topics(c.id).count("exit") == 24)
    for number, name in enumerate(names):
        mine = [(topic, event) for topic, event in host.events if name in (event.get("exec_id"), event.get("id"))
                and event["container_id"] == c.id]  # fmt: skip
        assert [topic for topic, _ in mine] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]
        assert [event["pid"] for _, event in mine[1:]] == [pids[number]] * 2
        assert mine[2][1]["exit_status"] == number

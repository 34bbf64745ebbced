"""Pods with the options SystemdCgroup and ShimCgroup, as the documentation has them configured. Where systemd runs."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from engines import containerd, image, shim
from engines.shim import wait_until

pytest.importorskip("grpc", reason="NOT TESTED: grpcio is not installed")
from engines import cri

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="a host that runs systemd"),
]
MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")
SLICE = CGROUPS / "pyrunc.slice/pyrunc-engines.slice"
LIMITS = {
    "memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50000, "cpu_shares": 512,
    "unified": [{"key": "pids.max", "value": "40"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def node():
    if containerd.PROGRAM is None:
        pytest.skip("NOT TESTED: containerd is not installed (Debian: apt-get install containerd)")
    engine = containerd.Containerd(shim.SHIM.parent, cri=True)
    engine.own = "/run/containerd"
    engine.environment["CONTAINERD_NAMESPACE"] = "k8s.io"
    with contextlib.ExitStack() as stack:
        stack.push(engine)
        engine.start(f"mkdir {engine.root}/root")
        tar = image.make(engine.folder / "cri.tar", image.PAUSE, ("/bin/sleep", "100000"))
        engine.ctr("images", "import", tar)
        engine.ctr("images", "tag", image.PAUSE, image.NAME)  # to import another takes four seconds
        yield engine
    subprocess.run(["systemctl", "stop", "pyrunc.slice"], check=True, timeout=30)
    Path(f"{CGROUPS}{containerd.SHIM_CGROUP}").rmdir()


@pytest.fixture(scope="module")
def pod(node):
    """In a slice, as the kubelet's driver `systemd` names it."""
    with cri.Pod(node.socket, str(node.folder), f"/{SLICE.relative_to(CGROUPS)}", "systemd") as pod:
        (pod.shim,) = node.shims()
        yield pod
    assert not node.shims()


@pytest.fixture(scope="module")
def container(pod):
    return pod.add("first", "/bin/sleep", "1000", **LIMITS)


def scope(id):
    return f"cri-containerd-{id}.scope"


def read(id, file):
    return (SLICE / scope(id) / file).read_text().strip()


def show(unit, *names):
    """Properties of a unit, as systemctl shows them."""
    text = subprocess.run(["systemctl", "show", unit], capture_output=True, text=True, check=True, timeout=20).stdout
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    return {name: found.get(name) for name in names}


def descriptors(pid):
    return sorted(re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{fd}")) for fd in os.listdir(f"/proc/{pid}/fd"))


def test_a_container_is_a_scope_with_its_limits(container):
    assert show(scope(container), "Slice", "Delegate", "MemoryMax", "CPUQuotaPerSecUSec", "TasksMax") == {
        "Slice": SLICE.name, "Delegate": "yes", "MemoryMax": f"{64 * MIB}", "CPUQuotaPerSecUSec": "500ms",
        "TasksMax": "40",
    }  # fmt: skip
    assert [read(container, file) for file in ("memory.max", "pids.max")] == [f"{64 * MIB}", "40"]


def test_a_process_that_exec_adds_is_in_the_scope(node, container):
    before = read(container, "cgroup.procs").split()
    node.ctr("tasks", "exec", "-d", "--exec-id", "second", container, "/bin/sleep", "1000")
    (added,) = {*read(container, "cgroup.procs").split()} - {*before}
    assert Path(f"/proc/{added}/cgroup").read_text().strip().endswith(scope(container))


def test_pause_and_resume(node, container):
    node.ctr("tasks", "pause", container)
    assert (read(container, "cgroup.freeze"), show(scope(container), "ActiveState")) == ("1", {"ActiveState": "active"})
    node.ctr("tasks", "resume", container)
    assert read(container, "cgroup.freeze") == "0"


def test_an_update_is_told_to_systemd(pod):
    id = pod.add("updated", "/bin/sleep", "1000", **LIMITS)
    pod.runtime.call("UpdateContainerResources", id=id, linux={"memory_limit_in_bytes": 80 * MIB})
    assert show(scope(id), "MemoryMax") == {"MemoryMax": f"{80 * MIB}"}
    assert read(id, "memory.max") == f"{80 * MIB}"


def test_metrics_are_the_scopes(node, container):
    lines = node.ctr("tasks", "metrics", container).stdout.decode().splitlines()
    found = dict(line.split() for line in lines if len(line.split()) == 2)
    assert found["pids.limit"] == "40"
    assert int(found["memory.usage"]) > 0


def test_what_has_ended_leaves_neither_scope_nor_cgroup_nor_descriptor(pod, container):
    """The connections to systemd are the shim's, which lives as long as its pod."""
    before = descriptors(pod.shim)
    id = pod.add("second", "/bin/sleep", "1000")
    assert show(scope(id), "ActiveState") == {"ActiveState": "active"}
    pod.runtime.call("StopContainer", id=id, timeout=0)
    pod.remove(id)
    assert show(scope(id), "LoadState") == {"LoadState": "not-found"}
    assert not (SLICE / scope(id)).exists()
    wait_until(lambda: descriptors(pod.shim) == before)


def test_the_shim_is_in_the_cgroup_that_shim_cgroup_names(pod):
    assert Path(f"/proc/{pod.shim}/cgroup").read_text().strip() == f"0::{containerd.SHIM_CGROUP}"


def test_a_killed_shim_leaves_no_scope(node):
    """containerd has the shim's program clean up, which asks systemd too."""
    place = CGROUPS / "pyrunc.slice/pyrunc-killed.slice"
    before = node.shims()
    with cri.Pod(node.socket, str(node.folder), f"/{place.relative_to(CGROUPS)}", "systemd", name="killed") as pod:
        id = pod.add("first", "/bin/sleep", "1000")
        assert len([*place.glob("*.scope")]) == 2
        (killed,) = {*node.shims()} - {*before}
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not [*place.glob("*.scope")])
        pod.status(id, cri.EXITED)

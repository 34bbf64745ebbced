"""Pods, through containerd's CRI socket, as a kubelet asks for them."""

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engines import containerd, image, shim

pytest.importorskip("grpc", reason="NOT TESTED: grpcio is not installed")
from engines import cri

PARENT = "/pyrunc-engines-cri"
CREATED, RUNNING, EXITED = range(3)


@pytest.fixture(scope="module")
def node():
    if containerd.PROGRAM is None:
        pytest.skip("NOT TESTED: containerd is not installed (Debian: apt-get install containerd)")
    with containerd.Containerd(shim.SHIM.parent, cri=True) as engine:
        for name, command in ((image.NAME, ("/bin/sh",)), (image.PAUSE, ("/bin/sleep", "100000"))):
            tar = image.make(engine.folder / "cri.tar", name, command)
            engine.ctr("-n", "k8s.io", "images", "import", tar)
        yield engine
    for folder in Path("/sys/fs/cgroup").glob(f"*{PARENT}"):
        folder.rmdir()


@contextmanager
def sandbox(node, handler):
    """The runtime's service, a pod's ID and configuration."""
    runtime = cri.Runtime(node.socket)
    # pods have the node's network: this containerd has no plug-in that would make them one
    linux = {"cgroup_parent": PARENT, "security_context": {"namespace_options": {"network": 2}}}
    config = {
        "metadata": {"name": "pod", "uid": "u1", "namespace": "tests"},
        "log_directory": str(node.folder),
        "linux": linux,
    }
    id = runtime.call("RunPodSandbox", config=config, runtime_handler=handler)["id"]
    try:
        yield runtime, id, config
    finally:
        runtime.call("StopPodSandbox", id=id)
        runtime.call("RemovePodSandbox", id=id)


@pytest.fixture
def pod(node):
    with sandbox(node, "pyrunc") as made:
        yield made


def add(pod, name, *command):
    runtime, id, config = pod
    namespaces = {"namespace_options": {"network": 2, "pid": 1}}
    container = {
        "metadata": {"name": name},
        "image": {"image": image.NAME},
        "command": command,
        "log_path": f"{name}.log",
        "linux": {"security_context": namespaces},
    }
    made = runtime.call("CreateContainer", pod=id, config=container, pod_config=config)["id"]
    runtime.call("StartContainer", id=made)
    return made


def status(runtime, id, state):
    deadline = time.monotonic() + 10
    while (found := runtime.call("ContainerStatus", id=id)["status"])["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_a_pod_with_two_containers_has_one_shim(pod, node):
    runtime = pod[0]
    first = add(pod, "first", "/bin/sleep", "1000")
    second = add(pod, "second", "/bin/sh", "-c", "echo logged; exit 9")
    assert status(runtime, first, RUNNING)["exit_code"] == 0
    assert status(runtime, second, EXITED)["exit_code"] == 9
    assert len(node.shims()) == 1
    assert (node.folder / "second.log").read_text().endswith("stdout F logged\n")
    runtime.call("StopContainer", id=first, timeout=0)
    assert status(runtime, first, EXITED)["exit_code"] == 137
    for each in (first, second):
        runtime.call("RemoveContainer", id=each)


def test_exec_sync(pod):
    runtime = pod[0]
    container = add(pod, "first", "/bin/sleep", "1000")
    done = runtime.call("ExecSync", id=container, command=["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    assert done == {"stdout": b"out\n", "stderr": b"err\n", "exit_code": 3}
    for number in range(20):
        done = runtime.call("ExecSync", id=container, command=["/bin/sh", "-c", f"exit {number}"])
        assert done["exit_code"] == number


def test_the_pods_end_is_that_of_its_shim(pod, node):
    runtime, id, _ = pod
    add(pod, "first", "/bin/sleep", "1000")
    runtime.call("StopPodSandbox", id=id)
    deadline = time.monotonic() + 5
    while node.shims():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("handler", ["options", "file"])
def test_the_options_of_containerds_configuration(node, handler):
    if handler == "options" and b" 1.6." in node.run(node.program, "--version").stdout:
        pytest.skip("containerd 1.6 gives a runtime that it does not know the options of a file alone")
    with sandbox(node, handler) as (_, id, _):
        assert os.path.isdir(f"/proc/{node.init}/root/run/elsewhere/k8s.io/{id}")
        [pid] = node.shims()
        assert f":{containerd.SHIM_CGROUP}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    shim.wait_until(lambda: removed(containerd.SHIM_CGROUP))


def removed(cgroup):
    """A shim that has ended is in its cgroup for a moment yet."""
    folders = [Path(f"/sys/fs/cgroup{cgroup}"), *Path("/sys/fs/cgroup").glob(f"*{cgroup}")]
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
    return not any(folder.exists() for folder in folders)

"""Pods, through containerd's CRI socket, as a kubelet asks for them."""

import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from engines import containerd, criu, image, shim

pytest.importorskip("grpc", reason="NOT TESTED: grpcio is not installed")
from engines import cri
from engines.cri import EXITED, RUNNING

PARENT = "/pyrunc-engines-cri"


@pytest.fixture(scope="module")
def node():
    if containerd.PROGRAM is None:
        pytest.skip("NOT TESTED: containerd is not installed (Debian: apt-get install containerd)")
    with containerd.Containerd(shim.SHIM.parent, cri=True) as engine:
        for name, command in ((image.NAME, ("/bin/sh",)), (image.PAUSE, ("/bin/sleep", "100000"))):
            tar = image.make(engine.folder / "cri.tar", name, command)
            engine.ctr("-n", "k8s.io", "images", "import", tar)
        yield engine
    shim.wait_until(lambda: removed(PARENT))


@pytest.fixture
def pod(node):
    with cri.Pod(node.socket, str(node.folder), PARENT) as made:
        yield made


def test_a_pod_with_two_containers_has_one_shim(pod, node):
    runtime = pod.runtime
    first = pod.add("first", "/bin/sleep", "1000")
    second = pod.add("second", "/bin/sh", "-c", "echo logged; exit 9")
    assert pod.status(first, RUNNING)["exit_code"] == 0
    assert pod.status(second, EXITED)["exit_code"] == 9
    assert len(node.shims()) == 1
    assert (node.folder / "second.log").read_text().endswith("stdout F logged\n")
    runtime.call("StopContainer", id=first, timeout=0)
    assert pod.status(first, EXITED)["exit_code"] == 137
    for each in (first, second):
        pod.remove(each)


def test_containerd_2_calls_the_shim_for_a_pods_first_container_alone(node, tmp_path):
    """1.6 and 1.7 call `start` and `delete` for every container."""
    calls = tmp_path / "calls"
    calls.touch()
    handler = "counted"
    with counted(node, calls):
        with cri.Pod(node.socket, str(node.folder), PARENT, handler) as pod:
            before = len(calls.read_text().split())
            id = pod.add("second", "/bin/true")
            pod.status(id, EXITED)
            pod.remove(id)
            assert calls.read_text().split()[before:] == ([] if node.version >= (2, 0) else ["start", "delete"])
        shim.wait_until(lambda: "delete" in calls.read_text().split()[before:])


@contextmanager
def counted(node, calls):
    """The shim's program as one that notes what it is called for, and becomes the shim."""
    program = Path(node.folder, "counting-shim")
    program.write_text(f'#!/bin/sh\nfor verb; do :; done\necho $verb >> {calls}\nexec {node.shim} "$@"\n')
    program.chmod(0o755)
    yield
    program.unlink()


def test_exec_sync(pod):
    cri.check_exec_sync(pod)


def test_a_pod_whose_shim_is_killed_has_ended_and_leaves_nothing(node):
    with cri.Pod(node.socket, str(node.folder), PARENT) as pod:
        id = pod.add("first", "/bin/sleep", "1000")
        for pid in node.shims():
            os.kill(pid, signal.SIGKILL)
        pod.status(id, EXITED)
        shim.wait_until(lambda: left(node, pod.id) == [])


def left(node, pod_id):
    """Of a pod: its containers' states, root file systems and cgroups."""
    states = node.run("ls", "/run/containerd/pyrunc/k8s.io").stdout.decode().split()
    mounts = [line for line in node.run("cat", "/proc/mounts").stdout.decode().splitlines() if "/k8s.io/" in line]
    roots = [line.split()[1] for line in mounts if "/rootfs" in line]
    return [name for name in states if ":" not in name] + roots + [name for name in [PARENT] if not removed(name)]


@pytest.mark.parametrize("handler", ["pyrunc", "runc"])
def test_checkpoint_container(node, handler):
    """An archive, with which a kubelet's user looks at what a container does, and which runs on."""
    if node.version < (2, 0):
        pytest.skip("NOT TESTED: CheckpointContainer: containerd has it since 2.0 (PYRUNC_CONTAINERD)")
    if not criu.works():
        pytest.skip("NOT TESTED: CheckpointContainer: no criu that works here (PYRUNC_CRIU, or in PATH)")
    with cri.Pod(node.socket, str(node.folder), PARENT, handler, name="saved") as pod:
        saved = pod.add("saved", "/bin/sleep", "1000")
        archive = f"{node.root}/saved-{handler}.tar"
        pod.runtime.call("CheckpointContainer", id=saved, location=archive)
        names = node.run("tar", "tf", archive).stdout.decode().split()
        assert {"checkpoint/inventory.img", "checkpoint/descriptors.json", "config.dump", "rootfs-diff.tar"} <= {*names}
        pod.status(saved, RUNNING)


def test_the_pods_end_is_that_of_its_shim(pod, node):
    pod.add("first", "/bin/sleep", "1000")
    pod.runtime.call("StopPodSandbox", id=pod.id)
    shim.wait_until(lambda: not node.shims())


def test_limits_updates_and_statistics(pod):
    cri.check_limits_updates_and_statistics(pod, f"{PARENT}/")


def test_the_containers_of_a_pod_share_its_network(node):
    with cri.Pod(node.socket, str(node.folder), PARENT, network=True) as pod:
        cri.check_network(pod, node.init)


def test_a_pod_with_a_user_namespace(node):
    if b" 1.6." in node.run(node.program, "--version").stdout:
        pytest.skip("containerd 1.6 knows no user namespaces of pods")
    with cri.Pod(node.socket, str(node.folder), PARENT, network=True, mapping=cri.MAPPED) as pod:
        cri.check_user_namespace(pod)


def test_what_a_kubelet_sees_is_what_it_sees_with_runc(node):
    seen = []
    for handler in ("pyrunc", "runc"):
        with cri.Pod(node.socket, str(node.folder), PARENT, handler) as pod:
            seen.append(list(cri.seen_by_a_kubelet(pod, node.folder)))
    assert seen[0] == seen[1]


def test_a_restarted_containerd_finds_its_pods_and_what_ended_meanwhile(node):
    """The same as with runc's shim: containerd 1.7 and later forget the status of what has ended."""
    with ExitStack() as stack:
        ends = []
        for handler in ("pyrunc", "runc"):
            pod = stack.enter_context(cri.Pod(node.socket, str(node.folder), PARENT, handler))
            first = pod.add("first", "/bin/sleep", "1000")
            second = pod.add("second", "/bin/sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exit 6")
            ends.append((pod, first, second))
        for pod, _, second in ends:
            words = "(sleep 0.5; touch /tmp/go) >/dev/null 2>&1 &"
            pod.runtime.call("ExecSync", id=second, command=["/bin/sh", "-c", words])
        node.stop()
        time.sleep(1)
        node.start_again()
        for pod, first, _ in ends:
            pod.reconnect(node.socket)
            pod.status(first, RUNNING)
            pod.runtime.call("ExecSync", id=first, command=["/bin/true"])
        ours, theirs = (pod.status(second, EXITED)["exit_code"] for pod, _, second in ends)
        assert ours == theirs
    shim.wait_until(lambda: not node.shims())


@pytest.mark.parametrize("handler", ["options", "file"])
def test_the_options_of_containerds_configuration(node, handler):
    if handler == "options" and b" 1.6." in node.run(node.program, "--version").stdout:
        pytest.skip("containerd 1.6 gives a runtime that it does not know the options of a file alone")
    with cri.Pod(node.socket, str(node.folder), PARENT, handler) as pod:
        assert os.path.isdir(f"/proc/{node.init}/root/run/elsewhere/k8s.io/{pod.id}")
        [pid] = node.shims()
        assert f":{containerd.SHIM_CGROUP}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    shim.wait_until(lambda: removed(containerd.SHIM_CGROUP))


def removed(cgroup):
    """A process that has ended stays in its cgroup for a moment."""
    folders = [Path(f"/sys/fs/cgroup{cgroup}"), *Path("/sys/fs/cgroup").glob(f"*{cgroup}")]
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
    return not any(folder.exists() for folder in folders)

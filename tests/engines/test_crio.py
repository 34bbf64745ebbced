"""Pods, through CRI-O's socket, as a kubelet asks for them: the runtime's program, with conmon."""

import re
from pathlib import Path

import pytest

from engines import crio, shim

pytest.importorskip("grpc", reason="NOT TESTED: grpcio is not installed")
from engines import cri
from engines.cri import EXITED, RUNNING

SYS_RESOURCE = 24


@pytest.fixture(scope="module")
def node():
    if crio.MISSING:
        pytest.skip(f"NOT TESTED: no {', '.join(crio.MISSING)} (PYRUNC_CRIO is the folder of CRI-O's programs)")
    with crio.Crio(shim.PYRUNC) as engine:
        yield engine


def make(node, handler="", **more):
    return cri.Pod(node.socket, node.logs, crio.PARENT, handler, **more)


@pytest.fixture
def pod(node):
    with make(node) as made:
        yield made


def test_a_pod_with_two_containers(pod, node):
    runtime = pod.runtime
    first = pod.add("first", "/bin/sleep", "1000")
    second = pod.add("second", "/bin/sh", "-c", "echo logged; exit 9")
    assert pod.status(first, RUNNING)["exit_code"] == 0
    assert pod.status(second, EXITED)["exit_code"] == 9
    assert node.seen(f"/run/pyrunc/{first}/state.json").exists()
    assert node.seen(f"{node.logs}/second.log").read_text().endswith("stdout F logged\n")
    runtime.call("StopContainer", id=first, timeout=0)
    assert pod.status(first, EXITED)["exit_code"] == 137
    for each in (first, second):
        pod.remove(each)
        assert not node.seen(f"/run/pyrunc/{each}").exists()


def test_a_container_that_ends_when_it_is_asked_to(pod):
    container = pod.add("first", "/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    pod.runtime.call("StopContainer", id=container, timeout=10)
    assert pod.status(container, EXITED)["exit_code"] == 5


def test_exec_sync(pod):
    cri.check_exec_sync(pod)


def test_limits_updates_and_statistics(pod):
    cri.check_limits_updates_and_statistics(pod, f"{crio.PARENT}/crio-")


def test_a_restarted_crio_finds_its_containers_and_what_ended_meanwhile(pod, node):
    first = pod.add("first", "/bin/sleep", "1000")
    second = pod.add("second", "/bin/sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exit 6")
    pod.runtime.call("ExecSync", id=second, command=["/bin/sh", "-c", "(sleep 1; touch /tmp/go) >/dev/null 2>&1 &"])
    node.stop()
    shim.wait_until(lambda: node.seen(f"/run/crio/exits/{second}").exists())
    node.start_again()
    pod.reconnect(node.socket)
    assert pod.status(first, RUNNING)["exit_code"] == 0
    assert pod.status(second, EXITED)["exit_code"] == 6


def test_the_containers_of_a_pod_share_its_network(node):
    with make(node, network=True) as pod:
        cri.check_network(pod, node.init)


def test_a_pod_with_a_user_namespace(node):
    with make(node, network=True, mapping=cri.MAPPED) as pod:
        cri.check_user_namespace(pod)


def test_what_a_kubelet_sees_is_what_it_sees_with_runc(node):
    seen = []
    for handler in ("pyrunc", "runc"):
        with make(node, handler) as pod:
            seen.append(list(cri.seen_by_a_kubelet(pod, node.seen(node.logs))))
    assert seen[0] == seen[1]


def may_lower_the_oom_score():
    return int(re.search("CapEff:\t(.*)", Path("/proc/self/status").read_text())[1], 16) >> SYS_RESOURCE & 1


def test_containers_that_share_their_processes(node):
    """Those of a pod that has a container of its own, whose PID namespace they join."""
    if not may_lower_the_oom_score():
        pytest.skip("NOT TESTED: such a container of CRI-O's has an oomScoreAdj that needs CAP_SYS_RESOURCE")
    with make(node, shared=True) as pod:
        first = pod.add("first", "/bin/sleep", "1000")
        second = pod.add("second", "/bin/sleep", "2000")
        for each in (first, second):
            seen = pod.runtime.call("ExecSync", id=each, command=["/bin/ps", "-o", "args"])["stdout"]
            assert {b"/bin/sleep 1000", b"/bin/sleep 2000"} <= set(seen.splitlines())

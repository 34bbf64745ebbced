"""What the runtime itself takes of the container's limits, before the program runs: next to nothing."""

from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, namespaces
from integration.support.host import controllers

pytestmark = pytest.mark.vm
KIB = 1 << 10


@pytest.fixture(autouse=True)
def needs_memory():
    if "memory" not in controllers():
        pytest.skip("no memory controller")


A_MEBIBYTE = {"memory": {"limit": 1024 * KIB, "swap": 1024 * KIB}}  # runc needs four


def test_a_container_of_a_mebibyte(container):
    assert container(resources=A_MEBIBYTE).run("echo", "small") == "small"


def test_exec_into_a_container_of_a_mebibyte(container):
    c = container(resources=A_MEBIBYTE).up()
    assert c.exec("echo", "small") == "small"
    assert c.exec("cat", "/proc/self/cgroup") == c.exec("cat", "/proc/1/cgroup")


@pytest.mark.parametrize("own", [True, False])
def test_it_is_in_its_cgroup_and_that_is_its_namespaces_root(container, own):
    """With little memory the process enters as late as it can. Before, it is inside while its namespace is made."""
    c = container(resources=A_MEBIBYTE, namespaces=namespaces(*NAMESPACES, *(["cgroup"] if own else []))).up()
    lines = c.exec("cat", "/proc/self/cgroup").splitlines()
    assert all(line.endswith(":/") if own else line.endswith(c.id) for line in lines if line.startswith("0:"))
    assert f"/{c.id}" in Path(f"/proc/{c.pid}/cgroup").read_text()


def test_a_limit_that_is_too_small_is_named(container):
    limit = {"limit": 64 * KIB, "swap": 64 * KIB}
    error = container(resources={"memory": limit}).refused("true")
    assert "container init was OOM-killed (memory limit too low?)" in error


def test_one_process_is_enough(container):
    assert container(resources={"pids": {"limit": 1}}).run("echo", "alone") == "alone"

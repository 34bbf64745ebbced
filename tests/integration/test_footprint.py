"""What the runtime itself takes of the container's limits, before the program runs: next to nothing."""

import pytest

from integration.harness import controllers, unified

pytestmark = pytest.mark.vm
KIB = 1 << 10


@pytest.fixture(autouse=True)
def needs_memory():
    if "memory" not in controllers():
        pytest.skip("no memory controller")


# v2's process is born in its cgroup, and charged from its first page on; that of v1 joins. runc needs four.
LEAST = 2048 if unified() else 1024


def test_a_container_of_a_mebibyte_or_two(container):
    limit = {"limit": LEAST * KIB, "swap": LEAST * KIB}
    assert container(resources={"memory": limit}).run("echo", "small") == "small"


def test_exec_into_a_container_of_a_mebibyte_or_two(container):
    limit = {"limit": LEAST * KIB, "swap": LEAST * KIB}
    assert container(resources={"memory": limit}).up().exec("echo", "small") == "small"


def test_a_limit_that_is_too_small_is_named(container):
    limit = {"limit": 64 * KIB, "swap": 64 * KIB}
    error = container(resources={"memory": limit}).refused("true")
    assert "container init was OOM-killed (memory limit too low?)" in error


def test_one_process_is_enough(container):
    assert container(resources={"pids": {"limit": 1}}).run("echo", "alone") == "alone"

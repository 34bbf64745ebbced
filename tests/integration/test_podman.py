"""Podman with this runtime, as root and as a user, with both of its ways to make cgroups: in the virtual machine."""

import subprocess
from pathlib import Path

import pytest

IMAGE = Path("/opt/oci/busybox.tar")
pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not IMAGE.exists(), reason="the image of the virtual machine"),
]
AS = {"root": [], "rootless": ["runuser", "-l", "rootless", "-c", 'exec "$@"', "--", "sh"]}


def podman(user, *words):
    result = subprocess.run(
        [*AS[user], "podman", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90, cwd="/"
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture(scope="module", params=AS)
def user(request):
    podman(request.param, "load", "--quiet", "--input", str(IMAGE))
    return request.param


@pytest.mark.parametrize("manager", ["cgroupfs", "systemd"])
def test_run_with_a_limit(user, binary, manager):
    """Its root of a user namespace is a user of the host's: whose folder, cgroup and bus those are."""
    script = "cat /sys/fs/cgroup/memory.max; id -u"
    out = podman(
        user, "--cgroup-manager", manager, "--runtime", binary, "run", "--rm", "--network=none", "--memory=64m",
        "localhost/busybox", "sh", "-c", script,
    )  # fmt: skip
    assert out == [str(64 << 20), "0"]

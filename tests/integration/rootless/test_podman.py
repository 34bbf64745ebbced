"""Podman with this runtime, as root and as a user, with both of its ways to make cgroups: in the virtual machine."""

import os
import pty
import subprocess
import termios
from pathlib import Path

import pytest

from integration.support.terminal import read_terminal

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
    """Rootless Podman is root of a user namespace. Its folder, cgroup and bus are those of the host's user."""
    script = "cat /sys/fs/cgroup/memory.max; id -u"
    out = podman(
        user, "--cgroup-manager", manager, "--runtime", binary, "run", "--rm", "--network=none", "--memory=64m",
        "localhost/busybox", "sh", "-c", script,
    )  # fmt: skip
    assert out == [str(64 << 20), "0"]


@pytest.fixture
def name(user):
    """The name of a container or a pod, which does not outlive the test."""
    yield "pyrunc-test"
    for kind in (["rm", "--force", "--time", "0"], ["pod", "rm", "--force", "--time", "0"]):
        podman(user, *kind, "--ignore", "pyrunc-test")


@pytest.mark.parametrize("user", ["rootless"], indirect=True)
def test_exec_on_a_terminal_stop_and_rm(user, binary, name):
    words = ("--name", name, "--network=none", "localhost/busybox", "sleep", "1000")
    podman(user, "--runtime", binary, "run", "--detach", *words)
    assert terminal_of(user, "exec", "-it", name, "sh", "-c", "test -t 0 && tty && stty size") == "/dev/pts/0 24 80"
    podman(user, "stop", "--time", "0", name)
    assert podman(user, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name) == ["exited", "137"]
    podman(user, "rm", name)
    assert name not in podman(user, "ps", "--all", "--format", "{{.Names}}")


def terminal_of(user, *words):
    """What a command of Podman's says on a terminal of 24 lines."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    try:
        command = ["setsid", "--ctty", "--wait", *AS[user], "podman", *words]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd="/")
        os.close(slave)
        said = read_terminal(master, seconds=60)
        assert process.wait(60) == 0, said
        return " ".join(said.split())
    finally:
        os.close(master)


@pytest.mark.parametrize("user", ["rootless"], indirect=True)
def test_a_pod(user, binary, name):
    """Its containers have one network namespace, of its infra container."""
    podman(
        user, "--runtime", binary, "pod", "create", "--name", name, "--network=none",
        "--infra-image", "localhost/busybox", "--infra-command", "/bin/sleep 1000",
    )  # fmt: skip
    look = ("readlink", "/proc/self/ns/net")
    found = [
        podman(user, "--runtime", binary, "run", "--rm", "--pod", name, "localhost/busybox", *look) for _ in range(2)
    ]
    assert found[0] == found[1]
    assert podman(user, "pod", "inspect", "--format", "{{.State}}", name) == ["Running"]
    podman(user, "pod", "stop", "--time", "0", name)
    podman(user, "pod", "rm", name)
    assert name not in podman(user, "pod", "ps", "--format", "{{.Name}}")

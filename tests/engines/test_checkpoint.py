"""Checkpoints as the users of containerd and Podman make them, with pyrunc and with runc."""

import pytest

from engines import criu, podman, shim
from engines.image import NAME
from engines.shim import wait_until

PYRUNC = str(shim.SHIM.parent / "pyrunc")
COUNT = "i=0; while true; do i=$((i+1)); echo $i > /tmp/n; mv /tmp/n /tmp/count; sleep 0.05; done"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not criu.works(), reason="NOT TESTED: engines' checkpoints: no criu that works here (PYRUNC_CRIU, or in PATH)"
    ),
]


@pytest.fixture(scope="module")
def pod():
    if podman.PROGRAM is None:
        pytest.skip("NOT TESTED: Podman is not installed")
    with podman.Podman() as engine:
        yield engine


@pytest.mark.parametrize("runtime", [PYRUNC, "runc"], ids=["pyrunc", "runc"])
class TestPodman:
    """Each of these is what runc does too."""

    @pytest.fixture
    def counter(self, pod, runtime):
        """The name of one that counts, and how far it is."""
        name = "counts-" + runtime.rpartition("/")[2]
        pod("run", "-d", "--network", "none", "--name", name, NAME, "sh", "-c", COUNT, runtime=runtime)

        def count(which=name):
            return int(pod("exec", which, "cat", "/tmp/count", runtime=runtime, check=False).stdout or 0)

        wait_until(lambda: count() > 1)
        yield name, count
        pod("rm", "-f", "-t", "0", name, runtime=runtime, check=False)
        pod("rm", "-f", "-t", "0", f"{name}-again", runtime=runtime, check=False)

    def status(self, pod, name, runtime):
        return pod("inspect", "-f", "{{.State.Status}}", name, runtime=runtime).stdout.decode().strip()

    def test_checkpoint_and_restore(self, pod, runtime, counter):
        name, count = counter
        before = count()
        pod("container", "checkpoint", name, runtime=runtime)
        assert self.status(pod, name, runtime) == "exited"
        pod("container", "restore", name, runtime=runtime)
        assert self.status(pod, name, runtime) == "running"
        assert count() >= before
        wait_until(lambda: count() > before + 3)

    def test_leave_running(self, pod, runtime, counter):
        name, count = counter
        pod("container", "checkpoint", "--leave-running", name, runtime=runtime)
        assert self.status(pod, name, runtime) == "running"
        before = count()
        wait_until(lambda: count() > before)

    def test_export_and_import_under_another_name(self, pod, runtime, counter):
        name, count = counter
        archive = pod.root / f"{name}.tar.gz"
        before = count()
        pod("container", "checkpoint", "--export", archive, name, runtime=runtime)
        pod("rm", "-f", name, runtime=runtime)
        pod("container", "restore", "--import", archive, "--name", f"{name}-again", runtime=runtime)
        assert count(f"{name}-again") >= before
        wait_until(lambda: count(f"{name}-again") > before + 3)


def test_ctr_checkpoints_a_container_and_restores_it(engine):
    """With its files and its task, into an image. (ctr knows --exit and --image-path for runc's shim alone.)"""
    name = "saved"
    engine.ctr("run", "-d", "--runtime", "io.containerd.pyrunc.v2", NAME, name, "/bin/sh", "-c", COUNT)

    def count():
        done = engine.ctr("tasks", "exec", "--exec-id", "look", name, "/bin/cat", "/tmp/count", check=False)
        return int(done.stdout or 0)

    try:
        wait_until(lambda: count() > 20)
        engine.ctr("containers", "checkpoint", "--task", "--rw", "--image", name, "checkpoint/saved")
        before = count()
        assert before > 20, "it runs on"
        engine.ctr("tasks", "rm", "-f", name)
        engine.ctr("containers", "rm", name)
        engine.ctr("containers", "restore", "--live", "--rw", name, "checkpoint/saved")
        assert count() > 20, "it has begun anew"
    finally:
        engine.ctr("tasks", "rm", "-f", name, check=False)
        engine.ctr("containers", "rm", name, check=False)

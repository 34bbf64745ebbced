"""What others can draw out ends all the same, and says what was waited for; nobody is signalled by a number that may be
another process's."""

import shutil
import socket
import subprocess
import time

import pytest

from integration.support.bundle import namespaces
from integration.support.host import processes_of
from integration.support.runtime import wait_until

STOPPER = "cd /proc; touch /tmp/ready; while :; do for p in [0-9]*; do [ $p = 1 ] || kill -STOP $p; done; done"

TRIES = 30


def test_exec_whose_process_is_stopped_by_the_container_ends_and_says_so(container):
    c = container(capabilities={"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]})
    c.up("sh", "-c", STOPPER)
    wait_until((c.bundle.rootfs / "tmp/ready").exists, "the container")
    for _ in range(TRIES):  # on a busy machine it may be quicker than who stops it
        before = time.monotonic()
        result = c.attempt_exec("true")
        if result.code:
            break
    assert result.code == 255, repr(result)
    assert "stopped by a signal" in result.err, repr(result)
    assert "waiting for its process" in result.err
    assert time.monotonic() - before < 60
    assert len(result.err.splitlines()) == 1
    assert len(processes_of(str(c.bundle.path))) == 1, "the stopped process is gone"


def test_create_whose_process_is_stopped_ends_and_leaves_nothing(container):
    """A process of the namespace that it joins stops it."""
    other = container().up("sh", "-c", STOPPER)
    wait_until((other.bundle.rootfs / "tmp/ready").exists, "the other container")
    c = container(namespaces=namespaces("mount", "uts", "ipc", pid=f"/proc/{other.pid}/ns/pid"))
    for _ in range(TRIES):
        result = c.create("sleep", "1000", check=False)
        if result.code:
            break
        c.delete("--force")
    other.delete("--force")
    assert result.code == 1, repr(result)
    assert "stopped by a signal" in result.err, repr(result)
    c.assert_gone()


def test_start_of_a_process_that_was_stopped_ends_it(container, tmp_path):
    c = container(namespaces=namespaces("mount", "uts", "ipc"))
    c.create("sleep", "1000")
    subprocess.run(["kill", "-STOP", str(c.pid)], check=True)
    result = c.start(check=False)
    assert result.code == 1
    assert "stopped by a signal" in result.err, repr(result)
    assert c.status == "stopped"


def test_exec_into_a_paused_container_waits_longer_than_for_one_that_was_stopped(container):
    c = container().up()
    c.runtime("pause", c.id)
    executing = c.runtime.spawn("exec", "--ignore-paused", c.id, "echo", "fine")
    time.sleep(0.5)
    assert executing.poll() is None, executing.err
    c.runtime("resume", c.id)
    assert executing.end() == 0
    assert executing.out == "fine\n"


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which shows signals, is not installed")
@pytest.mark.parametrize("verb", ["delete", "kill", "create", "hook"])
def test_no_signal_is_sent_by_a_number(container, tmp_path, verb):
    """By then the number may belong to another process."""
    c = container(namespaces=namespaces("mount", "uts", "ipc"))  # processes of the cgroup are killed one by one
    trace = tmp_path / "trace"
    wrapper = ("strace", "-f", "-qq", "-e", "trace=kill,tkill,tgkill,pidfd_send_signal", "-o", str(trace))
    if verb == "create":
        c._prepare(("/no/such/program",))
        c.runtime("create", "--bundle", c.bundle.path, c.id, check=False, wrapper=wrapper)
    elif verb == "hook":
        c.change(hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]})
        c.create("true", check=False, wrapper=wrapper)
    else:
        c.up()
        words = ("delete", "--force", c.id) if verb == "delete" else ("kill", c.id, "KILL")
        c.runtime(*words, wrapper=wrapper)
    lines = trace.read_text().splitlines()
    if verb in ("create", "hook"):  # the others need none where the kernel has cgroup.kill
        assert [line for line in lines if "pidfd_send_signal(" in line]
    elif verb == "kill":
        c.wait_for("stopped")
    by_number = [line for line in lines if "kill(" in line and "pidfd" not in line]
    assert not by_number or (verb == "hook" and "-" in by_number[0])  # its group; Linux 6.9 has a flag for that


@pytest.mark.slow
def test_a_receiver_that_accepts_nobody(container, tmp_path):
    path = str(tmp_path / "socket")
    listener, first = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    with listener, first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        c = container()
        result = c.create("true", flags=("--pidfd-socket", path), check=False)
    assert result.code == 1
    assert "nobody has accepted the connection" in result.err
    c.assert_gone()

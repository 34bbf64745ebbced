"""Whatever fails, whenever it is killed: no process, mount, cgroup or folder is left that delete --force leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from integration.support.bundle import NAMESPACES, OWN_USERS, namespaces
from integration.support.faulty import Faulty
from integration.support.host import cgroups_of
from integration.support.runtime import wait_until
from sizes import size


def list_of_steps():
    """Ask the package itself, in a process of its own."""
    code = "from pyrunc.init import steps; print(*dict.fromkeys(s.name for s in steps.INIT))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30, cwd="/"
    ).stdout.split()


def everything(c):
    """A configuration in which every step has something to do."""
    return c.change(
        namespaces=namespaces(*NAMESPACES, "cgroup", "time"),
        hostname="x",
        domainname="y",
        sysctl={"net.ipv4.ip_forward": "1"},
        maskedPaths=["/proc/kcore", "/sys/firmware"],
        readonlyPaths=["/proc/sys"],
        root={"path": "rootfs", "readonly": True},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        oomScoreAdj=100,
        noNewPrivileges=True,
        user={"uid": 1000, "gid": 1000, "additionalGids": [7]},
        personality={"domain": "LINUX"},
        seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]},
        hooks={kind: [{"path": "/bin/true"}] for kind in ("prestart", "createRuntime", "createContainer", "poststop")},
        resources={"pids": {"limit": 100}},
        rootfsPropagation="private",
        mounts=[{"destination": "/ro", "type": "tmpfs", "source": "t", "options": ["ro"]}],
    )


@pytest.mark.parametrize("step", list_of_steps())
def test_a_step_that_fails(container, runtime, step):
    c = everything(container())
    c._prepare(("true",))
    result = Faulty(runtime, "step", step)("run", "--bundle", c.bundle.path, c.id, check=False)
    lines = [line for line in result.err.splitlines() if "level=warning" not in line]
    assert result.code == 1, repr(result)
    assert len(lines) == 1, repr(result)
    # One that fails while it waits may have gone, with what it wrote, before anybody asks it to start.
    gone = "died waiting" in lines[0] or "has stopped" in lines[0]
    assert "injected failure" in lines[0] or (step.endswith("wait_for_start") and gone)
    c.assert_gone()


@pytest.mark.parametrize(
    "step",
    [
        "namespaces.join",
        "rootfs.adopt",
        "credentials.set_user",
        "execute.find",
        "execute.execute",
    ],
)
def test_a_step_of_exec_that_fails(container, runtime, step):
    c = container(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}).up()
    result = Faulty(runtime, "step", step)("exec", c.id, "sleep", "4321", check=False)
    assert result.code == 255, repr(result)
    assert "injected failure" in result.err
    assert "4321" not in c.exec("ps")
    assert c.status == "running"


@pytest.mark.parametrize("kind", ["plain", "user namespace", "exec"])
def test_what_it_said_last_is_told_of_a_process_that_died_before_it_was_looked_at(container, runtime, kind):
    c = container()
    if kind == "user namespace":
        c.change(**OWN_USERS).reachable()
    if kind == "exec":
        c.up()
        result = Faulty(runtime, "early", "-")("exec", c.id, "true", check=False)
    else:
        c._prepare(("true",))
        result = Faulty(runtime, "early", "-")("run", "--bundle", c.bundle.path, c.id, check=False)
        c.assert_gone()
    assert "injected failure" in result.err, repr(result)
    assert len(result.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_failure_of_any_function_of_the_hosts_side(container, runtime, tmp_path, verb):
    """From the first call to the last, in steps."""

    def attempt(nth):
        c = everything(container())
        c._prepare(("true",))
        words = (verb, "--pid-file", tmp_path / "pid", "--bundle", c.bundle.path, c.id)
        return c, Faulty(runtime, "call", str(nth))(*words, check=False)

    c, whole = attempt(0)
    assert whole.code == 0, repr(whole)
    c.delete("--force")
    total = int(whole.err.rpartition("calls: ")[2])
    for nth in range(40, total, max(1, total // size(40, 10))):  # the first ones are the command line's
        c, result = attempt(nth)
        if result.code == 0:  # it failed where a failure does not matter: closing, unlocking
            c.delete("--force")
        assert "internal error" not in result.err, f"call {nth} of {total}: {result!r}"
        assert "Traceback" not in result.err, f"call {nth} of {total}: {result!r}"
        c.delete("--force")
        c.assert_gone()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which makes system calls fail, is not installed")
@pytest.mark.parametrize(
    "call",
    [
        "move_mount",
        "openat2",
        "mkdirat",
        "mknodat",
        "mount_setattr",
        "fsmount",
        "symlinkat",
        "setns,unshare",
        "clone3",
        "capset",
        "pivot_root",
    ],
)
def test_a_system_call_that_fails(container, runtime, call):
    """Each of the first calls of a kind in turn."""
    for nth in (1, 2, 3, 5, 8):
        c = container(
            maskedPaths=["/etc"],
            readonlyPaths=["/proc/sys"],
            root={"path": "rootfs", "readonly": True},
            cwd="/made",
            namespaces=namespaces(*NAMESPACES, "cgroup"),
        )
        c._prepare(("true",))
        inject = f"inject={call}:error=EIO:when={nth}"
        wrapper = ("strace", "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-o", "/dev/null")
        result = runtime("run", "--bundle", c.bundle.path, c.id, check=False, wrapper=wrapper)
        if result.code:
            assert "internal error" not in result.err, repr(result)
            assert len([line for line in result.err.splitlines() if "level=warning" not in line]) == 1, repr(result)
        c.assert_gone()


# --- killed at any moment


def survives(c, process, delay):
    """Kill it after some time; then delete by force must remove all there is."""
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.end()
    c.delete("--force")
    wait_until(lambda: not c.leftovers(), f"what is left of a kill after {delay * 1000:.1f} ms to go")


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["user namespace", "joined"])
def test_create_that_is_killed(container, kind):
    """At any time, in the middle of what the kernel does too; before each system call: test_killed.py."""
    other = container(namespaces=namespaces(*NAMESPACES)).up() if kind == "joined" else None
    tries = {"user namespace": size(40, 8), "joined": size(30, 6)}[kind]
    reached = set()
    seconds = 0.0  # that it takes on this machine, as busy as it is
    for n in range(-1, tries * 20):
        if n >= tries and len(reached) >= 2:
            break  # else it takes longer than it took: the machine has become busier
        c = container()
        if kind == "user namespace":
            c.change(**OWN_USERS).reachable()
        else:
            paths = {
                name: f"/proc/{other.pid}/ns/{file}"
                for name, file in (("pid", "pid"), ("network", "net"), ("ipc", "ipc"))
            }
            c.change(namespaces=namespaces("mount", "uts", **paths))
        began = time.monotonic()
        if n < 0:
            c.create("sleep", "1000")
            seconds = time.monotonic() - began
            continue
        c._prepare(("sleep", "1000"))
        process = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
        time.sleep(seconds * n / tries)
        process.send_signal(signal.SIGKILL)
        process.end()
        folder = c.runtime.root / c.id
        reached.add((folder.exists(), (folder / "state.json").exists(), (folder / "exec.fifo").exists()))
        survives(c, process, 0)
    assert len(reached) >= 2, f"the moments were all alike: {reached}"


def test_exec_that_is_killed_leaves_a_container_that_works(container):
    c = container().up()
    for n in range(12):
        process = c.runtime.spawn("exec", c.id, "sleep", "0.001")
        time.sleep(0.04 * n / 12)
        process.send_signal(signal.SIGKILL)
        process.end()
    assert c.exec("echo", "fine") == "fine"
    wait_until(lambda: "pyrunc" not in c.exec("ps"), "killed execs to end")


def test_the_container_dies_with_a_foreground_run_only_when_asked(container):
    """kill -9 of `run` can not be caught: what it leaves is a container that delete --force removes."""
    c = container()
    c._prepare(("sleep", "1000"))
    process = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: (c.runtime.root / c.id).exists() and c.status == "running", "the container")
    survives(c, process, 0)


def test_interrupted_create_cleans_up_itself(container, tmp_path):
    c = container(
        hooks={"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"touch {tmp_path}/there; sleep 1"]}]}
    )
    c._prepare(("true",))
    for name in ("SIGTERM", "SIGINT"):
        process = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
        wait_until((tmp_path / "there").exists, "the hook")
        process.send_signal(getattr(signal, name))
        assert process.end() != 0
        wait_until(lambda: not c.leftovers(), "all to go")
        (tmp_path / "there").unlink()


@pytest.mark.parametrize(
    ("verb", "fails"), [("create", "createRuntime"), ("run", "createRuntime"), ("run -d", "poststart")]
)
def test_a_signal_does_not_end_the_clean_up_after_a_failure(container, tmp_path, verb, fails):
    """The poststop hooks are the end of it."""
    hooks = [f"touch {tmp_path}/cleans; sleep 0.5", f"touch {tmp_path}/cleaned"]
    c = container(
        hooks={
            fails: [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"]} for hook in hooks],
        }
    )
    c._prepare(("sleep", "1000"))
    process = c.runtime.spawn(*verb.split(), "--bundle", c.bundle.path, c.id)
    wait_until((tmp_path / "cleans").exists, "the first hook")
    process.send_signal(signal.SIGTERM)
    assert process.end() == 128 + signal.SIGTERM
    assert (tmp_path / "cleaned").exists()
    assert not c.leftovers()


def test_what_a_hook_of_a_failed_create_has_left_running_in_the_cgroup_ends(container):
    """In the host's process namespace nobody ends it but us."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "sleep 1000 <&- >&- 2>&- & exit 3"], "env": ["PATH=/bin"]}
    c = container(namespaces=namespaces("mount", "uts", "ipc"), hooks={"createContainer": [hook]})
    assert "exit status 3" in c.refused("true")


def test_two_deletes_at_once(container):
    for _ in range(5):
        c = container().up()
        both = [c.runtime.spawn("delete", "--force", c.id) for _ in range(2)]
        assert [process.end() for process in both] == [0, 0], [process.err for process in both]
        c.assert_gone()


def test_create_and_delete_at_once(container):
    for n in range(10):
        c = container()
        c._prepare(("sleep", "1000"))
        creating = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
        time.sleep(0.003 * n)
        deleting = c.runtime.spawn("delete", "--force", c.id)
        assert deleting.end() == 0, deleting.err
        creating.end()
        c.delete("--force")
        c.assert_gone()


def test_a_full_disk_is_an_error_that_leaves_nothing(container, runtime, tmp_path):
    """A state root without room."""
    root = tmp_path / "full"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", root], check=True)
    try:
        runtime.root = root
        c = container()
        result = c.create("true", check=False)
        assert result.code == 1
        assert "no space left" in result.err.lower()
        c.assert_gone()
    finally:
        subprocess.run(["umount", root], check=True)
        runtime.root = tmp_path / "state"


def use_up(folder):
    """All inodes of a small file system."""
    with pytest.raises(OSError, match="No space left"):
        [(folder / f":{time.monotonic_ns()}").touch() for _ in range(20)]


def test_what_is_there_can_be_used_and_deleted_on_a_full_disk(container, runtime, tmp_path):
    """Above all it can be deleted: that makes room."""
    root = tmp_path / "full"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=20", "tmpfs", root], check=True)
    try:
        runtime.root = root
        c, other = container(), container(hooks={"poststart": [{"path": "/bin/true"}]})
        c.create("sleep", "1000")
        other.create("sleep", "1000")
        use_up(root)
        other.start()
        assert other.exec("echo", "fine") == "fine"
        other.kill("KILL")
        other.wait_for("stopped")
        other.delete()
        assert [c.state()["status"], *map(str, root.glob(other.id))] == ["created"]
        use_up(root)
        c.delete("--force")
        c.assert_gone()
    finally:
        subprocess.run(["umount", root], check=True)
        runtime.root = tmp_path / "state"


def test_a_read_only_state_root_is_an_error(container, runtime, tmp_path):
    root = tmp_path / "fixed"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", root], check=True)
    try:
        runtime.root = root
        result = container().create("true", check=False)
        assert result.code == 1
        assert "read-only" in result.err.lower()
    finally:
        subprocess.run(["umount", root], check=True)
        runtime.root = tmp_path / "state"


@pytest.mark.vm
def test_a_deleted_cgroup_does_not_stop_delete(container):
    c = container().up("true")
    c.wait_for("stopped")
    for path in sorted(cgroups_of(c.id), reverse=True):
        os.rmdir(path)
    c.delete()
    c.assert_gone()


def test_nothing_of_the_caller_is_left_open(container):
    """`create` returns while the container lives: nobody who waits for its other descriptors may hang."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    c = container()
    c.create("sleep", "1000", close_fds=False)
    os.close(write)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b"", "the container holds a pipe of the caller's"
    os.close(read)

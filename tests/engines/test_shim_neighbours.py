"""One container waits, or attacks, while another of its pod is asked, written to, and ends: nobody stops anybody.

Each wait lasts until the test lets go of it, or much longer than what is done meanwhile. One time alone is measured:
how long the healthy one's State takes.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.neighbours import SPEC, SYSTEMD, Slow, created, nothing_is_left, rootfs, waits_in_kernel
from engines.shim import CGROUPS, CONFIG, Container, Failed, wait_until
from pyrunc.linux.pid import state_of
from pyrunc.shim import ttrpc

# --- hooks, for each verb that runs some


def test_a_hook_of_create(pod, host, slow, call):
    c = pod.other("/bin/true", hooks={"createRuntime": [slow.hook]})
    create = call(c, "Create", **created(c, host))
    slow.has_begun()
    create.hangs()
    with pytest.raises(Failed) as caught:
        pod.healthy.client.call("State", id=c.id)
    assert caught.value.code == ttrpc.NOT_FOUND  # as of runc's shim, until it is created
    pod.ends_well()
    slow.let_go()
    assert create.answer()["pid"]
    assert c.call("State")["status"] == 1


def test_a_hook_of_start(pod, host, slow, call):
    c = pod.other("/bin/sh", "-c", "exit 3", hooks={"poststart": [slow.hook]}).create()
    start = call(c, "Start")
    waiting = call(c, "Wait")
    slow.has_begun()
    start.hangs()
    pod.ends_well()
    assert "exit" not in host.topics(c.id)  # its program has ended by now; but its start was not told
    slow.let_go()
    start.answer()
    assert waiting.answer()["exit_status"] == 3
    wait_until(lambda: host.topics(c.id) == ["create", "start", "exit"])


def test_kill_while_a_hook_of_start_hangs(pod, host, slow, call):
    c = pod.other("/bin/sleep", "100", hooks={"poststart": [slow.hook]}).create()
    start = call(c, "Start")
    slow.has_begun()
    c.call("Kill", signal=9)
    with pytest.raises(Failed, match=r"killed meanwhile: .*running poststart hook #0"):
        start.answer()
    assert c.call("Wait")["exit_status"] == 137
    assert c.call("Delete")["exit_status"] == 137
    nothing_is_left(c, host)
    wait_until(lambda: host.topics(c.id) == ["create", "exit", "delete"])


def test_a_hook_of_delete(pod, host, slow, call):
    c = pod.other("/bin/true", hooks={"poststop": [slow.hook]}).create()
    c.call("Start")
    c.call("Wait")
    delete = call(c, "Delete")
    slow.has_begun()
    delete.hangs()
    again = call(c, "Delete")
    pod.ends_well()
    slow.let_go()
    assert delete.answer()["exit_status"] == 0
    with pytest.raises(Failed, match="not found"):
        again.answer()


# --- exec


def test_what_exec_brings_in_is_stopped(pod, host, call):
    """By the container's root: in the container's process namespace it is one like any other."""
    c = pod.other("/bin/sh", "-c", "while :; do kill -STOP -1 2>/dev/null; done").create()
    c.call("Start")
    c.call("Exec", exec_id="x", spec=SPEC)
    start = call(c, "Start", exec_id="x")
    other = {pid for pid in pod.children() if state_of(pid) == "T"}
    wait_until(lambda: other or any(state_of(pid) == "T" for pid in pod.children()))
    start.hangs()
    assert c.call("State")["status"] == 2
    with pytest.raises(Failed, match="stopped by a signal"):
        start.answer()
    assert c.call("Wait", exec_id="x")["exit_status"] == 255
    c.call("Exec", exec_id="y", spec=SPEC)
    start = call(c, "Start", exec_id="y")
    wait_until(lambda: any(state_of(pid) == "T" for pid in pod.children()))
    c.call("Kill", exec_id="y", signal=9)
    with pytest.raises(Failed, match="killed"):
        start.answer()
    c.call("Kill", signal=9)
    assert c.call("Wait")["exit_status"] == 137
    pod.ends_well()


@pytest.mark.parametrize("name", ["TERM", "USR1", "INT"])
def test_signals_to_what_exec_brings_in_are_not_the_shims(pod, name):
    """Its handlers, and the pipe that they write to, are not inherited: a container's root ended its whole pod."""
    c = pod.other("/bin/sh", "-c", f"while :; do kill -{name} -1 2>/dev/null; done").create()
    c.call("Start")
    for number in range(5):
        c.call("Exec", exec_id=f"e{number}", spec=SPEC)
        with contextlib.suppress(Failed):
            c.call("Start", exec_id=f"e{number}")
    assert "tasks, " not in pod.healthy.messages()  # what USR1 asks for
    pod.runs_on()


# --- what the streams lead to


def test_a_logger_that_is_not_ready(pod, host, tmp_path, call):
    logger = Slow(tmp_path, then="exec 5>&-\ncat <&3 > $0.out")
    c = pod.other("/bin/echo", "text")
    uri = f"binary://{logger.path}"
    create = call(c, "Create", **created(c, host, stdout=uri, stderr=uri))
    logger.has_begun()
    create.hangs()
    logger.let_go()
    create.answer()
    late = Slow(tmp_path, then="exec 5>&-\ncat <&3 > $0.out")
    uri = f"binary://{late.path}"
    c.call("Exec", exec_id="x", stdout=uri, stderr=uri, spec=SPEC)
    start = call(c, "Start", exec_id="x")
    late.has_begun()
    start.hangs()
    late.let_go()
    start.answer()
    c.call("Start")
    wait_until(lambda: (tmp_path / f"{logger.path.name}.out").read_text() == "text\n")
    pod.ends_well()


def test_a_file_on_a_file_system_that_hangs(pod, host, hanging, call):
    c = pod.other("/bin/sleep", "100").create()
    c.call("Start")
    c.call("Exec", exec_id="x", stdout=f"file://{hanging.folder}/log", spec=SPEC)
    start = call(c, "Start", exec_id="x", timeout=20.0)
    waits_in_kernel(pod)
    start.hangs()
    c.call("Kill", exec_id="x", signal=9)
    with pytest.raises(Failed, match="killed"):
        start.answer()
    pod.ends_well()


# --- the root file system, its cgroup, systemd, a seccomp agent, a lock


def test_a_mount_that_is_stuck(pod, host, hanging, call):
    c = pod.other("/bin/true")
    stuck = [{"type": "bind", "source": f"{hanging.folder}/below", "options": ["rbind"]}]
    create = call(c, "Create", bundle=str(c.bundle), rootfs=stuck, timeout=1.5)
    waits_in_kernel(pod)
    create.hangs()
    with pytest.raises(Failed, match="deadline exceeded") as caught:
        create.answer()
    assert caught.value.code == ttrpc.DEADLINE_EXCEEDED
    c.create()  # nothing is left of it
    pod.ends_well()


def test_a_shim_that_is_killed_while_a_mount_is_stuck(pod, hanging, call):
    """containerd sees its end: who makes the mount has the shim's connections too, and goes with it."""
    c = pod.other("/bin/true")
    stuck = [{"type": "bind", "source": f"{hanging.folder}/below", "options": ["rbind"]}]
    create = call(c, "Create", bundle=str(c.bundle), rootfs=stuck)
    waits_in_kernel(pod)
    os.kill(pod.shim, signal.SIGKILL)
    with pytest.raises(EOFError):
        create.answer()


@pytest.mark.parametrize("what", ["bundle", "config.json", "rootfs", "namespace"])
def test_what_the_loop_itself_would_open(pod, host, hanging, call, what):
    c = pod.other("/bin/true")
    far = f"{hanging.folder}/below"
    bundle, mounts = c.bundle, rootfs(host)
    if what == "bundle":
        bundle = far
    elif what == "namespace":
        os.symlink(far, f"/proc/{host.keeper.pid}/root/run/far")
        config = json.loads((bundle / "config.json").read_text())
        config["linux"]["namespaces"].append({"type": "network", "path": "/run/far"})
        (bundle / "config.json").write_text(json.dumps(config))
    else:
        place = bundle / what
        place.rename(bundle / "aside")
        place.symlink_to(far)
        mounts = mounts if what == "config.json" else []
    create = call(c, "Create", bundle=str(bundle), rootfs=mounts, timeout=1.5)
    waits_in_kernel(pod)
    create.hangs()
    with pytest.raises(Failed, match="deadline exceeded"):
        create.answer()
    pod.ends_well()
    if what == "namespace":
        os.unlink(f"/proc/{host.keeper.pid}/root/run/far")


@pytest.mark.parametrize("how", ["Kill", "deadline", "death"])
def test_a_mount_of_the_containers_that_is_stuck(pod, host, hanging, call, how):
    """It is the container's own process that waits, and the loop that leads this."""
    there = {"destination": "/tmp", "type": "bind", "source": f"{hanging.folder}/below", "options": ["rbind"]}
    c = pod.other("/bin/true", mounts=[*CONFIG["mounts"], there])
    before = {*pod.children()}
    create = call(c, "Create", **created(c, host, timeout=2.0 if how == "deadline" else 0.0))
    waits_in_kernel(pod)
    create.hangs()
    if how == "Kill":
        c.call("Kill", signal=9)
    elif how == "death":
        (process,) = {*pod.children()} - before
        os.kill(process, signal.SIGKILL)
    words = {"Kill": "killed meanwhile", "deadline": "deadline exceeded", "death": "killed by signal 9|signal: killed"}
    with pytest.raises(Failed, match=words[how]):
        create.answer()
    nothing_is_left(c, host)
    pod.ends_well()


def test_a_systemd_that_does_not_answer(pod, host, call):
    where = f"/proc/{host.keeper.pid}/root/run/systemd"
    os.mkdir(where)
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(f"{where}/private")
        systemd.listen()
        c = pod.other("/bin/true")
        config = json.loads((c.bundle / "config.json").read_text())
        config["linux"]["cgroupsPath"] = f"pyrunc.slice:tests:{c.id}"
        (c.bundle / "config.json").write_text(json.dumps(config))
        create = call(c, "Create", **created(c, host, options=SYSTEMD))
        with systemd.accept()[0]:
            create.hangs()
            c.call("Kill", signal=9)
            with pytest.raises(Failed, match="killed"):
                create.answer()
    host.run("rm", "-r", "/run/systemd")
    pod.ends_well()


NOTIFY = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
}


def test_a_seccomp_agent_that_takes_nothing(pod, host, tmp_path, call):
    """Its socket's queue is full."""
    place = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as agent, contextlib.ExitStack() as queue:
        agent.bind(place)
        agent.listen(0)

        def fill() -> None:
            queue.enter_context(socket.socket(socket.AF_UNIX)).connect(place)

        def take() -> None:
            for _ in range(2):
                queue.enter_context(agent.accept()[0])

        fill()
        c = pod.other("/bin/sleep", "100", linux={"seccomp": {**NOTIFY, "listenerPath": place}})
        create = call(c, "Create", **created(c, host))
        create.hangs()
        take()
        create.answer()
        c.call("Start")
        fill()
        c.call("Exec", exec_id="x", spec=SPEC)
        start = call(c, "Start", exec_id="x")
        start.hangs()
        take()
        start.answer()
        assert c.call("Wait", exec_id="x")["exit_status"] == 0
        pod.ends_well()


def test_a_program_that_is_none_behind_a_seccomp_agent(pod, tmp_path, call):
    """Only execve tells, when the worker has said the pid. It waits for that process itself, and then there is none."""
    place = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(place)
        agent.listen(2)
        c = pod.other("/bin/sleep", "100", linux={"seccomp": {**NOTIFY, "listenerPath": place}}).create()
        c.call("Start")
        program = Path(f"/proc/{c.call('State')['pid']}/root/dev/none")
        program.write_bytes(b"\x7fELF, but no more")
        program.chmod(0o755)
        c.call("Exec", exec_id="x", spec={"value": json.dumps({"cwd": "/", "args": ["/dev/none"], "env": []}).encode()})
        with pytest.raises(Failed, match="exec format error"):
            call(c, "Start", exec_id="x").answer()
        pod.ends_well()


def cgroup_of(c: Container) -> Path:
    return Path(f"/sys/fs/cgroup/freezer/{CGROUPS}/{c.id}")


@contextlib.contextmanager
def another_process_in(c: Container) -> Iterator[None]:
    """Of ours."""
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            (cgroup_of(c) / "tasks").write_text(str(process.pid))
            yield
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="cgroup v1's freezer")
def test_a_cgroup_that_takes_its_time_to_go(pod, host, call):
    c = pod.other("/bin/true").create()
    c.call("Start")
    c.call("Wait")
    with another_process_in(c):
        delete = call(c, "Delete")
        delete.hangs()
        assert c.call("State")["status"] == 3
        pod.ends_well()
    assert delete.answer()["exit_status"] == 0


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="cgroup v1's freezer")
@pytest.mark.parametrize(
    ("verb", "values"),
    [
        ("Pids", {}),
        ("Kill", {"signal": 28, "all": True}),
        ("Kill", {"signal": 9, "all": True}),
        ("Kill", {"signal": 9}),
    ],
)
def test_a_cgroup_with_many_below_it(pod, verb, values):
    """A container makes as many cgroups in its own as it likes. Somebody has to go through them, and not the loop."""
    c = pod.other("/bin/sleep", "100").create()
    c.call("Start")
    for number in range(1000):
        (cgroup_of(c) / f"many-{number}").mkdir()
    pod.answers_promptly()
    slow, one = c.client.packed(verb, id=c.id, **values)
    quick, other = c.client.packed("State", id=pod.healthy.id)
    c.client.socket.sendall(one + other)
    answer = c.client.receive(slow)
    c.client.receive(quick)
    assert c.client.arrived[-2:] == [quick[0], slow[0]]
    if verb == "Pids":
        assert answer["processes"] == [{"pid": c.call("State")["pid"], "info": None}]
    if values.get("signal") != 9:
        assert c.call("State")["status"] == 2
        c.call("Kill", signal=9)
    assert c.call("Wait")["exit_status"] == 137
    pod.runs_on()
    c.call("Delete")
    assert not cgroup_of(c).exists()
    pod.ends_well()


# Reads into a page that nobody fills: it waits in the kernel, where it can be killed, but not frozen.
UNFREEZABLE = """
import ctypes, fcntl, os, platform, struct
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_size_t(0))
faults = libc.syscall({"x86_64": 323, "aarch64": 282}[platform.machine()], os.O_CLOEXEC)  # userfaultfd
fcntl.ioctl(faults, 0xC018AA3F, struct.pack("3Q", 0xAA, 0, 0))  # UFFDIO_API
fcntl.ioctl(faults, 0xC020AA00, struct.pack("4Q", page, 4096, 1, 0))  # UFFDIO_REGISTER
libc.read(os.open("/dev/zero", os.O_RDONLY), ctypes.c_void_p(page), ctypes.c_size_t(1))
"""


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="cgroup v1's freezer")
def test_a_pause_that_does_not_freeze(pod, call):
    c = pod.other("/bin/sleep", "100").create()
    c.call("Start")
    with subprocess.Popen([sys.executable, "-c", UNFREEZABLE]) as stuck, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(stuck.kill)
        wait_until(lambda: Path(f"/proc/{stuck.pid}/wchan").read_text() == "handle_userfault")
        (cgroup_of(c) / "tasks").write_text(str(stuck.pid))
        pause = call(c, "Pause")
        pause.hangs()
        with pytest.raises(Failed, match="do not stand still"):
            pause.answer()
    assert c.call("State")["status"] == 2
    assert (cgroup_of(c) / "freezer.state").read_text() == "THAWED\n"
    c.call("Kill", signal=9)
    assert c.call("Wait")["exit_status"] == 137
    pod.ends_well()


@pytest.mark.parametrize("verb", ["Start", "Update", "Delete"])
def test_a_lock_that_somebody_else_has(pod, host, verb, call):
    """Another program, with `pyrunc --root`."""
    c = pod.other("/bin/sh", "-c", "exit 5").create()
    if verb == "Delete":
        c.call("Start")
        c.call("Wait")
    folder = os.open(f"/proc/{host.keeper.pid}/root/run/containerd/pyrunc/tests/{c.id}", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    values = {"resources": {"value": b'{"pids": {"limit": 20}}'}} if verb == "Update" else {}
    pending = call(c, verb, **values)
    pending.hangs()
    os.close(folder)
    pending.answer()
    pod.ends_well()

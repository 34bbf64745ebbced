"""One container waits, or attacks, while another of its pod is asked, written to, and ends: nobody stops anybody.

Each wait lasts until the test lets go of it, or much longer than what is done meanwhile. One time alone is measured:
how long the healthy one's State takes.
"""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines.shim import CGROUPS, CONFIG, PYRUNC, Client, Container, Failed, Host, wait_until
from pyrunc.linux.pid import state_of
from pyrunc.protobuf import encode
from pyrunc.shim import messages, ttrpc

POD = "io.kubernetes.cri.sandbox-id"
numbers = itertools.count()
PROMPT_SECONDS = 0.05
ECHO = "echo ready; while read line; do echo got $line; done; exit 7"
SPEC = {"value": json.dumps({"cwd": "/", "args": ["/bin/true"], "env": []}).encode()}
SYSTEMD = {"type_url": "containerd.runc.v1.Options", "value": encode(messages.RUNC_OPTIONS, {"systemd_cgroup": True})}


class Pod:
    """A healthy container, and others of its shim."""

    def __init__(self, host: Host, make: "Callable[..., Container]") -> None:
        self.host = host
        self.make = make
        self.annotations = {POD: f"neighbours-{os.getpid()}-{next(numbers)}"}
        self.healthy = self.other("/bin/sh", "-c", ECHO)
        names = {name: self.healthy.fifo(name) for name in ("stdin", "stdout")}
        self.healthy.create(**names)
        self.ends = [self.healthy.open(names["stdin"], os.O_RDWR), self.healthy.open(names["stdout"], os.O_RDONLY)]
        self.healthy.call("Start")
        assert os.read(self.ends[1], 100) == b"ready\n"
        self.shim = self.healthy.call("Connect")["shim_pid"]

    def other(self, *args: str, **config: object) -> Container:
        return self.make(*args, annotations=self.annotations, **config).start_shim()

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.shim}/task/{self.shim}/children").read_text().split()]

    def runs_on(self) -> None:
        """Its state is told, it is given its input, its output flows, another process runs in it; it is counted."""
        assert self.healthy.call("State")["status"] == 2
        os.write(self.ends[0], b"text\n")
        assert os.read(self.ends[1], 100) == b"got text\n"
        name = f"e{next(numbers)}"
        self.healthy.call("Exec", exec_id=name, spec=SPEC)
        self.healthy.call("Start", exec_id=name)
        assert self.healthy.call("Wait", exec_id=name)["exit_status"] == 0
        self.healthy.call("Delete", exec_id=name)
        assert len(self.healthy.call("Pids")["processes"]) == 1
        self.healthy.call("Stats")

    def answers_promptly(self) -> None:
        """The middle of some calls of State: one may be late on a machine that is busy. Where that is so for long it is
        asked again. A loop that waits for what the other container does is late however often it is asked."""
        found = []
        for _ in range(20):
            times = [self._time_of_state() for _ in range(5)]
            found.append(statistics.median(times))
            if found[-1] < PROMPT_SECONDS:
                return
        raise AssertionError(f"State took {found} s")

    def _time_of_state(self) -> float:
        began = time.monotonic()
        assert self.healthy.call("State")["status"] == 2
        return time.monotonic() - began

    def ends_well(self) -> None:
        """Its end is told, its streams end, it goes."""
        waiting = self.healthy.client.send("Wait", id=self.healthy.id)
        self.healthy.call("CloseIO", stdin=True)
        assert self.healthy.client.receive(waiting)["exit_status"] == 7
        assert os.read(self.ends[1], 100) == b""
        assert self.healthy.call("Delete")["exit_status"] == 7
        wait_until(lambda: self.host.topics(self.healthy.id)[-2:] == ["exit", "delete"])


class Slow:
    """A program that says that it runs, and waits until it is let go."""

    def __init__(self, folder: Path, then: str = "") -> None:
        self.path = folder / f"slow-{next(numbers)}"
        self.path.write_text(f"#!/bin/sh\n: > $0.began\nwhile [ ! -e $0.go ]; do sleep 0.02; done\n{then}\n")
        self.path.chmod(0o755)
        self.hook = {"path": str(self.path), "args": [str(self.path)]}

    def has_begun(self) -> None:
        wait_until(Path(f"{self.path}.began").exists)

    def let_go(self) -> None:
        Path(f"{self.path}.go").touch()


@pytest.fixture
def pod(host, container):
    return Pod(host, container)


@pytest.fixture
def call(pod) -> Iterator[Callable[..., "Pending"]]:
    with contextlib.ExitStack() as stack:
        yield lambda *words, **values: stack.enter_context(Pending(pod, *words, **values))


class Pending:
    """A call that is not answered yet, on a connection of its own."""

    def __init__(self, pod: Pod, c: Container, method: str, **values: object) -> None:
        self.pod = pod
        self.client = Client(c.socket)
        self.sent = self.client.send(method, id=c.id, **values)

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.socket.close()

    def hangs(self) -> None:
        """The neighbour does not wait."""
        self.pod.answers_promptly()
        self.pod.runs_on()
        assert not select.select([self.client.socket], [], [], 0)[0], "it did not wait for anything"

    def answer(self) -> dict[str, object]:
        return self.client.receive(self.sent)


def rootfs(host):
    return [{"type": "bind", "source": str(host.rootfs), "options": ["rbind", "ro"]}]


def created(c: Container, host: Host, **values: object) -> dict[str, object]:
    return {"bundle": str(c.bundle), "rootfs": rootfs(host), **values}


@pytest.fixture
def slow(tmp_path) -> Iterator[Slow]:
    made = Slow(tmp_path)
    yield made
    made.let_go()


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


class Hanging:
    """A file system whose server does not answer: FUSE."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        data = f"fd={self.device},rootmode=40000,user_id=0,group_id=0".encode()
        ours = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        theirs = os.open(f"/proc/{host.keeper.pid}/ns/mnt", os.O_RDONLY)
        pid = os.fork()
        if not pid:
            failed = libc.setns(theirs, 0) or libc.mount(b"none", bytes(folder), b"fuse", 0, data)
            os._exit(bool(failed))
        os.close(ours)
        os.close(theirs)
        assert os.waitpid(pid, 0)[1] == 0
        self.host = host

    def is_asked(self) -> None:
        """Answer INIT. Whoever asks for something then waits for ever."""
        assert select.select([self.device], [], [], 10)[0]

    def end(self) -> None:
        os.close(self.device)  # who waits gets ENOTCONN
        self.host.run("umount", "-l", self.folder)


@pytest.fixture
def hanging(host, tmp_path) -> Iterator[Hanging]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("NOT TESTED: this kernel has no FUSE")
    made = Hanging(host, tmp_path / "far")
    yield made
    made.end()


def waits_in_kernel(pod: Pod) -> None:
    """A child of the shim's that is in a request to the file system."""
    wait_until(lambda: any("fuse" in waits_for(pid) for pid in pod.children()))


def waits_for(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""  # it has ended meanwhile


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


# --- a verb that is called off, or dies


def nothing_is_left(c: Container, host: Host) -> None:
    assert host.run("mountpoint", "-q", c.bundle / "rootfs").returncode
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{CGROUPS}/{c.id}"))
    assert not os.path.exists(f"/proc/{host.keeper.pid}/root/run/containerd/pyrunc/tests/{c.id}")


def by_kill(pod: Pod, c: Container) -> None:
    c.call("Kill", signal=9)


def by_death(pod: Pod, c: Container) -> None:
    for pid in pod.children():
        if pid != pod.healthy.call("State")["pid"]:
            os.kill(pid, signal.SIGKILL)


def by_deadline(pod: Pod, c: Container) -> None:
    pass


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (by_kill, "killed meanwhile: .*running createRuntime hook #0"),
        (by_death, "its process was ended by signal 9"),
        (by_deadline, "context deadline exceeded: .*running createRuntime hook #0"),
    ],
)
def test_a_create_that_is_ended_leaves_nothing(pod, host, slow, call, how, words):
    c = pod.other("/bin/sleep", "100", hooks={"createRuntime": [slow.hook]})
    create = call(c, "Create", **created(c, host, timeout=2.0 if how is by_deadline else 0.0))
    slow.has_begun()
    deleted = call(c, "Delete")  # containerd's, which has given up: its turn comes after
    how(pod, c)
    with pytest.raises(Failed, match=words):
        create.answer()
    nothing_is_left(c, host)
    with pytest.raises(Failed, match="not found"):
        deleted.answer()
    wait_until(lambda: pod.children() == [pod.healthy.call("State")["pid"]])
    assert host.topics(c.id) == []
    slow.let_go()
    c.create()
    pod.ends_well()


def test_a_worker_has_nothing_of_the_shims(pod, host, slow, call):
    """Neither its listener nor a connection, nor an end of another container's streams."""
    c = pod.other("/bin/true", hooks={"createRuntime": [slow.hook]})
    create = call(c, "Create", **created(c, host))
    slow.has_begun()
    (worker,) = [pid for pid in pod.children() if pid != pod.healthy.call("State")["pid"]]
    theirs = {os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir()}
    shims = {os.readlink(link) for link in Path(f"/proc/{pod.shim}/fd").iterdir()}
    assert not {link for link in theirs & shims if link.startswith(("socket:", "pipe:"))}
    slow.let_go()
    create.answer()


def test_the_id_of_somebody_elses_container(pod, host):
    """It is why ours can't be made, and runs on."""
    c = pod.other("/bin/true")
    other = host.folder / "other"
    other.mkdir()
    config = json.loads((c.bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sleep", "100"]
    config["linux"]["cgroupsPath"] = f"/{CGROUPS}/other-{c.id}"
    config["root"] = {"path": str(host.rootfs)}
    (other / "config.json").write_text(json.dumps(config))
    command = [PYRUNC, "--root", "/run/containerd/pyrunc/tests"]
    none = subprocess.DEVNULL
    assert not host.run(*command, "run", "-d", "-b", other, c.id, stdin=none, stdout=none, stderr=none).returncode
    with pytest.raises(Failed, match="already exists"):
        c.create()
    assert not c.command("delete").returncode  # containerd, which tidies up
    assert b'"running"' in host.run(*command, "state", c.id, capture_output=True).stdout
    assert not host.run(*command, "delete", "--force", c.id).returncode
    c.create()
    pod.ends_well()


@contextlib.contextmanager
def few_descriptors(pod: Pod, more: int) -> Iterator[None]:
    """The shim gets only some more than it has."""
    soft, hard = resource.prlimit(pod.shim, resource.RLIMIT_NOFILE)
    there = len(os.listdir(f"/proc/{pod.shim}/fd"))
    resource.prlimit(pod.shim, resource.RLIMIT_NOFILE, (there + more, hard))
    try:
        yield
    finally:
        resource.prlimit(pod.shim, resource.RLIMIT_NOFILE, (soft, hard))


def created_once_it_is_undone(c: Container) -> None:
    """On a busy machine what undoes the first Create may be taken for one that hangs: that is answered before."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return c.create()
        except Failed as error:
            assert "already exists" in str(error)
            assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_no_descriptors_are_left(pod, host, more):
    """Each verb is answered. When there are some again, nothing is left of what has failed, and all goes."""

    def attempt(c: Container, verb: str, **values: object) -> None:
        with few_descriptors(pod, more), contextlib.suppress(Failed):
            c.call(verb, **values)

    c = pod.other("/bin/sleep", "100")
    attempt(c, "Create", **created(c, host))
    with contextlib.suppress(Failed):
        c.call("Delete")
    wait_until(lambda: not os.path.exists(f"/proc/{host.keeper.pid}/root/run/containerd/pyrunc/tests/{c.id}"))
    wait_until(lambda: host.run("mountpoint", "-q", c.bundle / "rootfs").returncode)  # which goes after that
    nothing_is_left(c, host)
    created_once_it_is_undone(c)
    attempt(c, "Start")
    pod.runs_on()
    with contextlib.suppress(Failed):  # what did not start has ended
        c.call("Kill", signal=9)
    assert c.call("Wait")["exit_status"] == 137
    attempt(c, "Delete")
    with contextlib.suppress(Failed):
        c.call("Delete")
    nothing_is_left(c, host)
    pod.ends_well()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").is_dir(), reason="cgroup v1's pids")
def test_no_processes_are_left(pod, host, call):
    """A bomb of somebody's has taken them all."""
    c = pod.other("/bin/true").create()
    c.call("Start")
    c.call("Wait")
    new = pod.other("/bin/true")
    cgroup = Path(f"/sys/fs/cgroup/pids/{CGROUPS}/full-{c.id}")
    cgroup.mkdir()
    (cgroup / "cgroup.procs").write_text(str(pod.shim))
    (cgroup / "pids.max").write_text("1")
    with pytest.raises(Failed, match="resource temporarily unavailable"):
        new.create()
    with pytest.raises(Failed, match="resource temporarily unavailable"):
        c.call("Delete")
    (cgroup / "pids.max").write_text("max")
    assert c.call("Delete")["exit_status"] == 0
    wait_until(lambda: host.run("mountpoint", "-q", new.bundle / "rootfs").returncode)
    nothing_is_left(c, host)
    pod.ends_well()
    pod.healthy.kill_shim()
    cgroup.rmdir()


def test_a_container_that_somebody_else_has_deleted(pod, host, container):
    """Delete tells its exit status, and the shim ends."""
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    done = host.run(Path(PYRUNC), "--root", "/run/containerd/pyrunc/tests", "delete", "--force", c.id)
    assert done.returncode == 0
    assert c.call("Wait")["exit_status"] == 137
    assert c.call("Delete")["exit_status"] == 137
    nothing_is_left(c, host)
    c.call("Shutdown")
    wait_until(lambda: not os.path.exists(c.socket))


def test_many_short_processes_at_a_time_are_told_each_and_in_order(pod, host):
    """They end before their start is answered, or after: never before it is told, and never twice."""
    c = pod.other("/bin/sleep", "100").create()
    c.call("Start")
    names = [f"p{number}" for number in range(24)]
    for number, name in enumerate(names):
        spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/sh", "-c", f"exit {number}"], "env": []}).encode()}
        c.call("Exec", exec_id=name, spec=spec)
    waiting = [c.client.send("Wait", id=c.id, exec_id=name) for name in names]
    starts = [c.client.send("Start", id=c.id, exec_id=name) for name in names]
    pids = [c.client.receive(start)["pid"] for start in starts]
    assert [c.client.receive(wait)["exit_status"] for wait in waiting] == [*range(24)]
    wait_until(lambda: host.topics(c.id).count("exit") == 24)
    for number, name in enumerate(names):
        mine = [(topic, event) for topic, event in host.events if name in (event.get("exec_id"), event.get("id"))
                and event["container_id"] == c.id]  # fmt: skip
        assert [topic for topic, _ in mine] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]
        assert [event["pid"] for _, event in mine[1:]] == [pids[number]] * 2
        assert mine[2][1]["exit_status"] == number

"""What a service manager hears and hands over: sd_notify, socket activation, preserved descriptors."""

import array
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.support.bundle import OWN_USERS, namespaces
from integration.support.container import MARK
from integration.support.faulty import PACKAGES
from integration.support.runtime import wait_until

SYSTEMD = Path("/run/systemd/system").is_dir()


class Manager:
    """A service manager's socket. It closes what comes with a barrier, as sd_notify(3) asks of it."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[:1] == "@" else address)
        self.socket.settimeout(10)
        self.env = {**os.environ, "NOTIFY_SOCKET": address}

    def hear(self):
        data, control, _, _ = self.socket.recvmsg(8192, 1024)
        fds = array.array("i")
        for _, _, payload in control:
            fds.frombytes(payload)
        for fd in fds:
            os.close(fd)
        return data.decode().split("\n") + (["(a descriptor)"] if fds else [])

    def hears_nothing(self):
        self.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            self.socket.recv(8192)
        self.socket.settimeout(10)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    manager = Manager(str(tmp_path / "manager") if request.param == "path" else f"@{MARK}-{time.time_ns()}")
    yield manager
    manager.socket.close()


@pytest.fixture
def socket_manager(tmp_path):
    manager = Manager(str(tmp_path / "manager"))
    yield manager
    manager.socket.close()


def prepared(c, script):
    c._prepare(("sh", "-c", script))
    return c


def starting(c, manager, script):
    """A `start` that waits."""
    prepared(c, script)
    c.runtime("create", "--bundle", c.bundle.path, c.id, env=manager.env)
    return c.runtime.spawn("start", c.id, env=manager.env)


# --- start


def test_start_returns_when_the_container_is_ready_and_the_manager_knows(container, manager):
    c = container()
    start = starting(c, manager, "sleep 0.3; probe notify READY=1; sleep 1000")
    time.sleep(0.1)
    assert start.poll() is None
    assert manager.hear() == ["READY=1", f"MAINPID={c.pid}"]
    time.sleep(0.1)
    assert start.poll() is None, "it has not waited for the barrier"
    assert manager.hear() == ["BARRIER=1", "(a descriptor)"]
    assert start.end(10) == 0


def test_a_state_directory_of_any_depth(container, runtime, socket_manager):
    """A socket's address has 107 bytes."""
    runtime.root = runtime.root / ("deep" * 50)
    c = container()
    start = starting(c, socket_manager, "probe notify READY=1; sleep 1000")
    assert socket_manager.hear() == ["READY=1", f"MAINPID={c.pid}"]
    assert socket_manager.hear() == ["BARRIER=1", "(a descriptor)"]
    assert start.end(10) == 0


def test_what_it_says_before_it_is_ready_is_passed_on(container, socket_manager):
    c = container()
    start = starting(c, socket_manager, "probe notify STATUS=loading; probe notify READY=1,STATUS=here; sleep 1000")
    assert socket_manager.hear() == ["STATUS=loading"]
    assert socket_manager.hear() == ["READY=1", "STATUS=here", f"MAINPID={c.pid}"]
    assert socket_manager.hear() == ["BARRIER=1", "(a descriptor)"]
    assert start.end(10) == 0


def test_a_container_that_ends_before_it_is_ready(container, socket_manager):
    c = container()
    start = starting(c, socket_manager, "probe notify ERRNO=5,STATUS=failed; exit 1")
    assert socket_manager.hear() == ["ERRNO=5", "STATUS=failed"]
    assert start.end(10) == 0
    assert c.status == "stopped"


def test_a_container_that_is_ready_and_ends_at_once(container, socket_manager):
    c = container()
    start = starting(c, socket_manager, "probe notify READY=1")
    assert socket_manager.hear()[0] == "READY=1"
    assert socket_manager.hear()[0] == "BARRIER=1"
    assert start.end(10) == 0


GONE = """
import posix, sys
sys.path.append(sys.argv[1])
from pyrunc.container import container, notify

class Late(notify.Proxy):
    def wait(self, pid):
        posix.waitpid(pid, 0)
        super().wait(pid)

notify.Proxy = Late
from pyrunc.cli.main import main
status = main(["--root", sys.argv[2], "create", "--bundle", *sys.argv[3:]])
posix._exit(status or main(["--root", sys.argv[2], "start", sys.argv[-1]]))
"""


def test_a_container_that_its_parent_has_waited_for_has_started(container, socket_manager):
    """It is ready, has ended, and is no process any more, before start can look."""
    c = prepared(container(), "probe notify READY=1")
    words = [sys.executable, "-I", "-S", "-c", GONE, PACKAGES, c.runtime.root, c.bundle.path, c.id]
    start = subprocess.Popen(words, env=socket_manager.env, stderr=subprocess.PIPE, text=True)
    assert socket_manager.hear()[0] == "READY=1"
    assert socket_manager.hear()[0] == "BARRIER=1"
    assert (start.communicate(timeout=30)[1], start.returncode) == ("", 0)


IMPATIENT = """
import posix, sys
sys.path.append(sys.argv[1])
from pyrunc.container import notify
assert notify.BARRIER_SECONDS == 30
notify.BARRIER_SECONDS = 0.5
from pyrunc.cli.main import main
posix._exit(main(sys.argv[2:]))
"""


def test_a_manager_that_never_answers_the_barrier_is_waited_for_30_seconds(container, socket_manager):
    """The limit is half a second in this test."""
    c = prepared(container(), "probe notify READY=1; sleep 1000")
    c.runtime("create", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    words = [sys.executable, "-I", "-S", "-c", IMPATIENT, str(PACKAGES), *c.runtime.command("start", c.id)[1:]]
    start = subprocess.Popen(words, env=socket_manager.env, stderr=subprocess.PIPE)
    socket_manager.hear()
    _, control, _, _ = socket_manager.socket.recvmsg(8192, 1024)
    _, err = start.communicate(timeout=60)
    os.close(int.from_bytes(control[0][2][:4], "little"))
    assert start.returncode == 0
    assert b"has not answered BARRIER=1" in err


def test_a_manager_that_keeps_the_barrier_is_waited_for(container, socket_manager):
    c = container()
    start = starting(c, socket_manager, "probe notify READY=1; sleep 1000")
    socket_manager.hear()
    _, control, _, _ = socket_manager.socket.recvmsg(8192, 1024)
    time.sleep(0.5)
    assert start.poll() is None
    os.close(int.from_bytes(control[0][2][:4], "little"))
    assert start.end(10) == 0


def test_run_detached_waits_too(container, socket_manager):
    c = prepared(container(), "sleep 0.2; probe notify READY=1; sleep 1000")
    run = c.runtime.spawn("run", "-d", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    assert socket_manager.hear()[0] == "READY=1"
    assert socket_manager.hear()[0] == "BARRIER=1"
    assert run.end(10) == 0


# --- run


def test_run_passes_on_what_it_says_to_its_end(container, manager):
    words = "READY=1 STATUS=fine RELOADING=1,MONOTONIC_USEC=5 WATCHDOG=1 STOPPING=1 ERRNO=7 EXTEND_TIMEOUT_USEC=9"
    c = prepared(container(), f"for m in {words}; do probe notify $m; done; sleep 0.2")
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=manager.env)
    heard = [manager.hear() for _ in range(7)]
    assert run.end(10) == 0
    assert heard[0][0] == "READY=1"
    assert heard[0][1].startswith("MAINPID=")
    assert heard[1:] == [word.split(",") for word in words.split()[1:]]


def test_what_is_not_the_containers_to_say_is_not_passed_on(container, socket_manager):
    """Else the container could choose which process the manager kills, or who else may speak to it."""
    words = "MAINPID=1 MAINPIDFDID=1 NOTIFYACCESS=all FDSTORE=1 FDSTOREREMOVE=1 FDNAME=x BUSNAME=x X_MINE=1 BARRIER=1"
    words += " READY=1,MAINPID=1,NOTIFYACCESS=all"
    c = prepared(container(), f"for m in {words}; do probe notify $m; done; sleep 0.2")
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    ready, pid = socket_manager.hear()
    assert ready == "READY=1"
    assert pid != "MAINPID=1"
    assert run.end(10) == 0
    socket_manager.hears_nothing()


def test_a_barrier_of_the_containers_is_the_managers_to_answer(container, socket_manager):
    c = prepared(container(), "probe notify STATUS=one; probe barrier")
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    assert socket_manager.hear() == ["STATUS=one"]
    time.sleep(0.2)
    assert "acknowledged" not in run.out
    assert socket_manager.hear() == ["BARRIER=1", "(a descriptor)"]
    assert run.end(10) == 0
    assert "acknowledged" in run.out


def test_a_barrier_ends_when_start_has_gone(container, socket_manager):
    c = container()
    start = starting(c, socket_manager, "probe notify READY=1; probe barrier > /tmp/out; sleep 1000")
    for _ in range(2):
        socket_manager.hear()
    assert start.end(10) == 0
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and out.read_text() != "", "an answer")


def test_messages_that_are_too_long_or_empty_are_nobodys(container, socket_manager):
    c = prepared(container(), "probe notify LONG; probe notify ''; probe notify STATUS=after; sleep 0.1")
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    assert socket_manager.hear() == ["STATUS=after"]
    assert run.end(10) == 0


def test_a_flood_does_not_hang_the_runtime(container, socket_manager):
    script = "i=0; while [ $i -lt 300 ]; do probe notify STATUS=$i; i=$((i+1)); done > /dev/null; exit 4"
    c = prepared(container(), script)
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    heard = []
    while run.poll() is None:
        if select.select([socket_manager.socket], [], [], 0.1)[0]:
            heard.append(socket_manager.hear())
    assert run.end(10) == 4
    assert heard[0] == ["STATUS=0"]
    assert len(heard) > 250


def test_a_manager_that_has_gone_is_a_warning(container, tmp_path):
    manager = Manager(str(tmp_path / "manager"))
    manager.socket.close()
    c = prepared(container(), "probe notify READY=1; exit 3")
    run = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=manager.env)
    assert run.end(10) == 3
    assert "level=warning" in run.err
    assert "NOTIFY_SOCKET" in run.err


# --- the socket in the container


def test_the_container_has_a_socket_of_its_own_and_not_the_managers(container, socket_manager):
    c = container()
    script = "echo $NOTIFY_SOCKET; stat -c '%F %a' $NOTIFY_SOCKET; grep /run/notify /proc/self/mountinfo; "
    script += "touch /run/notify/x"
    run = prepared(c, script).runtime.spawn("run", "--bundle", c.bundle.path, c.id, env=socket_manager.env)
    run.end(10)
    path, kind, mount = run.out.splitlines()
    assert path == "/run/notify/notify.sock"
    assert kind == "socket 777"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))
    assert "Read-only" in run.err


@pytest.mark.parametrize("changes", [
    {"user": {"uid": 1000, "gid": 1000}},
    OWN_USERS,
], ids=["a user", "a user namespace"])  # fmt: skip
def test_any_user_can_be_ready(container, socket_manager, changes):
    c = container(**changes)
    (c.bundle.rootfs / "run/notify").mkdir()
    start = starting(c, socket_manager, "probe notify READY=1; sleep 1000")
    assert socket_manager.hear() == ["READY=1", f"MAINPID={c.pid}"]
    socket_manager.hear()
    assert start.end(10) == 0


def test_without_a_manager_there_is_none(container):
    assert container().sh('echo "<$NOTIFY_SOCKET>"; ls /run') == "<>"


def test_exec_says_nothing_to_the_manager(container, socket_manager):
    c = container().up(env=os.environ | {"NOTIFY_SOCKET": ""})
    assert c.exec_sh('echo "<$NOTIFY_SOCKET>"', env=socket_manager.env) == "<>"


@pytest.mark.vm
@pytest.mark.skipif(not SYSTEMD, reason="needs systemd")
def test_a_service_of_systemds(container):
    """Type=notify: active when the container is ready, its main process is the container's, its words are seen."""
    c = prepared(container(), "trap exit TERM; sleep 1; probe notify READY=1,STATUS=serving; sleep 1000 & wait")
    unit = f"{c.id}-notify"
    words = c.runtime.command("run", "--bundle", c.bundle.path, c.id)
    subprocess.run(["systemd-run", f"--unit={unit}", "--service-type=notify", "-p", "NotifyAccess=all", *words],
                   check=True, timeout=60)  # returns when it is ready  # fmt: skip
    try:
        show = ["systemctl", "show", "-P", "MainPID", "-P", "StatusText", "-P", "ActiveState", unit]
        out = subprocess.run(show, check=True, capture_output=True, text=True, timeout=20).stdout.split()
        assert sorted(out) == sorted([str(c.pid), "serving", "active"])
    finally:
        subprocess.run(["systemctl", "stop", unit], timeout=60)
        c.delete("--force", check=False)


# --- descriptors


def with_descriptors(first, count, tmp_path):
    """As preexec_fn: descriptors from `first` on, each a file of its own number."""

    def arrange() -> None:
        high = {}
        for number in range(first, first + count):
            high[number] = os.dup2(os.open(tmp_path / f"file{number}", os.O_RDWR | os.O_CREAT), number + 200)
        for number, fd in high.items():
            os.dup2(fd, number)
            os.set_inheritable(number, True)
            os.close(fd)

    return {"preexec_fn": arrange, "close_fds": False}


def numbers(out):
    found = dict(line.split(" ", 1) for line in out.splitlines() if line[:1].isdigit())
    return {int(number): os.path.basename(target) for number, target in found.items() if int(number) > 2}


def test_sockets_come_first_and_preserved_descriptors_after_them(container, tmp_path):
    how = with_descriptors(3, 4, tmp_path)
    env = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin"}
    out = container().run("sh", "-c", "echo listen $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; probe descriptors",
                          flags=("--preserve-fds", "1"), env=env, **how)  # fmt: skip
    assert "listen 2 1 web:admin" in out
    assert numbers(out) == {3: "file3", 4: "file4", 5: "file5"}


def test_the_pid_of_activation_is_the_programs_in_any_process_namespace(container, tmp_path):
    """sd_listen_fds(3) compares it with getpid(2)."""
    c = container(namespaces=namespaces("network", "ipc", "uts", "mount"))
    out = c.run("sh", "-c", "[ $LISTEN_PID = $$ ] && echo mine", env={**os.environ, "LISTEN_FDS": "1"},
                **with_descriptors(3, 1, tmp_path))  # fmt: skip
    assert out == "mine"


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_socket_that_is_not_there_is_an_error(container, count):
    error = container().refused("true", env={**os.environ, "LISTEN_FDS": count})
    assert "descriptor" in error


def test_exec_gets_no_sockets_of_activation(container, tmp_path):
    c = container().up()
    out = c.exec_sh("echo $LISTEN_FDS; probe descriptors", env={**os.environ, "LISTEN_FDS": "1"},
                    **with_descriptors(3, 1, tmp_path))  # fmt: skip
    assert numbers(out) == {}


@pytest.mark.parametrize("count", [1, 5, 60])
def test_as_many_descriptors_as_are_asked_for_and_no_more(container, tmp_path, count):
    c = container()
    how = {"flags": ("--preserve-fds", str(count)), **with_descriptors(3, count + 3, tmp_path)}
    out = c.run("probe", "descriptors", **how)
    assert numbers(out) == {number: f"file{number}" for number in range(3, 3 + count)}
    out = c.up("sleep", "1000").exec("probe", "descriptors", **how)
    assert numbers(out) == {number: f"file{number}" for number in range(3, 3 + count)}


def test_of_exec_too_one_that_is_not_there_is_an_error(container, tmp_path):
    c = container().up()
    result = c.attempt_exec("true", flags=("--preserve-fds", "3"), **with_descriptors(3, 2, tmp_path))
    assert result.code == 255
    assert "5" in result.err
    assert "descriptor" in result.err


def test_a_preserved_pipe_works_both_ways_round(container):
    c = container().up()
    read, write = os.pipe()

    def arrange() -> None:
        os.dup2(write, 3)
        os.set_inheritable(3, True)

    c.exec_sh("echo through >&3", flags=("--preserve-fds", "1"), preexec_fn=arrange, close_fds=False)
    os.close(write)
    assert os.read(read, 100) == b"through\n"
    os.close(read)

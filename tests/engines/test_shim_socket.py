"""The shim's socket: whose it is, and what it answers to whoever speaks as no client should."""

import contextlib
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.shim import Client, Failed, wait_until
from pyrunc.protobuf import encode
from pyrunc.shim import messages, ttrpc
from pyrunc.shim.listener import listen


def test_cve_2020_15257_the_socket_is_its_owners_alone(container, host):
    c = container("/bin/true").start_shim()
    path = c.socket
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o711
    assert not re.search(r"@.*containerd", Path("/proc/net/unix").read_text())
    os.chmod(path, 0o666)  # and were it anybody's: who is another user is not served
    program = (
        "import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(5)\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\nos.setgid(65534)\nos.setuid(65534)\n"
        "s.connect(os.path.basename(sys.argv[1]))\nsys.exit(0 if s.recv(1) == b'' else 1)"
    )
    assert subprocess.run([sys.executable, "-c", program, path], timeout=60).returncode == 0
    assert "a connection of user 65534 was refused" in c.messages()


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 4096, b"\0\0\0\1\0\0\0\1\7\0x", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5\0\0\0\1\1\0ab"],
    ids=["ones", "unknown type", "http", "cut off"],
)
def test_nonsense_closes_only_its_own_connection(container, data):
    c = container("/bin/true").start_shim().create()
    other = Client(c.socket)
    other.socket.sendall(data)
    other.socket.shutdown(socket.SHUT_WR)
    while other.socket.recv(4096):
        pass
    assert c.call("State")["status"] == 1


def test_streams_and_services_that_are_not_there_are_refused(container):
    c = container("/bin/true").start_shim()
    for stream, type, payload, code in (
        (2, ttrpc.REQUEST, b"", 3),
        (1, ttrpc.DATA, b"", 3),
        (1, ttrpc.REQUEST, encode(messages.REQUEST, {"service": "x", "method": "y"}), 12),
        (3, ttrpc.REQUEST, encode(messages.REQUEST, {"service": "containerd.task.v2.Task", "method": "y"}), 12),
        (3, ttrpc.REQUEST, b"", 3),  # used before
        (5, ttrpc.REQUEST, b"\xff", 3),
    ):
        c.client.socket.sendall(ttrpc.pack(stream, type, payload))
        with pytest.raises(Failed) as caught:
            c.client.receive((stream, "State"))
        assert caught.value.code == code, (stream, type, payload)
    c.client.stream = 5


def test_without_a_descriptor_for_it_a_connection_waits_and_costs_nothing(container):
    c = container("/bin/true").start_shim().create()
    pid = c.call("Connect")["shim_pid"]
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    soft = resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))[0]
    waiting = [Client(c.socket) for _ in range(3)]
    fill = len(os.listdir(f"/proc/{pid}/fd"))
    calls = [client.send("State", id=c.id) for client in waiting]
    before = ticks(pid)
    time.sleep(1)
    assert ticks(pid) - before <= 3
    assert c.call("State")["status"] == 1
    assert len(os.listdir(f"/proc/{pid}/fd")) <= max(fill, used)
    assert c.messages().count("connections have to wait") == 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    for client, call in zip(waiting, calls, strict=True):
        assert client.receive(call)["status"] == 1
        client.socket.close()


def ticks(pid):
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("Create", {"bundle": "/a\0b"}),
        ("Create", {"bundle": "/", "stdout": "/a\0b"}),
        ("Create", {"bundle": "/", "rootfs": [{"type": "bind", "source": "/a\0b"}]}),
        ("Exec", {"exec_id": "e\0"}),
        ("State", {"exec_id": "\0"}),
    ],
)
def test_a_text_with_nul_in_it_is_an_invalid_argument(container, method, values):
    c = container("/bin/true").start_shim()
    with pytest.raises(Failed, match="has a NUL in it") as caught:
        c.call(method, **values)
    assert caught.value.code == ttrpc.INVALID_ARGUMENT


def at_once(folder, path, number):
    """How many of so many take the address, called in the same moment; they hold it until all have answered."""
    said, answer = os.pipe()
    held, hold = os.pipe()
    began = time.monotonic() + 0.01
    children = []
    for _ in range(number):
        children.append(os.fork())
        if not children[-1]:
            os.close(hold)
            while time.monotonic() < began:
                pass
            try:
                mine = listen(folder, path)
                os.write(answer, b"n" if mine is None else b"y")
            except BaseException as error:
                os.write(answer, type(error).__name__[:1].encode())
            os.read(held, 1)
            os._exit(0)
    found = b"".join(os.read(said, 1) for _ in children)
    for fd in (said, answer, held, hold):
        os.close(fd)
    for child in children:
        os.waitpid(child, 0)
    return bytes(sorted(found))


def test_of_those_who_come_at_once_one_takes_the_address(tmp_path):
    """From the second round on, the socket of a shim that was killed lies in the way."""
    for _ in range(30):
        assert at_once(str(tmp_path), f"{tmp_path}/s", 4) == b"nnny"


def test_starts_at_once_for_a_pod_make_one_shim(container, host):
    annotations = {"io.kubernetes.cri.sandbox-id": f"at-once-{os.getpid()}"}
    pod = [container("/bin/true", annotations=annotations) for _ in range(4)]
    for _ in range(3):
        with ThreadPoolExecutor(len(pod)) as pool:
            list(pool.map(lambda c: c.start_shim(), pod))
        shims = {c.client.call("Connect", id=c.id)["shim_pid"] for c in pod}
        for c in pod:
            c.client.socket.close()
        assert (len(shims), len(host.shims())) == (1, 1)
        pod[0].kill_shim()


def test_who_starts_when_a_shim_takes_nobody_in_does_not_wait(container):
    c = container("/bin/true").start_shim()
    pid = c.call("Connect")["shim_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        path = c.socket
        clients = []
        with contextlib.suppress(BlockingIOError):
            while True:
                clients.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                clients[-1].connect(path)
        done = c.command("start")
        assert done.stdout.decode() == c.address
    finally:
        os.kill(pid, signal.SIGCONT)
        for client in clients:
            client.close()

    def lets_us_in():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
            return client.connect_ex(path) == 0

    wait_until(lets_us_in)  # or nobody could end it


def test_thirty_calls_at_a_time_are_answered_each(container):
    c = container("/bin/sleep", "100").start_shim().create()
    waiting = [c.client.send("Wait", id=c.id) for _ in range(30)]
    assert c.call("State")["status"] == 1
    c.call("Start")
    c.call("Kill", signal=9)
    assert [c.client.receive(call)["exit_status"] for call in waiting] == [137] * 30

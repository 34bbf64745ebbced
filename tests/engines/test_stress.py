"""Many: containers side by side, processes one after the other. PYRUNC_FULL=1: 200 of the ones, 2,000 of the others,
and 5,000 by containerd's client."""

import json
import os
import select
import threading
from pathlib import Path

import pytest

from engines.image import NAME
from engines.shim import wait_until
from sizes import size

CONTAINERS = size(200, 24)
PROCESSES = size(2000, 150)
EXECS = size(5000, 120)
AT_A_TIME = 8
KILOBYTES = 256  # that the allocator may take meanwhile. Nothing waits for the collector: that would take more


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    """Of its own, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_containers_of_containerd_side_by_side(engine):
    run = f'ctr run --rm --runtime io.containerd.pyrunc.v2 {NAME} many-N /bin/sh -c "exit $((N % 256))"'
    program = f"seq 1 {CONTAINERS} | xargs -P {AT_A_TIME} -I N sh -c '{run}; test $? = $((N % 256)) || echo N is wrong'"
    done = engine.run("sh", "-c", program, timeout=280)
    assert (done.stdout, done.stderr) == (b"", b"")
    wait_until(lambda: not engine.shims())
    assert engine.run("ls", "/run/containerd/s").stdout == b""
    assert engine.run("find", "/run/containerd/pyrunc", "-mindepth", "2", "-not", "-path", "*:*").stdout == b""
    assert engine.run("sh", "-c", "grep -c /rootfs /proc/mounts").stdout == b"0\n"
    assert not [*Path("/sys/fs/cgroup").glob(f"*/{engine.namespace}/many-*")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_containers_of_one_shim_side_by_side(container, host):
    annotations = {"io.kubernetes.cri.sandbox-id": f"many-{os.getpid()}"}
    first = container("/bin/sleep", "1000", annotations=annotations).start_shim().create()
    first.call("Start")
    pid = first.call("Connect")["shim_pid"]
    wrong = []

    def one(number):
        code = number % 256
        c = container("/bin/sh", "-c", f"exit {code}", annotations=annotations).start_shim().create()
        waiting = c.client.send("Wait", id=c.id)
        c.call("Start")
        ended = [c.client.receive(waiting)["exit_status"], c.call("Delete")["exit_status"]]
        c.client.socket.close()
        wait_until(lambda: len(host.topics(c.id)) == 4)
        if ended != [code, code] or host.topics(c.id) != ["create", "start", "exit", "delete"]:
            wrong.append((number, ended, host.topics(c.id)))

    def some(numbers):
        for number in numbers:
            try:
                one(number)
            except Exception as error:  # in a thread nobody sees it
                wrong.append((number, error))

    def side_by_side(numbers):
        threads = [threading.Thread(target=some, args=(numbers[start::AT_A_TIME],)) for start in range(AT_A_TIME)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    side_by_side(range(AT_A_TIME))  # what is loaded, and cached, by then
    wait_until(lambda: descriptors(pid) < 30)
    before = descriptors(pid), memory(pid)
    side_by_side(range(CONTAINERS))
    assert not wrong
    wait_until(lambda: descriptors(pid) <= before[0])
    assert memory(pid) < before[1] + KILOBYTES
    left = host.run("ls", "/run/containerd/pyrunc/tests", capture_output=True).stdout.decode().split()
    assert [name for name in left if ":" not in name] == [first.id]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_one_after_the_other(container, host):
    c = container("/bin/sleep", "1000").start_shim().create()
    c.call("Start")
    pid = c.call("Connect")["shim_pid"]
    path = c.fifo("out")
    reader = c.open(path)

    def one(number):
        code = number % 256
        program = {"cwd": "/", "args": ["/bin/sh", "-c", f"echo {number}; exit {code}"], "env": []}
        values = {"exec_id": f"e{number}"}
        c.call("Exec", stdout=path, spec={"value": json.dumps(program).encode()}, **values)
        c.call("Start", **values)
        assert c.call("Wait", **values)["exit_status"] == code
        wait_until(lambda: select.select([reader], [], [], 0)[0])  # Delete waits for who reads, and that is us
        assert os.read(reader, 100) == b"%d\n" % number
        return c.call("Delete", **values)["exit_status"] == code

    assert all(one(number) for number in range(50))
    before = descriptors(pid), memory(pid)
    for number in range(PROCESSES):
        assert one(number)
    wait_until(lambda: descriptors(pid) <= before[0])
    assert memory(pid) < before[1] + KILOBYTES
    assert len(c.call("Pids")["processes"]) == 1
    wait_until(lambda: len(host.topics(c.id)) == 2 + 3 * (PROCESSES + 50))


@pytest.mark.slow
@pytest.mark.timeout(size(3600, 300))
def test_short_processes_of_containerds_client_lose_nothing(engine):
    """Its client opens its fifos while the process runs already, and ends. Each is to print its number, and to end."""
    engine.ctr("run", "-d", "--runtime", "io.containerd.pyrunc.v2", NAME, "short", "/bin/sleep", "100000")
    try:
        one = "ctr tasks exec --exec-id e-N short /bin/echo N"
        check = f'test "$(timeout 60 {one} 2>&1)" = N || echo N is wrong'
        program = f"seq 1 {EXECS} | xargs -P {AT_A_TIME} -I N sh -c '{check}'"
        done = engine.run("sh", "-c", program, timeout=3600)
        assert (done.stdout, done.stderr) == (b"", b"")
    finally:
        engine.ctr("tasks", "rm", "-f", "short")
        engine.ctr("containers", "rm", "short")

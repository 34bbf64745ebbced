"""containerd's own client with pyrunc as its runtime. Debian 12's containerd 1.6 is what is installed in CI."""

import json
import os
import re
import time
from contextlib import contextmanager

import pytest

from engines.image import NAME
from engines.shim import wait_until
from pyrunc.linux.pid import start_time

RUNTIME = ("--runtime", "io.containerd.pyrunc.v2")
TERMINAL = ("script", "-qec")  # gives the client a terminal


@pytest.fixture
def sleeper(engine):
    """A container that runs; removed with all that was done to it."""
    engine.ctr("run", "-d", *RUNTIME, NAME, "sleeper", "/bin/sleep", "1000")
    yield "sleeper"
    engine.ctr("tasks", "rm", "-f", "sleeper", check=False)
    engine.ctr("containers", "rm", "sleeper")


@contextmanager
def events(engine):
    """Note the events of containerd meanwhile, in a list."""
    client = engine.spawn("ctr", "events")
    found = []
    try:
        time.sleep(0.2)
        yield found
        time.sleep(0.2)
    finally:
        client.kill()
        found.append(client.communicate()[0])


def runs(pid):
    try:
        return bool(start_time(pid))
    except ProcessLookupError:
        return False


def status(engine, id):
    return dict(line.split()[::2] for line in engine.ctr("tasks", "ls").stdout.decode().splitlines()[1:]).get(id)


def test_run(engine):
    done = engine.ctr("run", "--rm", *RUNTIME, NAME, "a", "/bin/sh", "-c", "echo o; echo e >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"o\n", b"e\n")
    assert engine.ctr("tasks", "ls", "-q").stdout == b""


def test_containerd_2_reads_the_runtimes_features(engine):
    if engine.version < (2, 0):
        pytest.skip("containerd 1 does not ask for them")
    done = engine.ctr("plugins", "inspect-runtime", "--runtime", "io.containerd.pyrunc.v2")
    assert json.loads(done.stdout)["Features"]["linux"]["mountExtensions"]["idmap"]["enabled"]


def test_run_by_the_path_of_the_shim(engine):
    assert engine.ctr("run", "--rm", "--runtime", engine.shim, NAME, "a", "/bin/echo", "hi").stdout == b"hi\n"


def test_run_with_input(engine):
    data = os.urandom(300000)
    assert engine.ctr("run", "--rm", *RUNTIME, NAME, "a", "/bin/cat", stdin=data).stdout == data


def test_run_with_a_terminal(engine):
    command = f"ctr run --rm -t --runtime io.containerd.pyrunc.v2 {NAME} a /bin/sh -c 'tty; exit 5'"
    done = engine.run(*TERMINAL, command, "/dev/null")
    assert done.returncode == 5
    assert b"/dev/pts/0\r" in done.stdout


def test_a_program_that_is_not_there(engine):
    done = engine.ctr("run", "--rm", *RUNTIME, NAME, "a", "/bin/nonesuch", check=False)
    assert b"OCI runtime create failed" in done.stderr
    assert b"no such file or directory" in done.stderr


def test_much_output_is_whole(engine):
    program = f"ctr run --rm {' '.join(RUNTIME)} {NAME} a /bin/sh -c 'seq 1 3000000' | md5sum; seq 1 3000000 | md5sum"
    first, second = engine.run("sh", "-c", program, timeout=60).stdout.splitlines()
    assert first == second


def test_exec(engine, sleeper):
    exec_ = ("tasks", "exec", "--exec-id")
    done = engine.ctr(*exec_, "e", sleeper, "/bin/sh", "-c", "echo in; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, b"in\n")
    assert engine.ctr(*exec_, "e", sleeper, "/bin/cat", stdin=b"text").stdout == b"text"
    done = engine.ctr(*exec_, "e", sleeper, "/bin/nonesuch", check=False)
    assert b"OCI runtime exec failed" in done.stderr
    done = engine.run(*TERMINAL, f"ctr tasks exec --exec-id e -t {sleeper} /bin/sh -c 'tty; exit 4'", "/dev/null")
    assert done.returncode == 4
    assert b"/dev/pts/0\r" in done.stdout


def test_pause_resume_kill(engine, sleeper):
    assert status(engine, sleeper) == "RUNNING"
    engine.ctr("tasks", "pause", sleeper)
    assert status(engine, sleeper) == "PAUSED"
    engine.ctr("tasks", "resume", sleeper)
    assert status(engine, sleeper) == "RUNNING"
    engine.ctr("tasks", "kill", "-s", "9", sleeper)
    time.sleep(0.2)
    assert status(engine, sleeper) == "STOPPED"
    done = engine.ctr("tasks", "rm", sleeper)
    assert b"exit code 137" in done.stderr


def test_metrics_and_ps(engine, sleeper):
    metrics = engine.ctr("tasks", "metrics", sleeper).stdout.decode()
    assert re.search(r"^pids.current +1\b", metrics, re.MULTILINE)
    assert int(re.search(r"^(?:cpuacct.usage|cpu.usage_usec) +(\d+)", metrics, re.MULTILINE)[1]) > 0
    pid = engine.ctr("tasks", "ls").stdout.split()[4]
    assert engine.ctr("tasks", "ps", sleeper).stdout.split()[2] == pid


def test_an_out_of_memory_kill_is_an_event(engine):
    with events(engine) as found:
        program = "x=a; while :; do x=$x$x; done"
        words = ("run", "--rm", *RUNTIME, "--memory-limit", "8000000", NAME, "a", "/bin/sh", "-c", program)
        assert engine.ctr(*words, check=False).returncode == 137
        time.sleep(0.1)
    topics = re.findall(rb"(/tasks/[a-z-]+)", found[0])
    assert topics[:2] == [b"/tasks/create", b"/tasks/start"]
    assert b"/tasks/oom" in topics
    assert topics[-1] == b"/tasks/delete"


def test_a_killed_shim_is_cleaned_up_after(engine, sleeper):
    pid = int(engine.ctr("tasks", "ls").stdout.split()[4])
    for shim in engine.shims():
        os.kill(shim, 9)
    mounts = ("sh", "-c", "grep -c /run/containerd/io.containerd.runtime /proc/mounts")
    wait_until(lambda: status(engine, sleeper) is None and not runs(pid) and engine.run(*mounts).stdout == b"0\n")


def test_a_killed_shim_is_an_exit_with_137(engine, sleeper):
    with events(engine) as found:
        for shim in engine.shims():
            os.kill(shim, 9)
        wait_until(lambda: status(engine, sleeper) is None)
    assert b'/tasks/exit {"container_id":"sleeper"' in found[0]
    assert b'"exit_status":137' in found[0]
    assert re.findall(rb"/tasks/([a-z-]+)", found[0]) == [b"exit", b"delete"]


def test_a_client_that_is_killed_and_another_that_attaches(engine):
    program = "echo one; while test ! -e /tmp/go; do sleep 0.05; done; echo two; sleep 0.2; exit 6"
    first = engine.spawn("ctr", "run", "--rm", *RUNTIME, NAME, "a", "/bin/sh", "-c", program)
    assert first.stdout.readline() == b"one\n"
    first.kill()
    first.communicate()
    second = engine.spawn("ctr", "tasks", "attach", "a")
    time.sleep(0.3)
    engine.ctr("tasks", "exec", "--exec-id", "e", "a", "/bin/touch", "/tmp/go")
    assert second.communicate(timeout=60)[0] == b"two\n"
    assert second.returncode == 6
    engine.ctr("containers", "rm", "a")


def test_an_end_while_containerd_is_away_is_known_to_it_afterwards(engine, sleeper):
    pid = int(engine.ctr("tasks", "ls").stdout.split()[4])
    engine.stop()
    os.kill(pid, 9)
    engine.start_again()
    if status(engine, sleeper) is not None:  # from 1.7 on it removes, as it starts, what has no process
        assert status(engine, sleeper) == "STOPPED"
        assert b"exit code 137" in engine.ctr("tasks", "rm", sleeper).stderr
    wait_until(lambda: not engine.shims())


def test_without_an_address_for_events_containerds_program_publishes_them(engine):
    shim = engine.folder / "containerd-shim-unaddressed-v2"
    shim.write_text(f'#!/bin/sh\nunset TTRPC_ADDRESS\nexec {engine.shim} "$@"\n')
    shim.chmod(0o755)
    with events(engine) as found:
        done = engine.ctr("run", "--rm", "--runtime", shim, NAME, "a", "/bin/sh", "-c", "exit 7", check=False)
        assert done.returncode == 7
        time.sleep(0.3)
    assert re.findall(rb"/tasks/([a-z-]+)", found[0]) == [b"create", b"start", b"exit", b"delete"]
    assert b'"exit_status":7' in found[0]


def test_a_restarted_containerd_finds_its_containers(engine, sleeper):
    engine.restart()
    assert status(engine, sleeper) == "RUNNING"
    done = engine.ctr("tasks", "exec", "--exec-id", "e", sleeper, "/bin/echo", "again")
    assert done.stdout == b"again\n"


def test_a_log_file(engine):
    path = engine.folder / "container.log"
    engine.ctr("run", "-d", "--log-uri", f"file://{path}", *RUNTIME, NAME, "logged", "/bin/echo", "logged")
    wait_until(lambda: path.exists() and path.read_text() == "logged\n")
    engine.ctr("tasks", "rm", "-f", "logged")
    engine.ctr("containers", "rm", "logged")


def test_twenty_containers_three_at_a_time(engine):
    program = (
        f'seq 1 20 | xargs -P 3 -I N sh -c \'ctr run --rm {" ".join(RUNTIME)} {NAME} many-N /bin/sh -c "exit N";'
        " test $? = N || echo N is wrong'"
    )
    done = engine.run("sh", "-c", program, timeout=90)
    assert (done.stdout, done.stderr) == (b"", b"")
    wait_until(lambda: not engine.shims() and not engine.run("ls", "/run/containerd/s").stdout)

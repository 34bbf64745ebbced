"""Docker with the shim as a runtime of its own (`runtimeType`): what users type."""

import itertools

import pytest

from engines import docker, shim
from engines.image import NAME

numbers = itertools.count()


@pytest.fixture(scope="module")
def engine():
    if docker.version() < 23:
        pytest.skip("NOT TESTED: no Docker 23 or later is installed (PYRUNC_DOCKER names the folder of another)")
    with docker.Docker(shim.SHIM) as engine:
        yield engine


def run(engine, *words, **more):
    return engine("run", "--runtime", "pyrunc", "--network", "none", "--rm", *words, check=False, **more)


@pytest.fixture
def sleeper(engine):
    name = f"sleeper-{next(numbers)}"
    words = ("-m", "64m", "--pids-limit", "50", "--cpus", "0.5", "--init")
    engine("run", "--runtime", "pyrunc", "--network", "none", "-d", "--name", name, *words, NAME, "sleep", "1000")
    yield name
    engine("rm", "-f", name)


def state(engine, name):
    return engine("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", name).stdout.decode()


def test_run(engine):
    done = run(engine, NAME, "sh", "-c", "echo o; echo e >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"o\n", b"e\n")
    assert run(engine, "-i", NAME, "cat", stdin=b"input").stdout == b"input"


def test_a_missing_program_has_the_shells_status(engine):
    done = run(engine, NAME, "nonesuch")
    assert done.returncode == 127
    assert b"executable file not found in $PATH" in done.stderr


def test_exec(engine, sleeper):
    done = engine("exec", sleeper, "sh", "-c", "echo in; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, b"in\n")
    assert engine("exec", "-i", sleeper, "cat", stdin=b"abc").stdout == b"abc"
    assert engine("exec", "-u", "1000", sleeper, "id", "-u").stdout == b"1000\n"
    assert engine("exec", sleeper, "nonesuch", check=False).returncode == 126  # as with runc


def test_top_stats_pause_update(engine, sleeper):
    assert b"sleep 1000" in engine("top", sleeper).stdout
    assert b"64MiB" in engine("stats", "--no-stream", sleeper).stdout
    engine("pause", sleeper)
    assert state(engine, sleeper).startswith("paused")
    engine("unpause", sleeper)
    engine("update", "--memory", "128m", "--memory-swap", "128m", sleeper)
    assert b"128MiB" in engine("stats", "--no-stream", sleeper).stdout


def test_restart_kill_start_stop(engine, sleeper):
    engine("restart", "-t", "0", sleeper)
    assert state(engine, sleeper).startswith("running")
    engine("kill", sleeper)
    assert state(engine, sleeper) == "exited 137 false\n"
    engine("start", sleeper)
    engine("stop", "-t", "5", sleeper)
    assert state(engine, sleeper) == "exited 143 false\n"


def test_out_of_memory_is_told(engine):
    name = f"oom-{next(numbers)}"
    words = ("-m", "10m", NAME, "sh", "-c", "x=a; while :; do x=$x$x; done")
    engine("run", "--runtime", "pyrunc", "--network", "none", "--name", name, *words, check=False)
    assert state(engine, name) == "exited 137 true\n"
    engine("rm", name)


def test_logs_are_whole(engine):
    name = f"logs-{next(numbers)}"
    engine("run", "--runtime", "pyrunc", "--network", "none", "--name", name, NAME, "seq", "1", "50000")
    assert engine("logs", name).stdout == b"".join(b"%d\n" % number for number in range(1, 50001))
    engine("rm", name)


def test_what_confines(engine):
    words = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "1000")
    words += ("--security-opt", "no-new-privileges")
    program = "id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; echo x > /x; echo x > /tmp/x && cat /tmp/x"
    done = run(engine, *words, NAME, "sh", "-c", program)
    assert done.stdout.split() == [b"1000", b"CapEff:", b"0000000000000000", b"NoNewPrivs:", b"1", b"x"]
    assert b"Read-only file system" in done.stderr


def test_volumes_limits_sysctls(engine):
    (engine.folder / "volume").mkdir()
    words = ("-v", f"{engine.folder}/volume:/v", "--ulimit", "nofile=100:200", "--sysctl", "net.ipv4.ip_forward=1")
    done = run(engine, *words, NAME, "sh", "-c", "ulimit -n; cat /proc/sys/net/ipv4/ip_forward; echo x > /v/file")
    assert done.stdout == b"100\n1\n"
    assert (engine.folder / "volume/file").read_text() == "x\n"


def test_the_command_line_beside_it(engine):
    """The same Docker with the program pyrunc, under runc's shim."""
    words = ("run", "--rm", "--runtime", "pyrunc-path", "--network", "none", NAME, "sh", "-c", "echo o; exit 4")
    done = engine(*words, check=False)
    assert (done.returncode, done.stdout) == (4, b"o\n")

"""Docker, of any version: what its users type does the same with pyrunc as with runc, on the same engine.

With the path of the program, and from Docker 23 on with the shim.
"""

import re
import shlex
import subprocess
import time

import pytest

from engines import docker, shim
from engines.commands import FAILING, ORDINARY, RUN, differences, lines
from engines.image import NAME
from sizes import FULL

pytestmark = pytest.mark.slow
long = pytest.mark.skipif(not FULL, reason="NOT TESTED without PYRUNC_FULL=1: it takes longer than all the others")


@pytest.fixture(scope="module")
def engine():
    if docker.PROGRAM is None:
        pytest.skip("NOT TESTED: Docker is not installed (PYRUNC_DOCKER names the folder of one)")
    with docker.Docker(shim.SHIM) as engine:
        (engine.folder / "volume").mkdir()
        engine.as_runc = {}
        yield engine


@pytest.fixture(params=["pyrunc-path", "pyrunc"])
def runtime(request, engine):
    if request.param == "pyrunc" and docker.version() < 23:
        pytest.skip("Docker before 23 runs no shim of another")
    return request.param


def run(engine, runtime, options, *command, **more):
    words = [word.replace("VOLUME", f"{engine.folder}/volume") for word in shlex.split(options)]
    network = () if "--network" in words else ("--network", "none")
    done = engine("run", "--rm", "--runtime", runtime, *network, *words, NAME, *command, check=False, **more)
    (engine.folder / "volume/file").unlink(missing_ok=True)
    return done.returncode, lines(done.stdout), lines(done.stderr)


def with_runc(engine, key, action):
    if key not in engine.as_runc:
        engine.as_runc[key] = action("runc")
    return engine.as_runc[key]


@pytest.mark.parametrize("row", RUN if FULL else ORDINARY)
def test_run(engine, runtime, row):
    options, program = RUN[row]
    if row == "network bridge" and not docker.BRIDGE:
        pytest.skip("NOT TESTED: there is no iptables, which Docker's bridge needs")
    expected = with_runc(engine, row, lambda runtime: run(engine, runtime, options, "sh", "-c", program))
    found = run(engine, runtime, options, "sh", "-c", program)
    assert [*differences(found, expected)] == []
    assert found == expected


@pytest.mark.parametrize("row", FAILING if FULL else ["no such program"])
def test_run_of_what_is_no_program(engine, runtime, row):
    expected = with_runc(engine, row, lambda runtime: run(engine, runtime, "", *FAILING[row])[0])
    assert run(engine, runtime, "", *FAILING[row])[0] == expected


def test_a_profile_for_seccomp(engine, runtime):
    profile = engine.folder / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    options = f"--security-opt seccomp={profile}"
    expected = with_runc(engine, "seccomp", lambda runtime: run(engine, runtime, options, "mkdir", "/x"))
    assert expected[0] == 1
    assert run(engine, runtime, options, "mkdir", "/x") == expected


def life(engine, runtime):
    """Everything that is done to a container which runs: (what, exit status, output)."""
    name = f"life-{runtime}"
    found = []

    def do(*words, **more):
        done = engine(*words, check=False, **more)
        label = " ".join(word for word in map(str, words) if word != name)
        out = [re.sub(r"^\d+ +", "PID ", line).replace(name, "NAME") for line in lines(done.stdout)]
        out = sorted(out) if words[0] == "diff" else out  # in Docker's order, which is any
        found.append((label.replace(runtime, "RUNTIME"), done.returncode, out, bool(done.stderr)))

    def state():
        do("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.RestartCount}}", name)

    program = "trap 'exit 9' TERM; echo started; while read line; do echo got $line; done; while :; do sleep 0.1; done"
    engine("run", "-d", "-i", "--runtime", runtime, "--network", "none", "--init", "-m", "64m", "--name", name, NAME,
           "sh", "-c", program)  # fmt: skip
    state()
    do("exec", name, "sh", "-c", "echo in; echo err >&2; exit 3")
    do("exec", "-i", name, "cat", stdin=b"some input")
    do("exec", "-u", "1000", "-w", "/tmp", "-e", "A=B", name, "sh", "-c", "id -u; pwd; echo $A")
    do("exec", "-d", name, "touch", "/tmp/detached")
    do("exec", name, "nonesuch")
    found.append(("exec -it", *terminal(engine, f"exec -it {name} sh -c 'tty; stty size; exit 4'")))
    engine("run", "-dit", "--runtime", runtime, "--network", "none", "--name", f"{name}-t", NAME, "cat")
    for word in (b"hello", b"again"):
        attached = terminal(engine, f"attach --detach-keys q {name}-t", word + b"\n", b"q")
        found.append(("attach, twice", attached[0], attached[1].count(word) > 1))
    engine("rm", "-f", f"{name}-t")
    do("top", name, "-o", "pid,comm")
    do("stats", "--no-stream", "--format", "{{.PIDs}}", name)
    do("pause", name)
    state()
    do("exec", name, "true")
    do("unpause", name)
    state()
    do("update", "-m", "128m", "--memory-swap", "256m", "-c", "200", "--cpus", "0.5", "--pids-limit", "99", name)
    do("exec", name, "sh", "-c", RUN["memory"][1])
    (engine.folder / "copied").write_text("copied\n")
    do("cp", engine.folder / "copied", f"{name}:/tmp/in")
    do("exec", name, "cat", "/tmp/in")
    do("cp", f"{name}:/tmp/in", engine.folder / "back")
    do("diff", name)
    do("commit", name, "committed")
    do("run", "--rm", "--runtime", runtime, "--network", "none", "committed", "cat", "/tmp/in")
    do("logs", name)
    do("stop", "-t", "5", name)
    state()
    do("start", name)
    do("restart", "-t", "1", name)
    state()
    do("kill", "-s", "USR1", name)
    time.sleep(0.3)
    state()
    do("start", name)
    do("kill", name)
    do("wait", name)
    state()
    do("logs", name)
    do("rm", name)
    return found


def terminal(engine, command, *keys):
    """Its exit status and output, with a terminal that is script's. Keys are pressed one after the other."""
    client = f"docker --host unix:///run/docker.sock {command}"
    words = ["nsenter", "-t", str(engine.process.pid), "-m", "-n", "--uts", "--", "script", "-qec", client, "/dev/null"]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=engine.environment
    )
    try:
        for key in keys:
            time.sleep(0.7)
            process.stdin.write(key)
            process.stdin.flush()
        out = process.communicate(timeout=20)[0]
        return process.returncode, out.replace(b"^@", b"").replace(b"\0", b"")  # script's own, where its input ends
    finally:
        process.kill()
        process.wait()


@long
def test_the_life_of_a_container(engine, runtime):
    expected = with_runc(engine, "life", lambda runtime: life(engine, runtime))
    found = life(engine, runtime)
    assert [row[0] for row in found] == [row[0] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs


@long
def test_out_of_memory_and_restarts(engine, runtime):
    def both(runtime):
        name = f"restarts-{runtime}"
        words = ("--runtime", runtime, "--network", "none", "--name", name)
        engine("run", "-d", *words, "--restart", "on-failure:2", "-m", "10m", NAME,
               "sh", "-c", "x=a; while :; do x=$x$x; done", check=False)  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            form = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.RestartCount}}"
            state = engine("inspect", "-f", form, name).stdout.decode()
            if state.startswith("exited") and state.endswith(" 2\n"):
                break
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        engine("rm", name)
        return state

    assert both(runtime) == with_runc(engine, "restarts", both)

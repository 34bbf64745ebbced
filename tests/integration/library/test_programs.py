"""Programs as people write them: threads, servers, event loops, forks; and what is left when they are killed."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

import pyrunc
from integration.support.bundle import BUSYBOX
from integration.support.host import cgroups_of
from integration.support.runtime import bury_orphans
from pyrunc.library import client
from pyrunc.linux.pid import state_of

PROGRAMS = Path(__file__).parent / "programs.py"
RUNS, AT_ONCE = ("1000", "16") if os.environ.get("PYRUNC_FULL") else ("8", "4")
SECONDS = 1800 if os.environ.get("PYRUNC_FULL") else 90


@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize(
    "kind", ["threads", "fifty-threads", "http", "asyncio", "asyncio-http", "aiohttp", "forkserver", "fork", "gevent"]
)
def test_a_program_with_many_runs_at_once(state, kind):
    if kind in ("aiohttp", "gevent"):
        pytest.importorskip(kind)
    program = subprocess.run(
        [sys.executable, PROGRAMS, kind, RUNS, AT_ONCE], env={**os.environ, "STATE_ROOT": state},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert program.returncode == 0, program.stderr
    found = json.loads(program.stdout)
    assert found["right"] == found["of"]
    assert found["more"] == [0, 0], "descriptors, children"


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


KILLED = """
import sys, threading, pyrunc
config = pyrunc.sandbox(["sleep", "1000"])
root = sys.argv[1]
owned = pyrunc.Container.run(config, state_root=root).__enter__()
pool = pyrunc.Pool(config, 2, state_root=root).ready()
for command in (["sleep", "1000"], ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]):
    threading.Thread(target=pyrunc.run, args=(command,), kwargs={"state_root": root}, daemon=True).start()
stays = pyrunc.Container.run(config, sys.argv[2], state_root=root)
while len(pyrunc.Container.list(root)) < 6 or any(c.status == "creating" for c in pyrunc.Container.list(root)):
    pass
print(pyrunc.library.client._worker.pid, flush=True)
threading.Event().wait()
"""


def containers(state):
    return sorted(name for name in os.listdir(state) if ":" not in name)


@pytest.mark.parametrize("killed", ["program", "worker"])
def test_what_belongs_to_a_program_goes_with_it_however_it_ends(state, killed):
    """Killed, the program or its worker: only what is to stay stays."""
    stays = f"stays-{os.getpid()}"
    command = [sys.executable, "-c", KILLED, state, stays]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/") as program:
        try:
            worker = int(program.stdout.readline())
            assert len(containers(state)) == 6
            os.kill(program.pid if killed == "program" else worker, signal.SIGKILL)
            if killed == "worker":  # runs end at once; what else it held for its program is removed by who comes next
                assert wait_for(lambda: len(containers(state)) == 2), containers(state)
                pyrunc.run(["true"], state_root=state)
                assert containers(state) == [stays]
            else:
                assert wait_for(lambda: containers(state) == [stays]), containers(state)
                assert wait_for(lambda: bury_orphans() or not os.path.exists(f"/proc/{worker}"))
        finally:
            program.kill()
            for container in pyrunc.Container.list(state):
                container.delete(force=True)
            bury_orphans()
    assert wait_for(lambda: not cgroups_of(f"pyrunc-{worker}-")), cgroups_of(f"pyrunc-{worker}-")


def test_a_container_that_stays_has_all_that_it_had_when_its_program_has_ended(state, binary, tmp_path):
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        for name in ("bin/busybox", "bin/sh", "bin/sleep", "tmp", "proc", "dev"):
            member = tarfile.TarInfo(name)
            if name == "bin/busybox":
                archive.add(BUSYBOX, name)
            else:
                member.type, member.linkname = (tarfile.SYMTYPE if "bin" in name else tarfile.DIRTYPE), "busybox"
                member.mode = 0o755
                archive.addfile(member)
    program = """
import pyrunc, sys
state, tar = sys.argv[1:]
for id, root in (("usr", None), ("tar", tar)):
    config = pyrunc.sandbox(["sleep", "1000"], root=root)
    pyrunc.Container.run(config, id, stdout=pyrunc.DEVNULL, stderr=pyrunc.DEVNULL, state_root=state)
"""
    subprocess.run([sys.executable, "-c", program, state, tmp_path / "root.tar"], cwd="/", timeout=60, check=True)
    try:
        for container in containers(state):
            done = subprocess.run([binary, "--root", state, "exec", container, "sh", "-c", "echo $PWD"], text=True,
                                  capture_output=True, timeout=60, check=False)  # fmt: skip
            assert done.stdout == "/tmp\n", (container, done.stderr)
    finally:
        for container in pyrunc.Container.list(state):
            container.delete(force=True)
        bury_orphans()


def children_of(pid):
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.parametrize("root", [None, "/usr"])  # without a bundle of its own, and with one
def test_what_a_worker_killed_with_its_runners_has_left_is_removed_by_the_next(state, root):
    client._at_exit()
    failed = []

    def run():
        with pytest.raises(pyrunc.WorkerError) as caught:
            pyrunc.run(
                ["/usr/bin/sleep", "1000"] if root is None else ["/bin/sleep", "1000"], root=root, state_root=state
            )
        failed.append(str(caught.value))

    thread = threading.Thread(target=run)
    thread.start()
    assert wait_for(lambda: [each for each in pyrunc.Container.list(state) if each.status == "running"])
    (container,) = pyrunc.Container.list(state)
    sleeping, worker = container.pid, client._worker.pid
    runners = children_of(worker)
    for pid in runners:
        os.kill(pid, signal.SIGSTOP)
    for pid in (worker, *runners):
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: state_of(worker) in ("", "Z"))  # until then it takes what it is asked for
    thread.join(30)
    assert len(failed) == 1
    assert containers(state) == [container.id]
    pyrunc.run(["true"], state_root=state)
    assert containers(state) == []
    assert wait_for(lambda: bury_orphans() or not os.path.exists(f"/proc/{sleeping}"))
    assert not cgroups_of(container.id)


def test_a_fork_has_a_worker_of_its_own_and_none_of_its_parent_s_containers(state):
    with pyrunc.Container.run(pyrunc.sandbox(["sleep", "1000"]), state_root=state) as container:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                try:
                    container.process.wait(0.1)
                except pyrunc.UsageError as error:
                    done = pyrunc.run(["echo", "own"], state_root=state).stdout
                    os.write(write, done + str(error).encode())
                from pyrunc.library import client

                client._at_exit()
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as told:
            assert told.read() == b"own\nsleep: it is our parent's, and a fork has none of it"
        os.waitpid(child, 0)
        assert container.status == "running"
    assert pyrunc.Container.list(state) == []


def test_the_program_stays_as_it_was(state):
    """Its signal handlers, its children's ends, whether it can be dumped: all its own."""
    program = """
import signal, sys, ctypes, pyrunc, os
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
before = [signal.getsignal(n) for n in signal.valid_signals()]
assert pyrunc.run(["echo", "x"], state_root=sys.argv[1]).stdout == b"x\\n"
assert before == [signal.getsignal(n) for n in signal.valid_signals()]
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1  # PR_GET_DUMPABLE
assert len(os.listdir("/proc/self/task")) == 1
print("ok")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, state], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "ok\n", done.stderr


def test_a_program_without_standard_streams(state):
    program = "import os; os.closerange(0, 3)\nimport pyrunc, sys\n" \
              "assert pyrunc.run(['cat'], input=b'x', state_root=sys.argv[1]).stdout == b'x'"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", program, state], cwd="/", timeout=60, check=False).returncode == 0


def test_an_editable_installation_has_a_worker_that_seals_itself(state, tmp_path):
    """Without the launcher beside the package, as pip install -e leaves it."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("pyrunc", "_cffi_backend"):
        for found in Path(pyrunc.__file__).parents[1].glob(f"{name}*"):
            if found.suffix != ".dist-info":
                subprocess.run(["cp", "-r", found, packages], check=True)
    program = f"""
import sys
sys.path.insert(0, {str(packages)!r})
import pyrunc, os
assert pyrunc.__file__.startswith({str(packages)!r})
assert pyrunc.run(["echo", "x"], state_root={state!r}).stdout == b"x\\n"
worker = pyrunc.library.client._worker.pid
print("read-only" if os.statvfs(f"/proc/{{worker}}/exe").f_flag & os.ST_RDONLY else "not sealed")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "read-only\n", done.stderr
    commands = subprocess.run([sys.executable, "-m", "pyrunc", "--version"], capture_output=True, text=True, cwd="/",
                              timeout=60, check=True)  # fmt: skip
    assert commands.stdout.startswith(f"pyrunc version {pyrunc.__version__}")

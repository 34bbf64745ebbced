"""delete --force: whatever hangs, whoever holds the lock, whatever is damaged; and what the others see meanwhile."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, namespaces
from integration.support.container import MARK
from integration.support.faulty import PACKAGES
from integration.support.host import cgroups_of, unified
from integration.support.runtime import Runtime, wait_until

GENEROUS = 20  # seconds; alone it takes a tenth of one


def hanging(tmp_path):
    """A hook that hangs in a child of its own."""
    return {"path": "/bin/sh", "args": ["sh", "-c", f"touch {tmp_path}/hangs; sleep 987.6; true"], "env": ["PATH=/bin"]}


def hangs(tmp_path):
    wait_until((tmp_path / "hangs").exists, "the hook")
    return subprocess.run(["pgrep", "-f", f"sh -c touch {tmp_path}/hangs"], capture_output=True, text=True).stdout


def assert_no_hook_is_left(tmp_path):
    wait_until(lambda: not hangs(tmp_path), "the hook to go")


# --- who holds the lock


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "poststart"])
def test_a_hook_that_hangs(container, tmp_path, kind):
    c = container(hooks={kind: [hanging(tmp_path)]})
    c._prepare(("sleep", "1000"))
    running = c.runtime.spawn("run", "-d", "--bundle", c.bundle.path, c.id)
    assert hangs(tmp_path)
    began = time.monotonic()
    c.delete("--force")
    assert time.monotonic() - began < GENEROUS
    assert running.end() > 0
    c.assert_gone()
    assert_no_hook_is_left(tmp_path)


def test_a_program_that_uses_the_library_is_not_ended(container, tmp_path):
    c = container(hooks={"poststart": [hanging(tmp_path)]})
    c.create("sleep", "1000")
    program = f"""
import sys
sys.path.append({str(PACKAGES)!r})
from pyrunc.container.container import Container
from pyrunc.container.state import StateRoot
from pyrunc.errors import PyruncError
try:
    Container.load(StateRoot({str(c.runtime.root)!r}), {c.id!r}).start()
except PyruncError as error:
    print(error, "and I live", sep="; ")
"""
    embedding = subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE, text=True)
    assert hangs(tmp_path)
    c.delete("--force")
    out, _ = embedding.communicate(timeout=GENEROUS)
    assert "signal: killed; and I live" in out
    c.assert_gone()
    assert_no_hook_is_left(tmp_path)


def test_a_program_that_does_not_let_go_is_named_and_not_ended(container):
    c = container().up()
    program = f"""
import sys, time
sys.path.append({str(PACKAGES)!r})
from pyrunc.container.state import StateDirectory, StateRoot
folder = StateDirectory.open(StateRoot({str(c.runtime.root)!r}), {c.id!r})
folder.lock("update")
print("locked", flush=True)
time.sleep(1000)
"""
    other = subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        result = c.delete("--force", check=False)
        assert result.code == 1
        assert f"update, process {other.pid}" in result.err
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_a_command_that_was_stopped_is_ended(container, tmp_path):
    c = container(hooks={"createRuntime": [hanging(tmp_path)]})
    c._prepare(("sleep", "1000"))
    creating = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
    assert hangs(tmp_path)
    creating.send_signal(signal.SIGSTOP)
    c.delete("--force")
    assert creating.end() == -signal.SIGKILL
    c.assert_gone()
    assert_no_hook_is_left(tmp_path)


def test_a_foreground_run_does_not_end_itself_when_somebody_else_holds_its_lock(container):
    c = container()
    c._prepare(("sh", "-c", "until [ -e /tmp/stop ]; do sleep 0.01; done"))
    running = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: (c.runtime.root / c.id).exists() and c.status == "running", "the container")
    folder = os.open(c.runtime.root / c.id, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        (c.bundle.rootfs / "tmp/stop").touch()
        assert running.end() == 1
        assert "another program holds its lock" in running.err
    finally:
        os.close(folder)


# --- what the others see


def test_the_status_while_hooks_of_create_run(container, tmp_path):
    c = container(hooks={"createRuntime": [hanging(tmp_path)]})
    c._prepare(("sleep", "1000"))
    creating = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
    assert hangs(tmp_path)
    assert c.status == "creating"
    c.delete("--force")
    assert creating.end() == 1


def test_a_hook_of_poststop_keeps_nobody_waiting_for_a_container_that_is_gone(container, tmp_path):
    c = container(hooks={"poststop": [hanging(tmp_path)]}).up()
    deleting = c.runtime.spawn("delete", "--force", c.id)
    group = int(hangs(tmp_path).split()[0])
    try:
        for verb in ("state", "start", "delete", "pause", "ps"):
            assert "does not exist" in c.runtime(verb, c.id, check=False).err
    finally:
        os.killpg(group, signal.SIGKILL)
    assert deleting.end() == 0


@pytest.mark.parametrize("verb", ["state", "start", "pause", "exec"])
def test_a_delete_that_is_seen_by_other_verbs(container, verb):
    """At every moment they say what is there."""
    for _ in range(4):
        c = container().up()
        deleting = c.runtime.spawn("delete", "--force", c.id)
        while deleting.poll() is None:
            words = (verb, c.id, "true") if verb == "exec" else (verb, c.id)
            result = c.runtime(*words, check=False)
            said = ("does not exist", "stopped", "already running", "its process", "not running", "cgroup")
            killed = verb == "exec" and result.code == 128 + signal.SIGKILL
            assert killed or result.code == 0 or any(words in result.err for words in said), repr(result)
            assert "internal error" not in result.err, repr(result)
            assert "never fully created" not in result.err, repr(result)
        assert deleting.end() == 0


def test_a_container_that_is_paused_all_the_time_is_deleted(container):
    c = container().up()
    file, frozen = ("cgroup.freeze", "1") if unified() else ("freezer.state", "FROZEN")
    place = c.control_file(file)
    deleting = c.runtime.spawn("delete", "--force", c.id)
    while deleting.poll() is None:
        with contextlib.suppress(OSError):  # gone
            place.write_text(frozen)
    assert deleting.end() == 0, deleting.err
    c.assert_gone()


def test_a_delete_from_within_the_cgroup_is_refused(container):
    """Else it would freeze itself for ever, or be killed half-way."""
    c = container(namespaces=namespaces("mount", "uts", "ipc")).up()
    procs = [str(Path(path, "cgroup.procs")) for path in cgroups_of(c.id)]
    move = ("sh", "-c", f'for file in {" ".join(procs)}; do echo $$ > $file; done; exec "$@"', "sh")
    result = c.runtime("delete", "--force", c.id, check=False, wrapper=move)
    assert result.code == 1
    assert "this process is one of its own" in result.err
    c.delete("--force")
    c.assert_gone()


def test_a_paused_container_is_not_started(container):
    c = container()
    c.create("sleep", "1000")
    c.runtime("pause", c.id)
    result = c.start(check=False)
    assert result.code == 1
    assert "cannot start a container in the paused state" in result.err
    c.runtime("resume", c.id)
    c.start()


# --- damage

SPOILED = ["", "[]", "{}", '{"pid": 0}', '{"linux": 3, "hooks": [7], "cgroup": {"paths": 5}}', "\x00"]


@pytest.mark.parametrize("config", SPOILED)
def test_a_record_and_a_configuration_that_can_not_be_read(container, config):
    """What the container's cgroup holds is killed."""
    c, other = container().up(), container().up()
    folder = c.runtime.root / c.id
    (folder / "state.json").write_text(config)
    (folder / "config.json").write_text(config)
    listed = c.runtime("list", "--quiet")
    assert other.id in listed.out
    c.delete("--force")
    c.assert_gone()
    assert other.status == "running"


def test_no_record_and_no_configuration_and_a_cgroup_of_its_own(container):
    path = f"/{MARK}-elsewhere/a b"
    c = container(cgroupsPath=path).up()
    for name in ("state.json", "config.json"):
        (c.runtime.root / c.id / name).unlink()
    assert "delete --force" in c.delete(check=False).err
    c.delete("--force")
    c.assert_gone()
    assert not cgroups_of(path)
    for folder in cgroups_of(f"{MARK}-elsewhere"):
        os.rmdir(folder)


def test_a_container_of_another_state_root_keeps_its_cgroup(container, tmp_path):
    """The next container has the same name, in the place of the damaged one."""
    c, other = container(cgroupsPath=f"/{MARK}-damaged").up("true"), container()
    c.wait_for("stopped")
    other.id = c.id
    other.runtime = Runtime(c.runtime.binary, tmp_path / "other", tmp_path)
    other.runtime.count = 1000
    other.up()
    for name in ("state.json", "config.json"):
        (c.runtime.root / c.id / name).unlink()
    c.delete("--force")
    assert other.status == "running"
    other.delete("--force")


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 0},
        {"pid": 0, "start": 0},
        {"pid": "1"},
        {"pid": True},
        {"hooks": {"poststop": 1}},
        {"cgroup": {"paths": ["/"], "unified": False, "mounts": {}}},
        {"cgroup": {"paths": {"x": 1}, "unified": False, "mounts": {}}},
        {"annotations": []},
        {"own_pids": "yes"},
    ],
)
def test_members_of_a_record_that_are_wrong(container, change):
    c, other = container().up(), container().up()
    place = c.runtime.root / c.id / "state.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **change}))
    listed = c.runtime("list", "--quiet")
    assert other.id in listed.out
    assert "internal error" not in listed.err
    assert "internal error" not in c.runtime("state", c.id, check=False).err
    c.delete("--force")
    c.assert_gone()


@pytest.mark.parametrize("own", [True, False], ids=["a pid namespace of its own", "the host's"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_container_that_has_ended_does_not_take_a_later_one_along(container, own, below):
    """The later one is in the same cgroup, which was empty, or below it."""
    path = f"/{MARK}-again"
    kinds = namespaces(*(kind for kind in NAMESPACES if own or kind != "pid"))
    c, later = container(cgroupsPath=path, namespaces=kinds), container(cgroupsPath=path + below)
    c.up("true")
    wait_until(lambda: c.status == "stopped", "its end")
    later.up()
    assert "container not running" in c.kill("KILL", check=False).err
    c.runtime("kill", "--all", c.id, "KILL", check=False)
    c.delete("--force")
    assert later.status == "running"
    later.delete("--force")
    left = cgroups_of(path)
    assert bool(left) == bool(below), "whose parents are nobody's to remove"
    for place in left:
        os.rmdir(place)


def test_a_container_without_a_pid_does_not_take_anothers_cgroup_along(container):
    """A container was killed while it was made. The next one has its place."""
    path = f"/{MARK}-place"
    c, other = container(cgroupsPath=path).up("true"), container(cgroupsPath=path)
    c.wait_for("stopped")
    place = c.runtime.root / c.id / "state.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "pid": 0, "start": 0}))
    other.up()
    c.delete("--force")
    assert other.status == "running"
    other.delete("--force")
    assert not cgroups_of(path)


@pytest.mark.parametrize("kind", ["link", "link to nothing", "link to a device", "folder", "full folder", "file"])
def test_a_fifo_that_is_something_else(container, kind):
    c, other = container(), container().up()
    c.create("sleep", "1000")
    fifo = c.runtime.root / c.id / "exec.fifo"
    fifo.unlink()
    if kind.startswith("link"):
        fifo.symlink_to({"link": "state.json", "link to nothing": "nothing"}.get(kind, "/dev/null"))
    elif kind == "file":
        fifo.touch()
    else:
        fifo.mkdir()
        if kind == "full folder":
            (fifo / "a/b").mkdir(parents=True)
            (fifo / "a/b/file").touch()
    assert c.runtime("list", "--quiet").out.split() == sorted([c.id, other.id])
    c.delete("--force")
    c.assert_gone()


def test_a_configuration_that_is_a_folder(container):
    c = container(hooks={"poststop": [{"path": "/bin/true"}]}).up()
    config = c.runtime.root / c.id / "config.json"
    config.unlink()
    config.mkdir()
    assert "poststop hooks are not run" in c.delete("--force").err
    c.assert_gone()


# --- what ends a verb


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_create_that_a_signal_ends_leaves_nothing(container, name):
    for n in range(4):
        c = container()
        c._prepare(("sleep", "1000"))
        creating = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
        time.sleep(0.05 * n / 6)
        creating.send_signal(getattr(signal, name))
        code = creating.end()
        assert "Traceback" not in creating.err, creating.err
        if code == 0:
            c.delete("--force")
        else:
            assert code in (128 + getattr(signal, name), -getattr(signal, name)), creating.err
        wait_until(lambda c=c: not c.leftovers(), "all to go", 10)


@pytest.mark.parametrize("verb", ["state", "exec", "list", "kill", "spec", "features"])
def test_other_verbs_that_a_signal_ends(container, verb):
    c = container().up()
    words = {"list": (), "features": (), "spec": ("--bundle", "/nowhere"), "kill": (c.id, "0")}.get(verb, (c.id,))
    for n in range(4):
        running = c.runtime.spawn(verb, *words, *(("sleep", "0.1") if verb == "exec" else ()))
        time.sleep(0.04 * n / 6)
        running.send_signal(signal.SIGTERM if n % 2 else signal.SIGINT)
        running.end()
        assert "Traceback" not in running.err, running.err
        assert "Exception" not in running.err, running.err


def test_create_without_descriptors_leaves_nothing(container):
    for most in (6, 7, 9, 10, 11, 13, 16, 18, 20, 22):
        c = container()
        c._prepare(("sleep", "1000"))
        limit = (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        result = c.runtime(
            "create", "--bundle", c.bundle.path, c.id, check=False,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
        )  # fmt: skip
        if result.code:
            assert "too many open files" in result.err.lower(), repr(result)
            assert "cleaning up" not in result.err, repr(result)
            c.assert_gone()
        else:
            c.delete("--force")

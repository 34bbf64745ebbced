"""create, start, state, kill, delete: a container's life. runtime.md#lifecycle"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.support.bundle import namespaces
from integration.support.container import MARK
from integration.support.host import all_cgroups, cgroups_of, processes_of
from integration.support.runtime import RFC3339, Running, wait_until

# --- the states


def test_a_created_container_waits_for_start(container):
    c = container()
    c.create("sh", "-c", "echo ran > /tmp/ran")
    assert c.status == "created"
    time.sleep(0.1)
    assert not (c.bundle.rootfs / "tmp/ran").exists()
    c.start()
    c.wait_for("stopped")
    assert (c.bundle.rootfs / "tmp/ran").read_text() == "ran\n"


def test_a_started_container_runs_until_its_program_ends(container):
    c = container()
    c.create("sh", "-c", "until [ -e /tmp/stop ]; do sleep 0.01; done")
    c.start()
    assert c.status == "running"
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    c.delete()
    c.assert_gone()


def test_start_returns_when_the_program_has_been_executed(container):
    c = container()
    c.create("sleep", "1000")
    pid = c.pid
    c.start()
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_state_of_a_created_container(container):
    c = container(annotations={"org.example.key": "value"})
    c.create("sleep", "1000")
    state = c.state()
    assert state["ociVersion"] == c.config["ociVersion"]
    assert state["id"] == c.id
    assert state["status"] == "created"
    assert state["bundle"] == str(c.bundle.path)
    assert state["rootfs"] == str(c.bundle.rootfs)
    assert state["annotations"] == {"org.example.key": "value"}
    assert RFC3339.fullmatch(state["created"])
    assert Path(f"/proc/{state['pid']}").exists()


def test_a_stopped_container_has_no_pid(container):
    c = container().up("true")
    c.wait_for("stopped")
    assert c.state()["pid"] == 0


def test_changes_of_the_bundle_after_create_have_no_effect(container):
    c = container(hostname="before")
    c.create("sh", "-c", "hostname > /tmp/name")
    c.change(hostname="after")
    c.bundle.write()
    c.start()
    c.wait_for("stopped")
    assert (c.bundle.rootfs / "tmp/name").read_text() == "before\n"


def test_a_pid_that_was_taken_by_another_process_is_not_the_container(container, tmp_path):
    """The start time tells the two apart."""
    c = container().up("true")
    c.wait_for("stopped")
    stranger = Running(["sleep", "1000"], str(tmp_path / "stranger"))
    try:
        path = c.runtime.root / c.id / "state.json"
        record = json.loads(path.read_text())
        record["pid"] = stranger.pid
        path.write_text(json.dumps(record))
        assert c.status == "stopped"
        assert "container not running" in c.kill("KILL", check=False).err
        c.delete("--force")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# --- create


def test_create_writes_the_pid_file_whole(container, tmp_path):
    c = container()
    c.create("sleep", "1000", flags=("--pid-file", str(tmp_path / "pid")))
    assert (tmp_path / "pid").read_text() == str(c.pid)


def test_a_relative_pid_file_is_below_the_callers_folder(container, tmp_path):
    c = container()
    c.create("sleep", "1000", flags=("--pid-file", "pid"), cwd=tmp_path)
    assert (tmp_path / "pid").read_text() == str(c.pid)


def test_a_relative_pid_file_of_the_library_is_too(container, tmp_path):
    c = container()
    c._prepare(("true",))
    code = f"""import sys
from pyrunc.container import container, options, state
container.Container.create(state.StateRoot({str(c.runtime.root)!r}), {c.id!r}, {str(c.bundle.path)!r},
                           options.Options(pid_file=sys.argv[1]))"""
    (tmp_path / "folder").mkdir()
    for place in ("pid", "folder/pid", "./pid2"):
        subprocess.run([sys.executable, "-c", code, place], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
        assert (tmp_path / place).read_text() == str(c.pid)
        c.delete("--force")


def test_a_pid_file_that_can_not_be_written_leaves_no_container(container, tmp_path):
    c = container()
    result = c.create("sleep", "1000", flags=("--pid-file", str(tmp_path / "no/such/pid")), check=False)
    assert result.code == 1
    assert "no/such/pid" in result.err
    c.assert_gone()


def test_the_bundle_is_the_current_folder_by_default(container):
    c = container()
    c._prepare(("sleep", "1000"))
    c.runtime("create", c.id, cwd=c.bundle.path)
    assert c.state()["bundle"] == str(c.bundle.path)


def test_an_id_is_taken_until_delete(container):
    c = container()
    c.create("sleep", "1000")
    again = c.create("sleep", "1000", check=False)
    assert again.code == 1
    assert "already exists" in again.err
    assert c.status == "created"
    c.delete("--force")
    c.create("sleep", "1000")


def test_two_roots_do_not_know_each_other(container, tmp_path):
    c = container().up()
    here = c.runtime.root
    c.runtime.root = tmp_path / "elsewhere"
    assert "does not exist" in c.runtime("state", c.id, check=False).err
    c.runtime.root = here
    assert c.status == "running"


def test_a_missing_program_is_an_error_of_create(container):
    c = container()
    result = c.create("/no/such/program", check=False)
    assert result.code == 1
    assert "/no/such/program" in result.err
    assert "no such file or directory" in result.err
    c.assert_gone()


def test_a_program_that_is_not_in_path_is_an_error_of_create(container):
    c = container()
    result = c.create("nosuchprogram", check=False)
    assert result.code == 1
    assert "executable file not found in $PATH" in result.err
    c.assert_gone()


def test_a_program_without_the_executable_bit_is_an_error_of_create(container):
    c = container().file("/bin/data", "x", 0o644)
    result = c.create("/bin/data", check=False)
    assert result.code == 1
    assert "permission denied" in result.err
    c.assert_gone()


def test_a_program_of_no_known_format_is_an_error_of_start(container):
    c = container().file("/bin/data", "\x00\x01\x02", 0o755)
    c.create("/bin/data")
    result = c.start(check=False)
    assert result.code == 1
    assert "exec format error" in result.err
    c.wait_for("stopped")
    c.delete()


def test_a_container_without_a_process_can_be_created(container):
    c = container()
    del c.config["process"]
    c.bundle.write()
    c.runtime("create", "--bundle", c.bundle.path, c.id)
    assert c.status == "created"
    c.start()
    c.wait_for("stopped")
    c.delete()


def test_a_created_container_outlives_the_create_command_and_its_session(container):
    c = container()
    c.create("sleep", "1000")
    pid = c.pid
    assert os.getsid(pid) == pid
    assert c.status == "created"


# --- start


def test_a_running_container_can_not_be_started(container):
    c = container().up()
    result = c.start(check=False)
    assert result.code == 1
    assert "cannot start an already running container" in result.err


def test_a_stopped_container_can_not_be_started(container):
    c = container().up("true")
    c.wait_for("stopped")
    result = c.start(check=False)
    assert result.code == 1
    assert "cannot start a container that has stopped" in result.err


def test_two_starts_at_once_run_the_program_once(container):
    c = container()
    c.create("sh", "-c", "echo x >> /tmp/ran; sleep 1000")
    both = [c.runtime.spawn("start", c.id) for _ in range(2)]
    codes = sorted(p.end(10) for p in both)
    assert codes == [0, 1]
    wait_until(lambda: (c.bundle.rootfs / "tmp/ran").exists(), "the program")
    assert (c.bundle.rootfs / "tmp/ran").read_text() == "x\n"


# --- kill


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "sigterm", "15", "Term"])
def test_signals_have_numbers_and_names(container, name):
    c = container().up(
        "sh", "-c", "trap 'echo got > /tmp/got; exit' TERM; touch /tmp/ready; while :; do sleep 0.01; done"
    )
    wait_until((c.bundle.rootfs / "tmp/ready").exists, "the trap")
    c.kill(name)
    c.wait_for("stopped")
    assert (c.bundle.rootfs / "tmp/got").exists()


def test_the_default_signal_is_term(container):
    c = container().up(
        "sh", "-c", "trap 'echo got > /tmp/got; exit' TERM; touch /tmp/ready; while :; do sleep 0.01; done"
    )
    wait_until((c.bundle.rootfs / "tmp/ready").exists, "the trap")
    c.kill()
    c.wait_for("stopped")
    assert (c.bundle.rootfs / "tmp/got").exists()


def test_signal_zero_asks_whether_there_is_a_process(container):
    c = container().up()
    c.kill("0")
    c.kill("KILL")
    c.wait_for("stopped")
    assert c.kill("0", check=False).code == 1


@pytest.mark.parametrize("name", ["NOSUCH", "", "65", "-1", "SIGNOSUCH", "1x", "99999999999999999999"])
def test_an_unknown_signal_is_named(container, name):
    c = container().up()
    result = c.kill(name, check=False)
    assert result.code == 1
    assert name in result.err
    assert c.status == "running"


def test_kill_stops_a_created_container(container):
    c = container()
    c.create("sleep", "1000")
    c.kill("KILL")
    c.wait_for("stopped")
    c.delete()


def test_term_stops_a_created_container(container):
    c = container()
    c.create("sleep", "1000")
    c.kill("TERM")
    c.wait_for("stopped")
    c.delete()


def test_a_stopped_container_can_not_be_killed(container):
    c = container().up("true")
    c.wait_for("stopped")
    result = c.kill("KILL", check=False)
    assert result.code == 1
    assert "container not running" in result.err


def test_kill_all_of_a_stopped_container_is_no_error(container):
    """runc's flag is obsolete, and engines still use it."""
    c = container().up("true")
    c.wait_for("stopped")
    assert c.runtime("kill", "--all", c.id, "KILL").code == 0


@pytest.mark.vm
def test_kill_ends_every_process_of_a_container_that_shares_the_hosts(container):
    c = container(namespaces=namespaces("mount", "ipc", "uts"))
    c.up("sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000")
    wait_until(lambda: len(processes_of(str(c.bundle.path))) >= 3, "its children")
    c.kill("KILL")
    wait_until(lambda: not processes_of(str(c.bundle.path)), "all to end")
    c.delete()


# --- delete


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "exec", "ps"])
def test_no_such_container(runtime, verb):
    words = {"kill": ("nobody", "KILL"), "exec": ("nobody", "true")}.get(verb, ("nobody",))
    result = runtime(verb, *words, check=False)
    assert result.code == (255 if verb == "exec" else 1)
    assert "container does not exist" in result.err
    assert len(result.err.splitlines()) == 1


def test_delete_by_force_of_no_container_is_no_error(runtime):
    assert runtime("delete", "--force", "nobody").err == ""


def test_delete_of_a_running_container_is_refused(container):
    c = container().up()
    result = c.delete(check=False)
    assert result.code == 1
    assert "is not stopped: running" in result.err
    assert c.status == "running"


@pytest.mark.parametrize("flag", ["--force", "-f", "-force", "--force=true"])
def test_delete_by_force_ends_it(container, flag):
    c = container().up()
    pid = c.pid
    c.delete(flag)
    c.assert_gone()
    assert not Path(f"/proc/{pid}/exe").exists()


def test_a_created_container_is_deleted_without_force(container):
    """runtime.md demands otherwise. runc and crun do this, and engines rely on it."""
    c = container()
    c.create("sleep", "1000")
    c.delete()
    c.assert_gone()


def test_delete_removes_cgroups_that_the_container_made(container):
    c = container().up()
    for path in cgroups_of(c.id):
        (Path(path) / "inner/most").mkdir(parents=True)
    c.delete("--force")
    c.assert_gone()


def test_delete_leaves_cgroups_that_were_there_before(container):
    parent = f"{MARK}-parent"
    c = container(cgroupsPath=f"/{parent}/one").up()
    other = container(cgroupsPath=f"/{parent}/two").up()
    c.delete("--force")
    assert not [path for path in all_cgroups() if path.endswith("/one")]
    assert other.status == "running"
    other.delete("--force")
    for path in sorted(cgroups_of(parent), reverse=True):
        os.rmdir(path)


def test_delete_ends_what_runs_on_in_a_shared_process_namespace(container):
    """The first process has ended; what it started has not."""
    c = container(namespaces=namespaces("mount", "ipc", "uts"))
    c.up("sh", "-c", "sleep 1000 & exit 0")
    c.wait_for("stopped")
    assert processes_of(str(c.bundle.path))
    c.delete("--force")
    wait_until(lambda: not processes_of(str(c.bundle.path)), "all to end")
    c.assert_gone()


def test_a_container_without_a_record_can_be_deleted_by_force(container):
    c = container().up("true")
    c.wait_for("stopped")
    (c.runtime.root / c.id / "state.json").unlink()
    c.delete("--force")
    assert not (c.runtime.root / c.id).exists()
    for path in sorted(cgroups_of(c.id), reverse=True):  # nothing was known of them
        os.rmdir(path)


@pytest.mark.parametrize("text", ["", '{"id": ', "[]", "{}", '{"pid": "x"}', "\x00" * 100])
def test_a_container_with_a_spoiled_record_can_be_deleted_by_force(container, text):
    c = container().up("true")
    c.wait_for("stopped")
    (c.runtime.root / c.id / "state.json").write_text(text)
    c.delete("--force")
    c.assert_gone()

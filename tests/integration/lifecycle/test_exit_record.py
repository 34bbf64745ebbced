"""How a container has ended: pyrunc wait, and the record that create --exit-record keeps."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from integration.support.runtime import wait_until


def keepers_of(root, own=0):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(folder.name) != own and b"--exit-record" in words and str(root).encode() in words:
            found.append(int(folder.name))
    return found


def keepers(container):
    """Processes of ours that still speak of the container, without its own."""
    own = json.loads(container.runtime("state", container.id, check=False).out or "{}").get("pid")
    return keepers_of(container.runtime.root, own)


@pytest.fixture(autouse=True)
def none_stays(runtime):
    """A keeper has written the end, or found the container gone, and is about to go itself."""
    yield
    wait_until(lambda: not keepers_of(runtime.root), "the keeper to go")


def test_the_status_is_kept_until_delete(container):
    c = container()
    c.up("sh", "-c", "sleep 0.2; exit 7", flags=("--exit-record",))
    assert c.runtime("wait", c.id).out == "7\n"  # before the end
    assert c.runtime("wait", c.id).out == "7\n"  # and after it
    record = json.loads(c.runtime("wait", "--json", c.id).out)
    assert (record["exitStatus"], record["oomKilled"]) == (7, False)
    assert record["started"] < record["finished"]
    assert c.state()["exit"] == record
    c.delete()
    wait_until(lambda: not c.leftovers(), "the keeper to go")


def test_the_signal_is_kept(container):
    c = container()
    c.create("sleep", "1000", flags=("--exit-record",))
    assert len(keepers(c)) == 1
    assert "exit" not in c.state()
    c.start()
    c.kill("KILL")
    record = json.loads(c.runtime("wait", "--json", c.id).out)
    assert (record["exitStatus"], record["signal"]) == (128 + 9, 9)
    c.delete()


def test_a_container_that_never_started_has_no_time_of_start(container):
    c = container()
    c.create("true", flags=("--exit-record",))
    c.kill("KILL")
    record = json.loads(c.runtime("wait", "--json", c.id).out)
    assert record["exitStatus"] == 137
    assert "started" not in record
    c.delete()


def test_force_leaves_no_keeper(container):
    c = container()
    c.up(flags=("--exit-record",))
    c.delete("--force")
    wait_until(lambda: not c.leftovers(), "the keeper to go")


@pytest.mark.parametrize("text", ["{}", '{"exitStatus": "\\u001b[2J"}', "[", "FIFO"])
def test_a_damaged_record_is_said_and_not_guessed(container, text):
    c = container()
    c.up("true", flags=("--exit-record",))
    assert c.runtime("wait", c.id).out == "0\n"
    record = c.runtime.root / c.id / "exit.json"
    record.unlink()
    if text == "FIFO":
        os.mkfifo(record)
    else:
        record.write_text(text)
    for verb in ("wait", "state"):
        result = c.runtime(verb, c.id, check=False)
        assert (result.code, result.out) == (1, "")
        assert f"reading {record}: " in result.err
    c.delete()


def test_the_keeper_holds_nothing_of_the_callers(container, tmp_path):
    c = container()
    with open(tmp_path / "held", "wb") as held:
        os.set_inheritable(held.fileno(), True)
        c.up(flags=("--exit-record",), close_fds=False)
    (keeper,) = keepers(c)
    links = [os.readlink(entry) for entry in Path(f"/proc/{keeper}/fd").iterdir()]
    assert str(tmp_path / "held") not in links
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert os.getsid(keeper) == keeper
    c.delete("--force")


def test_a_failing_create_leaves_nothing_and_says_why(container):
    c = container(cwd="/", args=["nowhere"])
    c.bundle.write()
    result = c.runtime("create", "--exit-record", "--bundle", c.bundle.path, c.id, check=False)
    assert result.code == 1
    assert "executable file not found" in result.err
    wait_until(lambda: not c.leftovers(), "the keeper to go")
    assert not keepers(c)


def test_a_killed_keeper_is_an_error_and_no_guess(container):
    c = container()
    c.up(flags=("--exit-record",))
    (keeper,) = keepers(c)
    os.kill(keeper, signal.SIGKILL)
    c.kill("KILL")
    c.wait_for("stopped")
    result = c.runtime("wait", c.id, check=False)
    assert result.code == 1
    assert "has not told how" in result.err
    assert c.state()["exit"] is None
    c.delete()


def test_without_a_record_the_kernel_is_asked(container):
    from pyrunc.linux.exits import tells_exits

    if not tells_exits():
        pytest.skip("Linux 6.15 tells it by pidfd")
    c = container()
    c.up("sh", "-c", "sleep 0.5; exit 5")
    assert c.runtime("wait", c.id).out == "5\n"
    assert "nobody" not in c.runtime("wait", c.id, check=False).out
    assert "--exit-record" in c.runtime("wait", c.id, check=False).err
    c.delete()


def test_in_the_foreground_it_is_for_what_is_kept(container):
    c = container()
    result = c.attempt("true", flags=("--exit-record",))
    assert result.code == 1
    assert "use --detach or --keep" in result.err
    assert c.attempt("sh", "-c", "exit 3", flags=("--exit-record", "--keep")).code == 3
    assert json.loads(c.runtime("wait", "--json", c.id).out)["exitStatus"] == 3
    c.delete()


def test_activation_sockets_reach_the_container(container):
    """LISTEN_PID names the process that called us, not the one that stays."""
    c = container()
    c.config["process"]["env"] = ["PATH=/bin"]
    read, write = os.pipe()
    command = f"exec {c.runtime.binary} --root {c.runtime.root} run -d --exit-record --bundle {c.bundle.path} {c.id}"
    c._prepare(("sh", "-c", "echo $LISTEN_FDS >&3"))
    script = f"exec 3>&9; export LISTEN_FDS=1 LISTEN_PID=$$; {command}"
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 9)])
    assert os.waitpid(pid, 0)[1] == 0
    os.close(write)
    deadline = time.monotonic() + 20
    said = b""
    while not said.endswith(b"\n") and time.monotonic() < deadline:
        said += os.read(read, 10)
    os.close(read)
    assert said == b"1\n"
    assert c.runtime("wait", c.id).out == "0\n"
    c.delete()

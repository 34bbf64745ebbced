"""What crun and youki have besides runc: flags, annotations."""

import base64
import fcntl
import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import namespaces
from integration.support.container import Container
from integration.support.runtime import Runtime

# --- flags


@pytest.fixture
def three(container):
    made = [container() for _ in range(3)]
    for c, name in zip(made, ("web-1", "web-2", "db"), strict=True):
        c.id = f"{c.id}-{name}"
        c.up()
    return made


def ids(runtime):
    return {name.rpartition("-")[2] for name in runtime("list", "-q").out.split()}


def test_delete_and_kill_by_regular_expression(three, runtime):
    assert runtime("kill", "--regex", "web-[12]$", "KILL").code == 0
    for c in three[:2]:
        c.wait_for("stopped")
    result = runtime("delete", "--regex", ".", check=False)  # one of them runs
    assert result.code == 1
    assert "is not stopped: running" in result.err
    assert ids(runtime) == {"db"}
    assert runtime("delete", "--force", "--regex", "nobody").code == 0
    assert "is no regular expression" in runtime("delete", "--regex", "(", check=False).err


def test_delete_all(three, runtime):
    assert runtime("delete", "--force", "--all").code == 0
    assert ids(runtime) == set()
    assert runtime("delete", "--all", "x", check=False).code == 1
    assert "requires 1 argument" in runtime("delete", check=False).err


def test_a_root_that_is_none_loses_nothing(runtime, tmp_path):
    """--root /home: a folder there is no container's, whatever its name."""
    place = tmp_path / "place"
    for name in ("file", "state.jsonx", ".state"):
        (place / "home" / name).mkdir(parents=True)
        (place / "home" / name / "precious").touch()
    before = sorted(place.rglob("*"))
    wrong = Runtime(runtime.binary, place, runtime.scratch)
    for words in (("home",), ("--force", "home"), ("--all",), ("--force", "--all"), ("--regex", "."), ("-f", "-a")):
        result = wrong("delete", *words, check=False)
        assert result.code == 1
        assert "which is none of a container's; is --root the folder that you mean?" in result.err
    assert sorted(place.rglob("*")) == before


def test_folders_that_are_no_containers(runtime):
    """No verb could have made them, and none sees them."""
    names = ("a b", "web\n", "\x1b[2J", "[a]", ":x")
    runtime.root.mkdir(exist_ok=True)
    for name in names:
        (runtime.root / name).mkdir()
    (runtime.root / "link").symlink_to("/etc")
    for words in (("list",), ("delete", "--all"), ("kill", "--regex", "."), ("delete", "--force", "--regex", "^web$")):
        assert runtime(*words).err == ""
    assert {*os.listdir(runtime.root)} == {*names, "link"}
    for name in names:
        (runtime.root / name).rmdir()


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("^(a+)+$", "takes too long to try"),
        ("(" * 3000 + ")" * 3000, "is nested too deeply"),
        ("a{99999999999}", "the repetition number is too large"),
        ("[[:alpha:]]", "Possible nested set"),
        ("(?P<", "missing group name"),
    ],
)
def test_expressions_that_are_refused(runtime, pattern, cause):
    folder = runtime.root / ("a" * 60 + "b")
    folder.mkdir(parents=True)
    result = runtime("kill", "--regex", pattern, "0", check=False)
    folder.rmdir()
    assert result.code == 1
    assert cause in result.err
    assert len(result.err) < 400


def test_what_fails_with_one_is_no_reason_to_leave_the_others(container, runtime):
    made = {name: container() for name in ("fifo", "link", "path", "locked", "well")}
    for name, c in made.items():
        c.id = f"{c.id}-{name}"
        c.up()
    record = {name: runtime.root / c.id / "state.json" for name, c in made.items()}
    text = json.loads(record["path"].read_text())
    text["cgroup"]["paths"] = dict.fromkeys(text["cgroup"]["paths"], "/x/../../\x00")
    record["path"].write_text(json.dumps(text))
    for name in ("fifo", "link"):
        record[name].unlink()
    os.mkfifo(record["fifo"])
    record["link"].symlink_to("/dev/zero")
    result = runtime("kill", "--regex", ".", "KILL", check=False)
    assert result.code == 1
    for name in ("fifo", "link", "path"):
        assert f"{made[name].id}/state.json: " in result.err
    assert "internal error" not in result.err
    made["well"].wait_for("stopped")
    lock = os.open(record["locked"].parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = runtime("delete", "--force", "--all", check=False)
        assert result.code == 1
        assert f"{made['locked'].id}: another program holds its lock" in result.err
        assert ids(runtime) == {"locked"}
    finally:
        os.close(lock)
    runtime("delete", "--force", "--all")
    for c in made.values():
        c.assert_gone()


def test_the_state_of_another_user_is_not_believed(container, runtime):
    """What he has written there would say whom root kills and what root removes."""
    c = container().up()
    folder = runtime.root / c.id
    os.chown(folder, 65534, 65534)
    for words in (("kill", c.id), ("delete", "--force", c.id), ("exec", c.id, "true"), ("state", c.id)):
        result = runtime(*words, check=False)
        assert result.code
        assert "it is that of user 65534" in result.err
    assert runtime("delete", "--force", "--all", check=False).code == 1
    os.chown(folder, 0, 0)
    assert c.status == "running"


def test_without_a_cgroup(container, runtime):
    c = container()
    c._prepare(("cat", "/proc/self/cgroup"))
    words = ("--cgroup-manager", "disabled", "run", "--bundle", c.bundle.path, c.id)
    own = {line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    assert {line.split(":")[2] for line in runtime(*words).out.splitlines()} == own
    c.change(resources={"pids": {"limit": 9}})
    c._prepare(())
    assert "there are no limits" in runtime(*words, check=False).err
    assert "is none" in runtime("--cgroup-manager", "x", "list", check=False).err
    c.assert_gone()


def test_log_levels(container, runtime):
    c = container(capabilities={"bounding": ["CAP_NOBODY_KNOWS"]})
    c._prepare(("true",))
    words = ("run", "--bundle", c.bundle.path, c.id)
    assert "level=warning" in runtime(*words).err
    assert runtime("--log-level", "error", *words).err == ""
    assert "level=debug" in runtime("--log-level", "debug", *words).err
    assert "is no level" in runtime("--log-level", "loud", *words, check=False).err


@pytest.mark.parametrize(("kind", "path"), [("journald", "/run/systemd/journal/socket"), ("syslog", "/dev/log")])
def test_the_log_of_a_service(runtime, tmp_path, kind, path):
    """In a mount namespace where that service is ours."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.settimeout(20)
    server.bind(str(tmp_path / "socket"))
    top = "/" + path.split("/")[1]
    folder = os.path.dirname(path)
    command = " ".join(runtime.command("--log", f"{kind}:me", "state", "nobody"))
    script = f"mount -t tmpfs x {top} && mkdir -p {folder} && touch {path} && mount --bind {tmp_path}/socket {path}"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{script}; {command}"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1, result
    data = server.recv(1 << 16).decode()
    server.close()
    assert 'container "nobody": container does not exist' in data
    assert ("SYSLOG_IDENTIFIER=me" in data) if kind == "journald" else data.startswith("<27>me[")


def test_a_log_that_nobody_reads_is_an_error(runtime, tmp_path):
    if os.path.exists("/dev/log"):
        pytest.skip("somebody reads /dev/log")
    assert "is that service running?" in runtime("--log", "syslog:me", "list", check=False).err
    runtime("--log", f"file:{tmp_path}/log", "state", "nobody", check=False)
    assert "does not exist" in (tmp_path / "log").read_text()


def test_info(runtime):
    lines = runtime("info").out.splitlines()
    assert any(line.startswith("Kernel-Release") and os.uname().release in line for line in lines)


# --- annotations


def annotated(container: Container, **values: str) -> Container:
    names = {name.replace("__", "."): value for name, value in values.items()}
    return container.change(annotations={f"run.oci.{name}": value for name, value in names.items()})


def test_groups_are_kept(container):
    c = annotated(container(), keep_original_groups="1")
    wrapper = ("setpriv", "--groups", "7,12345", "--")
    assert {"7", "12345"} <= set(c.run("id", "-G", wrapper=wrapper).split())
    assert container().run("id", "-G", wrapper=wrapper) == "0"
    c.change(user={"uid": 0, "gid": 0, "additionalGids": [3]})
    assert "additionalGids names others" in c.refused("true")


def test_output_of_hooks(container):
    say = {"path": "/bin/sh", "args": ["sh", "-c", "echo out $0; echo err >&2", "x"]}
    c = container(hooks={kind: [say] for kind in ("createRuntime", "createContainer", "startContainer", "poststop")})
    annotated(c, hooks__stdout=str(c.bundle.path / "out"), hooks__stderr="err")  # relative: to the bundle
    c.run("true")
    assert (c.bundle.path / "out").read_text() == "out x\n" * 4
    assert (c.bundle.path / "err").read_text() == "err\n" * 4


def test_a_filter_as_it_is(container):
    """BPF: getppid fails with 77, all else is allowed."""
    number = 110 if os.uname().machine == "x86_64" else 173
    code = b"".join(
        struct.pack("=HBBI", *each)
        for each in ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | 77), (0x06, 0, 0, 0x7FFF0000))
    )
    c = annotated(container(), seccomp_bpf_data=base64.b64encode(code).decode())
    assert "Seccomp:\t2" in c.run("cat", "/proc/self/status")
    c.up()
    assert "Seccomp:\t2" in c.exec("cat", "/proc/self/status")
    c.delete("--force")
    annotated(c, seccomp_bpf_data="AAAA")
    assert "3 bytes are no BPF program" in c.refused("true")
    annotated(c, seccomp_bpf_data="!")
    assert "is not base64" in c.refused("true")


def test_unknown_system_calls_may_be_an_error(container):
    rules = [{"names": ["read", "opne"], "action": "SCMP_ACT_ERRNO"}]
    c = container(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{**rules[0], "names": ["opne"]}]})
    c.run("true")
    annotated(c, seccomp_fail_unknown_syscall="1")
    assert "unknown system calls: opne" in c.refused("true")


def test_offsets_of_clocks(container):
    c = annotated(container(), timens_offset="boottime 100000 0\nmonotonic 5 0")
    assert "there is no new time namespace" in c.refused("true")
    c.change(namespaces=namespaces("pid", "network", "ipc", "uts", "mount", "time"))
    with open("/proc/uptime") as file:
        ours = float(file.read().split()[0])
    assert float(c.run("cut", "-d ", "-f1", "/proc/uptime")) > ours + 99_999
    annotated(c, timens_offset="noon 1 0")
    assert "is not a clock, seconds and nanoseconds" in c.refused("true")


def test_a_receiver_of_the_pidfd(container, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(20)
        c = annotated(container(), pidfd_receiver=str(path))
        c.create("true")
        connection, _ = server.accept()
        _, (pidfd,), _, _ = socket.recv_fds(connection, 4096, 1)
        connection.close()
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            assert f"Pid:\t{c.pid}\n" in file.read()
        os.close(pidfd)
        c.delete("--force")


@pytest.mark.parametrize("name", ["systemd.subgroup", "delegate-cgroup", "systemd.force_cgroup_v1"])
def test_an_empty_text_asks_for_nothing(container, name):
    """What they do otherwise: cgroups/test_crun_annotations.py."""
    assert container(annotations={f"run.oci.{name}": ""}).run("echo", "x") == "x"


def test_features_names_what_strangers_must_not_set(runtime):
    unsafe = json.loads(runtime("features").out)["potentiallyUnsafeConfigAnnotations"]
    assert {"run.oci.delegate-cgroup", "run.oci.systemd.subgroup", "run.oci.systemd.force_cgroup_v1"} <= {*unsafe}
    assert {"run.oci.keep_original_groups", "run.oci.seccomp_bpf_data", "run.oci.hooks.stdout"} <= {*unsafe}

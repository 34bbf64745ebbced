"""exec: another process in a running container."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from integration.support.bundle import full, namespaces
from integration.support.host import unified
from integration.support.runtime import wait_until
from integration.support.terminal import read_terminal, receive_descriptor


@pytest.fixture
def running(container):
    return container().up()


def process(**members):
    return {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, **members}


def exec_process(c, tmp_path, **members):
    (tmp_path / "process.json").write_text(json.dumps(process(**members)))
    return c.runtime("exec", "--process", tmp_path / "process.json", c.id, check=False)


# --- the command


def test_it_prints_what_the_command_prints(running):
    assert running.exec("echo", "hello") == "hello"


@pytest.mark.parametrize("code", [1, 77, 255])
def test_its_status_is_the_commands(running, code):
    assert running.attempt_exec("sh", "-c", f"exit {code}").code == code


def test_the_status_of_a_command_that_a_signal_ended(running):
    assert running.attempt_exec("sh", "-c", "kill -9 $$").code == 128 + signal.SIGKILL


def test_flags_after_the_id_are_the_commands(running):
    assert running.exec("echo", "-e", "--user", "x") == "--user x"


def test_it_is_in_all_namespaces_of_the_container(container):
    c = container(namespaces=namespaces("pid", "network", "ipc", "uts", "mount", "cgroup")).up()
    names = ("pid", "net", "ipc", "uts", "mnt", "cgroup")
    links = [c.exec("readlink", f"/proc/self/ns/{name}") for name in names]
    assert links == [os.readlink(f"/proc/{c.pid}/ns/{name}") for name in names]


@pytest.mark.vm
def test_it_is_in_the_cgroup_of_the_container(running):
    assert running.exec("cat", "/proc/self/cgroup") == running.exec("cat", "/proc/1/cgroup")
    assert f"/{running.id}" in running.exec("cat", "/proc/self/cgroup")


def test_it_has_a_session_of_its_own(running):
    out = running.exec("probe", "attributes")
    assert "ids 0 1 1" in out


def test_it_gets_three_descriptors(running):
    assert [line.split()[0] for line in running.exec("probe", "descriptors").splitlines()] == ["0", "1", "2"]


def test_it_reads_its_input(running):
    read, write = os.pipe()
    process = running.runtime.spawn("exec", running.id, "cat", stdin=read)
    os.close(read)
    os.write(write, b"hello")
    os.close(write)
    assert process.end(10) == 0
    assert process.out == "hello"


@pytest.mark.parametrize("name", ["TERM", "USR1", "HUP"])
def test_signals_are_passed_on(running, name):
    process = running.runtime.spawn(
        "exec", running.id, "sh", "-c", f"trap 'exit 7' {name}; echo ready; while :; do sleep 0.01; done"
    )
    wait_until(lambda: "ready" in process.out, "the trap")
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.end(10) == 7


def test_it_sees_the_mounts_of_the_container(container):
    c = container(mounts=[{"destination": "/extra", "type": "tmpfs", "source": "tmpfs"}]).up()
    assert " /extra " in c.exec("cat", "/proc/self/mountinfo")


# --- what can't be


@pytest.mark.parametrize("command", ["/no/such/program", "nosuchprogram"])
def test_a_missing_command_is_named(running, command):
    result = running.attempt_exec(command)
    assert result.code == 255
    assert command in result.err
    assert len(result.err.splitlines()) == 1


def test_a_stopped_container_takes_none(container):
    c = container().up("true")
    c.wait_for("stopped")
    result = c.attempt_exec("true")
    assert result.code == 255
    assert "cannot exec in a stopped container" in result.err


def test_a_created_container_takes_one(container):
    """runc does this, and hooks of engines use it."""
    c = container()
    c.create("sleep", "1000")
    assert c.exec("echo", "here") == "here"
    assert c.status == "created"


def freeze(c, state):
    if unified():
        c.control_file("cgroup.freeze").write_text("1" if state == "FROZEN" else "0")
    else:
        c.control_file("freezer.state").write_text(state)


def test_a_paused_container_takes_none(running):
    freeze(running, "FROZEN")
    assert running.status == "paused"
    result = running.attempt_exec("true")
    assert result.code == 255
    assert "cannot exec in a paused container" in result.err
    freeze(running, "THAWED")
    running.exec("true")


def test_a_paused_container_takes_one_that_ignores_it(running):
    freeze(running, "FROZEN")
    process = running.runtime.spawn("exec", "--ignore-paused", running.id, "true")
    time.sleep(0.3)
    assert process.poll() is None
    freeze(running, "THAWED")
    assert process.end(10) == 0


def test_a_paused_container_can_be_killed_and_deleted(running):
    freeze(running, "FROZEN")
    running.kill("KILL")
    running.wait_for("stopped")
    running.delete()
    running.assert_gone()


def test_a_command_is_needed(running):
    result = running.attempt_exec()
    assert result.code == 255
    assert "COMMAND" in result.err


# --- flags


def test_detached_it_returns_at_once(running):
    before = time.monotonic()
    running.runtime("exec", "-d", running.id, "sleep", "1000")
    assert time.monotonic() - before < 5
    assert running.exec("ps").count("sleep 1000") == 2


def test_the_pid_file_has_the_pid_of_the_host(running, tmp_path):
    running.runtime("exec", "-d", "--pid-file", tmp_path / "pid", running.id, "sleep", "1234")
    assert b"1234" in Path(f"/proc/{(tmp_path / 'pid').read_text()}/cmdline").read_bytes()


def test_a_pid_file_that_can_not_be_written_leaves_no_process(running):
    result = running.attempt_exec("sleep", "1234", flags=("-d", "--pid-file", "/no/such/file"))
    assert result.code == 255
    assert "/no/such/file" in result.err
    assert "1234" not in running.exec("ps")


def test_variables_are_added(running):
    out = running.exec("env", flags=("-e", "A=1", "--env", "B=x y=z", "--env=C=")).splitlines()
    assert {"A=1", "B=x y=z", "C=", "PATH=/bin"} <= set(out)


def test_of_two_variables_of_one_name_the_last_counts(running):
    out = running.exec("env", flags=("-e", "A=1", "-e", "A=2", "-e", "PATH=/bin:/x")).splitlines()
    assert [line for line in out if line.startswith("A=")] == ["A=2"]
    assert [line for line in out if line.startswith("PATH=")] == ["PATH=/bin:/x"]


def test_a_variable_needs_a_value(running):
    result = running.attempt_exec("env", flags=("-e", "ALONE"))
    assert result.code == 255
    assert "ALONE" in result.err


def test_the_working_directory(running):
    assert running.exec("pwd", flags=("--cwd", "/tmp")) == "/tmp"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("1000", "1000 0"),
        ("1000:1001", "1000 1001"),
        ("0:5", "0 5"),
        ("4294967294:4294967294", "4294967294 4294967294"),
    ],
)
def test_crun_cve_2026_30892_the_user(running, user, ids):
    assert running.exec_sh("echo $(id -u) $(id -g)", flags=("-u", user)) == ids


@pytest.mark.parametrize(
    "user",
    [
        "1:",
        ":2",
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1x",
        "x",
        "",
        " 1",
        "1 ",
        "+1",
        "0x10",
        "1_0",
        "\N{FULLWIDTH DIGIT ONE}",
        "1:2:3",
        "1:-1",
        "root",
    ],
)
def test_crun_cve_2026_30892_a_user_that_is_no_number_is_refused(running, user):
    """crun CVE-2026-30892: a user that was not understood became root."""
    if user == "":
        assert running.exec("id", "-u", flags=("-u", user)) == "0"  # as if it was not given: runc's too
        return
    result = running.attempt_exec("true", flags=("-u", user))
    assert result.code == 255
    assert user in result.err


def test_home_is_the_users(running):
    assert running.exec_sh("echo $HOME", flags=("-u", "1000")) == "/home/user"


def test_a_user_named_like_a_number_is_not_that_user(container):
    """CVE-2016-3697"""
    c = container().file("/etc/passwd", "1000:x:0:0:root:/root:/bin/sh\n").up()
    assert c.exec("id", "-u", flags=("-u", "1000")) == "1000"
    assert c.exec_sh("echo $HOME", flags=("-u", "1000")) == "/"


def test_further_groups(running):
    assert running.exec("id", "-G", flags=("-u", "1000:1000", "-g", "7", "--additional-gids", "8")) == "1000 7 8"


def capabilities(c, *flags):
    lines = c.exec("cat", "/proc/self/status", flags=flags).splitlines()
    return {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def test_a_further_capability_is_never_inheritable(running):
    """CVE-2022-29162"""
    before, after = capabilities(running), capabilities(running, "--cap", "CAP_NET_RAW")
    for name in ("CapBnd", "CapEff", "CapPrm"):
        assert after[name] == before[name] | 1 << 13
    assert after["CapInh"] == before["CapInh"] == 0
    assert after["CapAmb"] == before["CapAmb"] == 0


def test_no_new_privileges(running):
    assert running.exec_sh("grep NoNewPrivs /proc/self/status").split() == ["NoNewPrivs:", "0"]
    assert running.exec_sh("grep NoNewPrivs /proc/self/status", flags=("--no-new-privs",)).split() == [
        "NoNewPrivs:",
        "1",
    ]


def test_no_new_privileges_of_the_container_stay(container):
    c = container(noNewPrivileges=True).up()
    assert c.exec_sh("grep NoNewPrivs /proc/self/status").split() == ["NoNewPrivs:", "1"]


def test_descriptors_are_preserved_when_asked(running, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)

    def arrange() -> None:
        for number in (103, 104):
            os.dup2(fd, number)
        for number in (3, 4):
            os.dup2(number + 100, number)
            os.set_inheritable(number, True)

    try:
        out = running.exec("probe", "descriptors", flags=("--preserve-fds", "1"), preexec_fn=arrange, close_fds=False)
    finally:
        os.close(fd)
    assert [line.split()[0] for line in out.splitlines()] == ["0", "1", "2", "3"]


# --- --process


def test_a_process_from_a_file(running, tmp_path):
    result = exec_process(
        running,
        tmp_path,
        args=["sh", "-c", "id -u; id -G; pwd; echo $A; ulimit -n; umask; grep NoNewPrivs /proc/self/status"],
        env=["PATH=/bin", "A=b"],
        cwd="/tmp",
        user={"uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o77},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        noNewPrivileges=True,
    )
    assert result.code == 0, repr(result)
    assert result.out.split() == ["1000", "1001", "7", "/tmp", "b", "100", "0077", "NoNewPrivs:", "1"]


def test_its_capabilities_are_those_of_the_file(container, tmp_path):
    c = container(capabilities=full("CAP_CHOWN", "CAP_KILL")).up()
    result = exec_process(c, tmp_path, args=["grep", "Cap", "/proc/self/status"], capabilities=full("CAP_NET_RAW"))
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in result.out.splitlines()}
    assert sets == {"CapBnd": 1 << 13, "CapEff": 1 << 13, "CapPrm": 1 << 13, "CapInh": 0, "CapAmb": 0}


def test_an_oom_score_of_the_file(running, tmp_path):
    assert exec_process(running, tmp_path, args=["cat", "/proc/self/oom_score_adj"], oomScoreAdj=321).out == "321\n"


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ('{"args": ["true"]}', "cwd"),
        ('{"args": ', "process.json"),
        ('{"cwd": "/", "args": "true"}', "/args"),
        ("", "process.json"),
    ],
)
def test_a_file_that_is_no_process_is_explained(running, tmp_path, text, culprit):
    (tmp_path / "process.json").write_text(text)
    result = running.runtime("exec", "--process", tmp_path / "process.json", running.id, check=False)
    assert result.code == 255
    assert culprit in result.err


def test_a_missing_file_is_named(running):
    result = running.runtime("exec", "--process", "/no/such/file", running.id, check=False)
    assert result.code == 255
    assert "/no/such/file" in result.err


# --- terminals


def test_a_terminal_through_a_console_socket(running, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        running.runtime(
            "exec",
            "-d",
            "-t",
            "--console-socket",
            tmp_path / "console",
            running.id,
            "sh",
            "-c",
            "tty; probe attributes; sleep 1000",
        )
        master, _ = receive_descriptor(listener)
    text = read_terminal(master, lambda text: "cpus" in text and "terminal" in text)
    os.close(master)
    assert text.startswith("/dev/pts/")
    assert "terminal 1 1 1" in text


def test_a_terminal_without_a_socket_can_not_be_detached(running):
    result = running.attempt_exec("true", flags=("-d", "-t"))
    assert result.code == 255
    assert "console socket" in result.err


# --- user namespaces


def test_it_is_root_of_the_containers_user_namespace(container):
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c = container(
        namespaces=namespaces("pid", "network", "ipc", "uts", "mount", "user"), uidMappings=maps, gidMappings=maps
    )
    c.reachable().up()
    assert c.exec("id", "-u") == "0"
    assert c.exec_sh("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert os.readlink(f"/proc/{c.pid}/ns/user") == c.exec("readlink", "/proc/self/ns/user")


# --- what it does not make, and does not take


@pytest.mark.parametrize("user", [0, 1000])
def test_a_working_directory_that_is_not_there_is_not_made(container, tmp_path, user):
    """Only the first process's working directory is made. One that `exec` made would belong to root."""
    c = container().up()
    c.bundle.rootfs.joinpath("dangling").symlink_to("/made/behind/a/link")
    for cwd in ("/made/by/exec", "/dangling", "/dangling/below", "/tmp/../made", "/etc/passwd"):
        if user:
            result = c.attempt_exec("true", flags=("--cwd", cwd, "--user", f"{user}:{user}"))
        else:
            result = exec_process(c, tmp_path, cwd=cwd)
        why = "not a directory" if cwd == "/etc/passwd" else "no such file or directory"
        assert result.code == 255
        assert f'chdir to cwd ("{cwd}") set in config.json failed: {why}' in result.err
        assert not c.bundle.rootfs.joinpath("made").exists()


def test_an_empty_working_directory_is_the_containers(container):
    assert container(cwd="/tmp").up().exec("pwd", flags=("--cwd", "")) == "/tmp"


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        (["A=B"], "executable file not found in $PATH"),
        (["PATH="], "executable file not found in $PATH"),
        (["PATH=:/bin"], "cannot run executable found relative to current directory"),
        (["PATH=/none:."], "cannot run executable found relative to current directory"),
        (["PATH=../bin"], "cannot run executable found relative to current directory"),
    ],
)
def test_no_program_is_taken_from_the_working_directory(container, tmp_path, variables, why):
    """Else somebody who writes to a volume could choose which program runs."""
    result = exec_process(container().up(), tmp_path, args=["sh", "-c", "echo ran"], cwd="/bin", env=variables)
    assert (result.code, result.out) == (255, "")
    assert f'exec: "sh": {why}' in result.err
    assert f'exec: "sh": {why}' in container(env=variables, cwd="/bin").refused("sh")


@pytest.mark.parametrize(("command", "why"), [
    ("/tmp", 'exec: "/tmp": is a directory: permission denied'),
    ("./tmp", 'exec: "./tmp": is a directory: permission denied'),
    ("folder", 'exec: "folder": executable file not found in $PATH'),
])  # fmt: skip
def test_a_folder_is_no_program(container, command, why):
    c = container().up()
    (c.bundle.rootfs / "bin/folder").mkdir()
    result = c.attempt_exec(command)
    assert result.code == 255
    assert why in result.err
    other = container()
    (other.bundle.rootfs / "bin/folder").mkdir()
    assert why in other.refused(command)

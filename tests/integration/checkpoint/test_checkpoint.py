"""checkpoint and restore: what a container was, it is again."""

import fcntl
import json
import os
import socket
import struct
import subprocess
import termios

import pytest

from integration.support.bundle import MAPS, NAMESPACES, full, namespaces
from integration.support.runtime import wait_until
from integration.support.terminal import receive_descriptor
from pyrunc.container.checkpoint import cgroup2


def test_a_program_goes_on_where_it_was(saved):
    s = saved().counting()
    options = cgroup2.options()
    wait_until(lambda: s.count > 3, "it to count")
    s.checkpoint()
    s.container.assert_gone()
    assert cgroup2.options() == options  # the host's, which CRIU takes away
    written = s.count
    assert not s.restore().err
    assert s.container.status == "running"
    s.assert_goes_on(wait_until)
    assert s.count >= written
    assert s.container.exec("cat", "/proc/1/comm") == "sh"
    assert cgroup2.options() == options


def test_leave_running(saved):
    s = saved().counting()
    pid = s.container.pid
    s.checkpoint("--leave-running")
    assert s.container.pid == pid
    s.assert_goes_on(wait_until)


def test_a_paused_container(saved):
    s = saved().counting()
    wait_until(lambda: s.count > 3, "it to count")
    s.runtime("pause", s.container.id)
    s.checkpoint("--leave-running")
    assert s.container.status == "paused"
    s.runtime("resume", s.container.id)
    s.assert_goes_on(wait_until)


def test_a_cgroup_of_v1_beside_the_hosts_is_refused(saved):
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    s = saved(mounts=[mount], annotations={"run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup"}).counting()
    assert "it has a cgroup of v1" in s.checkpoint(check=False).err
    assert s.container.status == "running"


def test_a_cgroup_that_the_container_manages_is_refused(cgroup2_alone, saved):
    s = saved(annotations={"run.oci.delegate-cgroup": "payload"}).counting()
    assert "it manages a cgroup" in s.checkpoint(check=False).err
    assert s.container.status == "running"


@pytest.mark.parametrize("state", ["created", "stopped"])
def test_only_a_running_container_is_written(saved, state):
    s = saved()
    if state == "created":
        s.container.create("sleep", "1000")
    else:
        s.container.up("true")
        s.container.wait_for("stopped")
    result = s.checkpoint(check=False)
    assert (result.code, result.err) == (
        1,
        f"pyrunc: Container cannot be checkpointed in {state} state {s.container.id}\n",
    )


def test_the_folders_are_private_and_made_with_those_above(saved, tmp_path):
    s = saved().counting()
    s.images, s.work = tmp_path / "a/b/images", tmp_path / "c/work"
    s.checkpoint()
    for folder in (s.images, s.images.parent, s.work, s.work.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (s.work / "dump.log").exists()


def test_without_criu_it_says_so(saved, tmp_path):
    s = saved().counting()
    s.environment["PATH"] = f"{tmp_path}:."
    for verb in (s.checkpoint, s.restore):
        result = verb(check=False)
        assert result.code == 1
    assert s.container.status == "running"
    result = s.checkpoint(check=False)
    assert 'exec: "criu": executable file not found in $PATH' in result.err


def test_what_criu_says_of_its_failure_reaches_the_user(saved):
    s = saved().counting()
    result = s.checkpoint("--page-server", "127.0.0.1:1", check=False)  # where nobody listens
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("pyrunc: criu failed: type DUMP errno ")
    assert last.endswith(f"log file: {s.work}/dump.log")
    assert '--- Quoting \\"' in result.err
    s.assert_goes_on(wait_until)


# --- what comes from outside


def test_a_bind_mount_comes_from_where_the_bundle_says(saved, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    mount = {"destination": "/data", "type": "bind", "source": str(one), "options": ["bind", "ro"]}
    s = saved(mounts=[mount]).counting()
    assert s.container.exec("cat", "/data/name") == "one"
    s.checkpoint()
    s.container.config["mounts"][-1]["source"] = str(other)
    s.container.bundle.write()
    s.restore()
    assert s.container.exec("cat", "/data/name") == "other"
    assert s.container.attempt_exec("touch", "/data/x").code == 1


def test_a_destination_that_is_a_symlink_and_a_mount_in_a_mount(saved, tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    (outer / "sub").mkdir(parents=True)
    inner.mkdir()
    (inner / "file").write_text("deep")
    s = saved(
        mounts=[
            {"destination": "/link", "type": "bind", "source": str(outer), "options": ["bind"]},
            {"destination": "/link/sub", "type": "bind", "source": str(inner), "options": ["bind"]},
        ]
    )
    (s.rootfs / "real").mkdir()
    (s.rootfs / "link").symlink_to("/real")
    s.counting()
    s.checkpoint()
    (outer / "sub").rmdir()  # it is made again
    s.restore()
    assert s.container.exec("cat", "/real/sub/file") == "deep"


def test_what_came_along_with_a_recursive_bind_mount(saved, tmp_path):
    top = tmp_path / "top"
    (top / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", top / "below"], check=True)
    try:
        (top / "below/file").write_text("below")
        s = saved(mounts=[{"destination": "/t", "type": "bind", "source": str(top), "options": ["rbind"]}]).counting()
        s.checkpoint()
        s.restore()
        assert s.container.exec("cat", "/t/below/file") == "below"
        s.container.delete("--force")
    finally:
        subprocess.run(["umount", top / "below"], check=True)


def test_each_of_two_bind_mounts_of_a_file_system_stays_read_only(saved, tmp_path):
    """CRIU 4.1 restores the second writable, with runc too."""
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    s = saved(
        mounts=[
            {"destination": "/one", "type": "bind", "source": str(outer), "options": ["rbind", "ro"]},
            {"destination": "/two", "type": "bind", "source": str(outer / "inner"), "options": ["rbind", "ro"]},
        ]
    ).counting()
    s.checkpoint()
    s.restore()
    for place in ("/one", "/two", "/one/inner"):
        assert s.container.attempt_exec("touch", f"{place}/x").code == 1


@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_ADMIN",)])
def test_a_read_only_root_stays_so(saved, tmp_path, capabilities):
    mount = {"destination": "/tmp", "type": "bind", "source": str(tmp_path), "options": ["bind"]}
    s = saved(root={"path": "rootfs", "readonly": True}, mounts=[mount], capabilities=full(*capabilities)).counting()
    s.checkpoint()
    s.restore()
    assert s.container.attempt_exec("touch", "/x").code == 1
    assert (s.rootfs / "tmp").is_dir()


def test_masked_and_read_only_paths_stay_so(saved):
    s = saved(maskedPaths=["/proc/version", "/proc/tty", "/secret"], readonlyPaths=["/proc/sys"])
    s.container.file("secret", "hidden")
    s.counting()
    s.checkpoint()
    s.restore()
    assert s.container.exec("cat", "/secret", "/proc/version") == ""
    assert s.container.exec("ls", "/proc/tty") == ""
    assert s.container.attempt_exec("sh", "-c", "echo 1 > /proc/sys/kernel/ns_last_pid").code == 1


def test_a_network_namespace_of_somebody_elses(saved):
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as holder:
        try:
            holder.stdout.readline()
            place = f"/proc/{holder.pid}/ns/net"
            kinds = namespaces(*(kind for kind in NAMESPACES if kind != "network"), network=place)
            s = saved(namespaces=kinds).counting()
            s.checkpoint()
            s.restore()
            assert os.readlink(f"/proc/{s.container.pid}/ns/net") == os.readlink(place)
        finally:
            s.container.delete("--force")
            holder.kill()


def test_a_network_namespace_of_its_own_has_its_loopback_device(saved):
    s = saved().counting()
    s.checkpoint()
    s.restore()
    assert "UP" in s.container.exec("ip", "link", "show", "lo")


def test_exec_enters_the_time_namespace_of_the_restored(saved):
    s = saved().counting()
    s.checkpoint()
    s.restore()
    assert s.container.exec("readlink", "/proc/self/ns/time") == s.container.exec("readlink", "/proc/1/ns/time")


def test_a_user_namespace(saved):
    s = saved(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS)
    s.container.reachable()
    (s.rootfs / "tmp").mkdir(exist_ok=True)
    os.chmod(s.rootfs / "tmp", 0o777)
    s.counting()
    s.checkpoint()
    s.restore()
    s.assert_goes_on(wait_until)
    assert s.container.exec("cat", "/proc/self/uid_map").split() == ["0", "100000", "65536"]


def test_another_cgroup(saved):
    s = saved(cgroupsPath=f"/pyrunc-test-{os.getpid()}-one").counting()
    s.checkpoint("--manage-cgroups-mode", "ignore")
    s.container.change(cgroupsPath=f"/pyrunc-test-{os.getpid()}-two")
    s.container.bundle.write()
    s.restore("--manage-cgroups-mode", "ignore")
    try:
        with open(f"/proc/{s.container.pid}/cgroup") as file:
            text = file.read()
        assert f"/pyrunc-test-{os.getpid()}-two\n" in text
        assert "-one\n" not in text
    finally:
        s.container.delete("--force")


# --- streams and terminals


def test_standard_streams_are_those_of_restore(saved, tmp_path):
    s = saved()
    first, out, second = os.pipe(), os.pipe(), os.pipe()
    echo = ("sh", "-c", "while read line; do echo got $line; done")
    s.container.up(*echo, stdin=first[0], stdout=out[1], stderr=out[1])
    s.checkpoint()
    into = os.pipe()
    s.restore(stdin=into[0], stdout=second[1])
    os.write(into[1], b"word\n")
    assert os.read(second[0], 100) == b"got word\n"
    s.container.delete("--force")
    for fd in (*first, *out, *second, *into):
        os.close(fd)


def test_a_terminal_is_sent_to_the_console_socket(saved, tmp_path):
    s = saved(terminal=True)
    place = tmp_path / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        s.container.up("sh", flags=("--console-socket", str(place)))
        master, _ = receive_descriptor(listener)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        s.checkpoint()
        os.close(master)
        s.restore("--console-socket", place)
        master, _ = receive_descriptor(listener)
        os.write(master, b"stty size; echo ro''me\n")
        text = b""
        while b"rome" not in text:
            text += os.read(master, 1000)
        assert b"33 77" in text
        os.close(master)


def test_in_the_foreground_its_exit_status_is_ours(saved):
    s = saved()
    read, write = os.pipe()
    s.container.up("sh", "-c", "read line; exit 7", stdin=read, stdout=write, stderr=write)
    s.checkpoint()
    again = os.pipe()
    process = s.runtime.spawn(
        "restore", "--image-path", s.images, "--work-path", s.work, "--bundle", s.container.bundle.path, s.container.id,
        env=s.environment, stdin=again[0],
    )  # fmt: skip
    os.write(again[1], b"\n")
    assert process.end(60) == 7
    s.container.assert_gone()
    for fd in (read, write, *again):
        os.close(fd)


def test_the_pid_file(saved, tmp_path):
    s = saved().counting()
    s.checkpoint()
    s.restore("--pid-file", tmp_path / "pid")
    assert int((tmp_path / "pid").read_text()) == s.container.pid


def test_hooks_of_restore(saved, tmp_path):
    log = tmp_path / "log"
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    script = (
        'read state; echo "$0 $(echo "$state" | grep -o \'"status":"[a-z]*"\') $(readlink /proc/self/ns/mnt)" >> '
        + str(log)
    )
    hooks = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, kind]}] for kind in kinds if "Container" not in kind
    }
    s = saved(hooks=hooks).counting()
    s.checkpoint()
    log.write_text("")
    s.restore()
    lines = [line.split()[:2] for line in log.read_text().splitlines()]
    assert lines == [
        ["prestart", '"status":"created"'],
        ["createRuntime", '"status":"creating"'],
        ["poststart", '"status":"running"'],
    ]


def test_a_hook_that_fails_leaves_nothing(saved, tmp_path):
    gone = tmp_path / "go"
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"test ! -e {gone}"]}]}
    s = saved(hooks=hooks).counting()
    s.checkpoint()
    gone.touch()
    assert "error running createRuntime hook #0" in s.refused()


# --- the command line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--manage-cgroups-mode", "all"), "invalid manage-cgroups-mode value"),
        (("--page-server", "nowhere"), "Use --page-server ADDRESS:PORT to specify page server"),
        (("--page-server", "1.2.3.4:x"), "Invalid port number"),
        (("--empty-ns", "pid"), 'namespace "pid"'),
        (("--parent-path", "/tmp"), "must be relative"),
        (("--parent-path", "../nothing"), "invalid --parent-path:"),
        (("--status-fd", "77"), "invalid --status-fd argument 77"),
    ],
)
def test_flags_that_make_no_sense(saved, flags, words):
    s = saved().counting()
    result = s.checkpoint(*flags, check=False)
    assert result.code == 1
    assert words in result.err
    s.assert_goes_on(wait_until)


def test_features_say_so(runtime):
    features = json.loads(runtime("features").out)
    assert features["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
    assert "org.criu.config" in features["potentiallyUnsafeConfigAnnotations"]

"""What broke the runtimes before us: each advisory as a test, aimed at canaries of its own."""

import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from integration.harness import NAMESPACES, Running, full, host_mounts, namespaces, unchanged, wait_until


def without_mounts(c, *destinations):
    c.config["mounts"] = [mount for mount in c.config["mounts"] if mount["destination"] not in destinations]
    return c


def replace(c, path, target):
    """In the image: a link in the place of what was there."""
    place = c.bundle.rootfs / path.lstrip("/")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif place.exists() or place.is_symlink():
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return c


def forms(canary):
    """The ways in which a link of an image may mean a folder of the host."""
    return [
        str(canary),
        "../" * 40 + str(canary).lstrip("/"),
        f"/proc/self/root{canary}",
        f"/proc/1/root{canary}",
        f"/..{canary}",
    ]


# --- descriptors


def leaking(folder, first=3, last=64):
    """The caller has left folders of the host open in all of these descriptors."""
    opened = os.open(folder, os.O_RDONLY)

    def arrange():
        top = opened
        if first <= top <= last:
            top = os.dup2(opened, last + 50)
        for number in range(first, last + 1):
            os.dup2(top, number, inheritable=True)

    return {"preexec_fn": arrange, "close_fds": False}


def test_a_working_directory_through_a_descriptor(container, canary):
    """CVE-2024-21626: of the runtime's own, or one that the caller has leaked."""
    for number in range(3, 65):
        c = container(cwd=f"/proc/self/fd/{number}")
        with unchanged(canary):
            how = leaking(canary) if number % 2 else {}
            result = c.attempt("sh", "-c", "ls; ls ..; ls ../../../../..; cat file", **how)
        assert "untouched" not in result.out, repr(result)
        assert result.code, repr(result)
        c.assert_gone()


def test_a_working_directory_of_exec_through_a_descriptor(container, canary):
    c = container().up()
    for number in range(3, 65):
        with unchanged(canary):
            how = leaking(canary) if number % 2 else {}
            result = c.attempt_exec(
                "sh", "-c", "cat file; cat ../../../etc/hostname", flags=("--cwd", f"/proc/self/fd/{number}"), **how
            )
        assert "untouched" not in result.out, repr(result)


@pytest.mark.parametrize(
    "cwd", ["/link", "/proc/self/cwd", "/proc/1/cwd", "/proc/self/root", "/../../../..", "/proc/self/fd/../fd/5"]
)
def test_a_working_directory_that_leads_out(container, canary, cwd):
    c = replace(container(cwd=cwd), "/link", "/proc/self/fd/7")
    result = c.attempt("sh", "-c", "ls -a . ..; cat file", **leaking(canary))
    assert "untouched" not in result.out
    assert "boot" not in result.out.split()


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 11, 14])
def test_a_program_through_a_descriptor(container, canary, number):
    """CVE-2024-21626, its second half."""
    (canary / "bin").mkdir()
    shutil.copy(shutil.which("busybox"), canary / "bin/sh")
    for how in ({}, leaking(canary)):
        c = container()
        result = c.attempt(f"/proc/self/fd/{number}/bin/sh", "-c", "echo escaped", **how)
        assert "escaped" not in result.out
        assert result.code == 1
        c.assert_gone()


def test_descriptors_that_the_caller_leaked_do_not_reach_the_program(container, canary):
    c = container()
    names = [line.split()[0] for line in c.run("probe", "descriptors", **leaking(canary)).splitlines()]
    assert names == ["0", "1", "2"]
    c.up(**leaking(canary))
    names = [line.split()[0] for line in c.exec("probe", "descriptors", **leaking(canary)).splitlines()]
    assert names == ["0", "1", "2"]


def test_descriptors_that_the_caller_leaked_do_not_reach_hooks(container, canary, tmp_path):
    script = f"for n in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$n ] && echo $n >> {tmp_path}/seen; done; true"
    hooks = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
        for kind in ("createRuntime", "createContainer", "poststop")
    }
    container(hooks=hooks).run("true", **leaking(canary))
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("process_namespace", ["own", "shared"])
def test_processes_of_exec_can_not_be_traced(container, process_namespace):
    """CVE-2016-9962: between joining and execve it holds what is the runtime's."""
    kinds = NAMESPACES if process_namespace == "own" else [kind for kind in NAMESPACES if kind != "pid"]
    c = container(namespaces=namespaces(*kinds), capabilities=full("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"))
    c.up("sh", "-c", "probe watch-strangers 60 > /tmp/out")
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), "the attack")
    for _ in range(30):
        c.exec("true")
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    seen, traced, followed = map(int, re.search(r"seen (\d+) traced (\d+) followed (\d+)", out.read_text()).groups())
    assert (traced, followed) == (0, 0)
    if process_namespace == "own":
        assert seen, "the attack saw no process to trace"


# --- links of the image


@pytest.mark.parametrize("path", ["/proc", "/sys"])
@pytest.mark.parametrize("target", ["/tmp/x", "tmp/x", "/nowhere", "canary"])
def test_a_link_in_the_place_of_procfs_or_sysfs(container, canary, path, target):
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642"""
    c = container(maskedPaths=["/proc/kcore"], readonlyPaths=["/proc/sys"])
    (c.bundle.rootfs / "tmp/x").mkdir()
    replace(c, path, str(canary) if target == "canary" else target)
    with unchanged(canary):
        assert path in c.refused("true")


def test_a_link_below_the_place_of_procfs(container, canary):
    c = container(mounts=[{"destination": "/a/proc", "type": "proc", "source": "proc"}])
    replace(c, "/a", str(canary))
    with unchanged(canary):
        c.attempt("true")


@pytest.mark.parametrize("form", range(5))
def test_a_link_in_the_place_of_dev(container, canary, form):
    """CVE-2026-41579, crun CVE-2026-47766: links were made, and ptmx removed, in a folder of the host's."""
    for terminal in (False, True):
        c = without_mounts(container(), "/dev", "/dev/pts")
        replace(c, "/dev", forms(canary)[form])
        if terminal:
            c.change(terminal=True)
        with unchanged(canary):
            c.attempt("true")
        c.assert_gone()


@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("readonly", [False, True])
def test_a_link_in_the_place_of_the_console(container, canary, form, readonly):
    """crun CVE-2026-88264: a file was made where it led to."""
    for mounts in (("/dev",), ("/dev", "/dev/pts")):
        c = without_mounts(container(terminal=True, root={"path": "rootfs", "readonly": readonly}), *mounts)
        (c.bundle.rootfs / "dev/pts").mkdir()
        replace(c, "/dev/console", f"{forms(canary)[form]}/new")
        master, slave = pty.openpty()
        with unchanged(canary):
            c.attempt("true", stdin=slave)
        os.close(master)
        os.close(slave)
        c.assert_gone()


@pytest.mark.parametrize("form", range(5))
def test_a_link_in_the_place_of_dev_null_does_not_become_the_mask(container, canary, form):
    """CVE-2025-31133: what is mounted over a masked file would be the file that the link leads to, writable."""
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    replace(c, "/dev/null", f"{forms(canary)[form]}/file")
    with unchanged(canary):
        result = c.attempt("sh", "-c", "echo overwritten > /etc/secret; cat /etc/secret")
    assert result.code == 1, repr(result)
    assert "/dev/null" in result.err
    c.assert_gone()


@pytest.mark.parametrize("target", ["/proc/sys/kernel/domainname", "/proc/self/attr/current", "/proc/sysrq-trigger"])
def test_a_link_to_a_file_of_procfs_does_not_become_the_mask(container, target):
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    replace(c, "/dev/null", target)
    assert "/dev/null" in c.refused("true")


def test_a_file_in_the_place_of_dev_null_does_not_become_the_mask(container):
    c = (
        without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts")
        .file("/etc/secret", "secret")
        .file("/dev/null", "x")
    )
    assert "/dev/null" in c.refused("true")


def test_another_device_in_the_place_of_dev_null_does_not_become_the_mask(container):
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    os.mknod(c.bundle.rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert "/dev/null" in c.refused("true")


def test_a_bound_dev_with_such_a_link(container, canary, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").symlink_to(canary / "file")
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    c.change(mounts=[{"destination": "/dev", "type": "bind", "source": str(tmp_path / "dev"), "options": ["rbind"]}])
    with unchanged(canary), unchanged(tmp_path / "dev"):
        assert "/dev/null" in c.refused("true")


@pytest.mark.parametrize("form", range(5))
def test_streams_that_are_null_are_not_reopened_through_a_link(container, canary, form):
    """crun CVE-2026-88265: the owner of what the link led to became the container's user."""
    c = without_mounts(container(user={"uid": 1000, "gid": 1000}), "/dev", "/dev/pts")
    replace(c, "/dev/null", f"{forms(canary)[form]}/file")
    with unchanged(canary):
        c.attempt("sh", "-c", "echo overwritten", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    c.assert_gone()


@pytest.mark.parametrize("name", ["fd", "stdin", "stdout", "stderr", "ptmx", "core", "zero", "tty", "shm/x", "pts/0"])
def test_links_in_the_place_of_devices(container, canary, name):
    for form in forms(canary)[:3]:
        c = without_mounts(container(), "/dev", "/dev/pts")
        replace(c, f"/dev/{name}", f"{form}/new")
        with unchanged(canary):
            c.attempt("true")
        c.assert_gone()


def test_a_link_in_the_place_of_a_device_of_the_configuration(container, canary):
    for place in ("/dev/mine", "/dev/sub/mine"):
        for form in forms(canary):
            c = container(devices=[{"path": place, "type": "c", "major": 1, "minor": 3}])
            without_mounts(c, "/dev", "/dev/pts")
            replace(c, place if place == "/dev/mine" else "/dev/sub", f"{form}/new" if place == "/dev/mine" else form)
            with unchanged(canary):
                c.attempt("true")
            c.assert_gone()


def test_links_in_the_way_of_mount_points(container, canary, tmp_path):
    """crun CVE-2019-18837, CVE-2024-45310: nothing is made outside."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source-file").touch()
    for form in forms(canary):
        for source in ("source", "source-file"):
            for place in ("/link", "/link/deep/er"):
                c = container(
                    mounts=[
                        {"destination": place, "type": "bind", "source": str(tmp_path / source), "options": ["bind"]}
                    ]
                )
                replace(c, "/link", f"{form}/new")
                with unchanged(canary):
                    c.attempt("true")
                c.assert_gone()


def test_links_in_the_way_of_the_working_directory(container, canary):
    for form in forms(canary):
        c = replace(container(cwd="/link/new"), "/link", form)
        with unchanged(canary):
            c.attempt("true")


def test_links_in_the_way_of_masked_and_read_only_paths(container, canary):
    for form in forms(canary):
        c = replace(
            container(maskedPaths=["/link", "/link/file"], readonlyPaths=["/link", "/link/file"]), "/link", form
        )
        before = host_mounts()
        with unchanged(canary):
            c.attempt("true")
        assert host_mounts() == before


def test_passwd_that_is_a_link_to_the_hosts(container, canary):
    (canary / "file").write_text("root:x:0:0::/escaped:/bin/sh\n")
    for form in forms(canary):
        c = replace(container(), "/etc/passwd", f"{form}/file")
        assert "escaped" not in c.sh("echo $HOME")


# --- procfs


@pytest.mark.parametrize(
    "place",
    [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/sys/net",
        "/proc/thread-self",
        "/proc/../proc/self",
        "//proc//self/",
    ],
)
def test_nothing_is_mounted_over_what_labels_and_parameters_are_written_to(container, tmp_path, place):
    """CVE-2019-16884, CVE-2025-52881"""
    (tmp_path / "fake/attr").mkdir(parents=True)
    for mount in (
        {"type": "tmpfs", "source": "tmpfs"},
        {"type": "bind", "source": str(tmp_path / "fake"), "options": ["rbind"]},
    ):
        c = container(mounts=[{"destination": place, **mount}])
        assert "proc" in c.refused("true")


@pytest.mark.parametrize("name", ["cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps", "diskstats"])
def test_single_files_of_procfs_may_be_replaced(container, tmp_path, name):
    """What lxcfs does."""
    (tmp_path / "fake").write_text("fake")
    assert (
        container(
            mounts=[
                {"destination": f"/proc/{name}", "type": "bind", "source": str(tmp_path / "fake"), "options": ["bind"]}
            ]
        ).run("cat", f"/proc/{name}")
        == "fake"
    )


def test_parameters_are_written_to_the_kernel_and_not_to_a_file_over_it(container, tmp_path):
    """CVE-2025-52881: a procfs that a volume has changed."""
    (tmp_path / "fake").write_text("0")
    c = container(sysctl={"net.ipv4.ip_forward": "1"})
    c.change(
        mounts=[{"destination": "/proc/uptime", "type": "bind", "source": str(tmp_path / "fake"), "options": ["bind"]}]
    )
    assert c.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1"
    assert (tmp_path / "fake").read_text() == "0"


# --- terminals


@pytest.mark.parametrize("attack", ["a folder in the place of devpts", "ptmx is a link", "ptmx is a file"])
def test_a_terminal_of_what_is_no_devpts(container, canary, tmp_path, attack):
    """CVE-2025-52565"""
    fake = tmp_path / "pts"
    fake.mkdir()
    (fake / "0").symlink_to(canary / "file")
    if attack == "ptmx is a link":
        (fake / "ptmx").symlink_to("/dev/ptmx")
    if attack == "ptmx is a file":
        (fake / "ptmx").touch()
    c = without_mounts(container(terminal=True), "/dev/pts")
    c.change(mounts=[{"destination": "/dev/pts", "type": "bind", "source": str(fake), "options": ["rbind"]}])
    with unchanged(canary):
        assert "ptmx" in c.refused("true")


# --- sizes and names


def test_members_that_are_longer_than_a_message_of_ours(container):
    """CVE-2021-43784: a length that overflowed let a configuration forge other parts of the message."""
    long = "x" * 70_000
    assert container(namespaces=namespaces("mount", network=f"/{long}")).refused("true")
    assert container(mounts=[{"destination": "/m", "type": "bind", "source": f"/{long}", "options": ["bind"]}]).refused(
        "true"
    )
    assert container(mounts=[{"destination": f"/{long}", "type": "tmpfs", "source": "t"}]).refused("true")
    assert container(cwd=f"/{long}").refused("true")
    assert container().refused(f"/{long}")
    assert container(hostname=long).refused("true")


def test_many_maps(container):
    maps = [{"containerID": n, "hostID": 100_000 + n, "size": 1} for n in range(300)]
    c = container(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=maps, gidMappings=maps).reachable()
    assert len(c.run("cat", "/proc/self/uid_map").splitlines()) == 300


def test_an_environment_of_many_variables(container):
    assert (
        len(container(env=["PATH=/bin", *(f"V{n}={'x' * 100}" for n in range(5000))]).run("env").splitlines()) == 5002
    )


# --- what others may see


def test_the_state_is_private_whatever_the_callers_umask(container):
    """containerd CVE-2021-41103, CVE-2024-25621"""
    for mask in (0o000, 0o077, 0o777):
        c = container()
        c.create("true", preexec_fn=lambda mask=mask: os.umask(mask))
        root = c.runtime.root
        assert stat.S_IMODE((root / c.id).stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(root.stat().st_mode) & 0o077 in (0, 0o011)
        for path in (root / c.id).iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        c.delete("--force")


def test_a_process_on_its_way_into_the_container_shows_nothing_of_the_callers(container):
    """Its command line and environment are the host's to see, not the container's user's."""
    c = container()
    c.create("sleep", "1000", env={**os.environ, "SECRET_OF_THE_CALLER": "x"})
    process = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", f"/proc/{c.pid}/environ"], capture_output=True, timeout=10
    )
    assert b"SECRET" not in process.stdout
    c.start()
    assert b"SECRET" not in Path(f"/proc/{c.pid}/environ").read_bytes()


# --- races on a shared volume


EXCHANGE = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
one, other = (word.encode() for word in sys.argv[1:3])
print("ready", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""


@pytest.mark.timeout(100)
@pytest.mark.parametrize("kind", ["a folder and a link", "procfs", "a file"])
def test_a_volume_whose_folders_are_swapped_while_it_is_mounted(container, canary, tmp_path, kind):
    """CVE-2021-30465, CVE-2024-45310: resolved once, and then an fd."""
    volume, source = tmp_path / "volume", tmp_path / "source"
    (volume / "a").mkdir(parents=True)
    source.mkdir()
    (source / "file").write_text("the volume's\n")
    (volume / "b").symlink_to("../" * 40 + str(canary).lstrip("/"))
    inner = {
        "a folder and a link": {
            "destination": "/v/a/inner",
            "type": "bind",
            "source": str(source),
            "options": ["bind"],
        },
        "procfs": {"destination": "/v/a", "type": "proc", "source": "proc"},
        "a file": {"destination": "/v/a/new", "type": "bind", "source": str(source / "file"), "options": ["bind"]},
    }[kind]
    racer = Running(
        [sys.executable, "-I", "-c", EXCHANGE, str(volume / "a"), str(volume / "b")],
        str(tmp_path / "racer"),
        stdin=subprocess.DEVNULL,
        stdout=os.open(tmp_path / "racer.out", os.O_WRONLY | os.O_CREAT),
    )
    mounts = [{"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]}, inner]
    try:
        wait_until(lambda: "ready" in racer.out, "the race")
        before = host_mounts()
        with unchanged(canary):
            for _ in range(60):
                c = container(mounts=mounts)
                result = c.attempt("sh", "-c", "cat /v/a/file /v/b/file; ls -d /v/*/kcore")
                assert "untouched" not in result.out, repr(result)
                if result.code and "level=" not in result.err and "pyrunc:" in result.err:
                    c.assert_gone()
        assert host_mounts() == before
    finally:
        racer.kill()
        racer.end()

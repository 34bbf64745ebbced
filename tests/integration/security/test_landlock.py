"""Landlock by annotation: what is not named is out of reach, for the program and for every other process."""

import os

import pytest

from integration.support.bundle import full
from pyrunc.linux import landlock

PATHS = "rx /bin, r /etc, rw /tmp, rx /proc, rwi /dev"

pytestmark = pytest.mark.skipif(landlock.abi() < 5, reason="Landlock of Linux 6.10")


@pytest.fixture
def confined(container):
    def make(paths=PATHS, **others):
        given = {"paths": paths, **others}
        return container().change(
            annotations={f"org.pyrunc.landlock.{name}": text for name, text in given.items() if text is not None}
        )

    return make


def test_what_is_named_can_be_reached_and_nothing_else(confined):
    c = confined().file("/etc/file", "x").file("/root/secret", "y")
    assert c.run("cat", "/etc/file") == "x"
    assert "Permission denied" in c.attempt("cat", "/root/secret").err
    assert c.sh("echo a >/tmp/a && cat /tmp/a && head -n1 /etc/passwd | cut -d: -f1") == "a\nroot"
    assert "Permission denied" in c.attempt("sh", "-c", "echo a >/etc/file").err
    assert "Permission denied" in c.attempt("mkdir", "/root/folder").err
    assert c.sh("mkdir /tmp/folder && mv /tmp/folder /tmp/other && rmdir /tmp/other && echo yes") == "yes"
    c.assert_gone()


def test_root_with_all_rights_is_held_too(confined):
    c = confined().file("/root/secret", "y").change(capabilities=full("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"))
    assert "Permission denied" in c.attempt("cat", "/root/secret").err


def test_without_no_new_privs_and_as_a_user(confined):
    c = confined().change(noNewPrivileges=False, user={"uid": 1000, "gid": 1000}, capabilities={})
    assert c.run("id", "-u") == "1000"
    assert "Permission denied" in c.attempt("ls", "/sys").err


def test_a_program_that_may_not_be_executed(confined):
    c = confined("r /bin")
    result = c.attempt("true")
    assert result.code != 0
    assert "permission denied" in result.err
    c.assert_gone()


def test_exec_is_confined(confined):
    c = confined().file("/root/secret", "y").up()
    assert "Permission denied" in c.attempt_exec("cat", "/root/secret").err
    assert c.exec("id", "-u") == "0"
    c.change(capabilities=full("CAP_SYS_PTRACE"))
    c.delete("--force")
    c.up()  # exec comes in by another way
    assert "Permission denied" in c.attempt_exec("cat", "/root/secret").err
    c.delete("--force")


def test_ports(confined):
    """Nobody listens: refused is what an allowed port says."""
    c = confined(None, tcp="connect 80, bind 8080")
    assert _connect(c, 80) == "refused"
    assert _connect(c, 81) == "denied"


def _connect(container, port):
    said = container.attempt("busybox", "nc", "127.0.0.1", str(port)).err.lower()
    return "refused" if "refused" in said else "denied" if "permission denied" in said else said


def test_startcontainer_hooks_are_the_containers(confined):
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat /root/secret"]}
    c = confined().file("/root/secret", "y").change(hooks={"startContainer": [hook]})
    assert "ermission denied" in c.attempt("true").err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("paths", "q /etc", "is not some of rwxi and an absolute path"),
        ("paths", "r etc", "is not some of rwxi"),
        ("tcp", "listen 80", "is not bind or connect and a port"),
        ("tcp", "bind 70000", "is not bind or connect"),
        ("scope", "everything", "is none of"),
        ("path", "r /", "is none of paths, tcp and scope"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(container, name, text, said):
    c = container(annotations={f"org.pyrunc.landlock.{name}": text})
    assert said in c.refused("true")


def test_a_path_that_is_not_there_is_an_error(confined):
    assert "/nowhere: openat2: no such file" in confined("rx /bin, r /nowhere").refused("true")


def test_a_link_of_the_images_leads_nowhere_outside(confined, canary):
    c = confined("rx /bin, rw /link")
    (c.bundle.rootfs / "link").symlink_to(canary)
    assert "no such file" in c.refused("true")


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock of Linux 6.12")
def test_signals_stay_inside(confined):
    c = confined(None, scope="signals").change(namespaces=[{"type": "mount"}], mounts=[])
    c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] == "proc"]
    result = c.attempt("kill", "-0", str(os.getpid()))
    assert result.code != 0, result

"""Landlock by annotation: what is not named is out of reach, for the program and for every other process."""

import os
import re
import shutil
from pathlib import Path

import pytest

from integration.support.bundle import OWN_USERS, full
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
    """What confines the program is in force when it is executed."""
    c = confined("r /bin")
    result = c.attempt("true")
    assert result.code != 0
    assert "permission denied" in result.err
    c.assert_gone()


def test_in_a_user_namespace(confined):
    c = confined().file("/root/secret", "y").change(**OWN_USERS, noNewPrivileges=False).reachable()
    assert "Permission denied" in c.attempt("cat", "/root/secret").err
    assert c.run("head", "-c4", "/etc/passwd") == "root"


FORBIDS_IT = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset"],
            "action": "SCMP_ACT_KILL_PROCESS",
        }
    ],
}


@pytest.mark.parametrize("privileges", [True, False])
def test_a_filter_that_forbids_landlock(confined, privileges):
    c = confined().file("/root/secret", "y").change(noNewPrivileges=privileges, seccomp=FORBIDS_IT).up()
    assert "Seccomp:\t2" in c.exec("cat", "/proc/self/status")
    assert "Permission denied" in c.attempt_exec("cat", "/root/secret").err


def rights(status):
    return {name: int(value, 16) for name, value in re.findall(r"^(Cap\w+):\t(\w+)$", status, re.MULTILINE)}


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_right_to_confine_itself_is_not_the_containers(confined, tmp_path, uid):
    """Without no_new_privs it takes CAP_SYS_ADMIN."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "cat /proc/self/status >/tmp/hook"]}
    c = confined().change(noNewPrivileges=False, user={"uid": uid, "gid": 0}, hooks={"startContainer": [hook]})
    c.bundle.file("/tmp/hook", mode=0o666)
    c.change(capabilities={kind: ["CAP_KILL"] for kind in ("bounding", "permitted", "effective")})
    c.create("cat", "/proc/self/status")
    waiting = rights(Path(f"/proc/{c.pid}/status").read_text())
    assert {waiting[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 5}
    c.start()
    c.wait_for("stopped")
    assert {*rights((c.bundle.rootfs / "tmp/hook").read_text()).values()} <= {1 << 5, 0}


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which sees the calls, is not installed")
@pytest.mark.parametrize("profile", [None, {"defaultAction": "SCMP_ACT_ALLOW"}])
def test_it_is_the_last_before_a_filter_and_the_program(confined, tmp_path, profile):
    """No right changes after it, but the one that it takes, and nothing is looked up."""
    c = confined().change(noNewPrivileges=False, **({"seccomp": profile} if profile else {}))
    c._prepare(("true",))
    calls = "%file,setresuid,capset,prctl,seccomp,landlock_create_ruleset,landlock_restrict_self,execve,execveat"
    wrapper = ("strace", "-ff", "-qq", "-e", f"trace={calls}", "-o", str(tmp_path / "trace"))
    c.runtime("run", "--bundle", c.bundle.path, c.id, wrapper=wrapper)
    lines = [path.read_text().splitlines() for path in tmp_path.glob("trace.*")]
    (ours,) = (found for found in lines if any("landlock_restrict_self" in line for line in found))
    names = [line.partition("(")[0] for line in ours]
    at = names.index("landlock_restrict_self")
    assert {"landlock_create_ruleset", "setresuid", "capset"} <= {*names[:at]}
    after = [name for name in names[at + 1 : names.index("execve", at)] if name != "prctl"]
    assert after == ["seccomp" if profile else "capset"]


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

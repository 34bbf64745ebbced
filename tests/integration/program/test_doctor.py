"""pyrunc doctor: what it says is so on this host."""

import json
import os
import posix
import shutil
import subprocess
from pathlib import Path


def test_what_it_finds_is_what_is_there(runtime):
    document = json.loads(runtime("doctor", "--json").out)
    found = {check["name"]: check for check in document["checks"]}
    assert found["kernel"]["found"] == f"Linux {posix.uname().release}"
    assert found["system calls"]["state"] == "ok"
    assert {check["state"] for check in document["checks"]} <= {"ok", "less"}  # the tests make containers here
    assert "libseccomp" in found["seccomp"]["found"]
    assert found["CRIU"]["state"] == ("ok" if shutil.which("criu") else "less")
    installed = {engine["name"] for engine in document["engines"]}
    assert ("Podman" in installed) == bool(shutil.which("podman"))
    assert ("Docker" in installed) == bool(shutil.which("dockerd"))
    for engine in document["engines"]:
        assert os.path.dirname(runtime.binary) in engine["lines"] + engine["trial"]


def test_as_text(runtime):
    lines = runtime("doctor").out.splitlines()
    assert lines[0] == "This host, for this user:"
    assert any(line.startswith("  ok    kernel: Linux ") for line in lines)


def test_of_another_user(runtime, tmp_path):
    """Who is nobody: told what containers he can have, and how."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", runtime.binary, "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert "pyrunc spec --rootless" in found["rights"]["follows"]
    assert found["subordinate IDs"]["state"] == "less"


def doctor(runtime, *wrapper, **how):
    command = [*wrapper, runtime.binary, "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, **how)
    assert result.stderr == ""
    return result.returncode, {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def in_mounts(script):
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}; exec "$@"', "sh"]


def test_where_containers_can_not_be_made(runtime, tmp_path):
    """What `run` would fail with there is a `no`: hidden and read-only cgroups, a chroot."""
    code, found = doctor(runtime, *in_mounts("mount -t tmpfs none /sys"))
    assert code == 1
    assert "can't be seen" in found["cgroups"]["found"]
    assert "/sys is not mounted" in found["security modules"]["found"]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    place = next(words[1] for words in mounts if words[2] in ("cgroup", "cgroup2"))
    code, found = doctor(runtime, *in_mounts(f"mount -o remount,bind,ro {place}"))
    assert (code, found["cgroups"]["found"]) == (1, f"{place} is read-only")
    # The same files, below a folder that is no mount point.
    inner = f"{tmp_path}/inner"
    binds = f"for f in /*; do test ! -d $f || {{ mkdir -p {inner}$f; mount --rbind $f {inner}$f; }}; done"
    code, found = doctor(runtime, *in_mounts(f"mount -t tmpfs none {tmp_path}; {binds}"), "chroot", inner)
    assert code == 1
    assert "no mount point" in found["root folder"]["found"]
    assert "refuses" in found["user namespaces"]["found"]


def test_users_of_namespaces(runtime):
    _, found = doctor(runtime, "unshare", "--user", "--map-root-user")
    assert found["rights"]["found"] == "root of a user namespace, with all capabilities"
    assert found["subordinate IDs"]["found"] == "this user namespace has 1"
    _, found = doctor(runtime, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert found["rights"]["found"] == "root, without any capability"
    assert "pyrunc spec --rootless" in found["rights"]["follows"]
    _, found = doctor(runtime, "unshare", "--pid", "--fork")
    assert "another process namespace" in found["/proc"]["found"]


def test_nothing_is_taken_from_an_environment_that_is_none(runtime):
    """And no advice is for somebody else's home."""
    words = [shutil.which("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", runtime.binary, "doctor"]
    for environment in ({}, {"HOME": "x", "XDG_CONFIG_HOME": "relative", "PATH": ":.:/nonexistent"}):
        result = subprocess.run(words, capture_output=True, text=True, cwd="/", timeout=60, env=environment)
        assert result.returncode in (0, 1)
        assert result.stderr == ""
        assert "/root/" not in result.stdout
        assert "relative" not in result.stdout
        words[-1] = "info"
        assert "none" in subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment).stdout
        words[-1] = "doctor"


def test_a_filter_around_it_is_seen(container):
    """In a container without open_tree, say: what stands in the way is named, and the exit status is 1."""
    c = container(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["open_tree"], "action": "SCMP_ACT_ERRNO"}],
        },
        root={"path": "/", "readonly": True},
        mounts=[],
        args=[],
    )
    c.config["mounts"] = []
    c.config["process"]["env"] = ["PATH=/usr/bin:/bin"]
    result = c.attempt(c.runtime.binary, "doctor")
    assert result.code == 1, repr(result)
    assert "no    system calls: refused: open_tree" in result.out

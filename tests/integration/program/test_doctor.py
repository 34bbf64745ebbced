"""pyrunc doctor: what it says is so on this host."""

import json
import os
import posix
import shutil
import subprocess


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

"""Bundles, names and commands that are none: one line that names the culprit, status 1, and nothing left behind."""

import json
import os
from pathlib import Path

import pytest

from integration.support.bundle import base_config

DEEP = 100_000


def config(**changes):
    document = base_config()
    for name, value in changes.items():
        document[name] = value
    return json.dumps(document).encode()


def without(*path):
    document = base_config()
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(document).encode()


def process(**members):
    return config(process={**base_config()["process"], **members})


def linux(**members):
    return config(linux={**base_config()["linux"], **members})


TEXTS = {
    "empty": (b"", "config.json"),
    "blank": (b" \n\t ", "config.json"),
    "truncated": (config()[:200], "config.json:1:"),
    "truncated in a string": (b'{"ociVersion": "1.0', "config.json:1:"),
    "no JSON": (b"hello", "config.json:1:1"),
    "not UTF-8": (config(hostname="x").replace(b'"x"', b'"\xff\xfe"'), "0xff is not UTF-8"),
    "UTF-16": (config().decode().encode("utf-16"), "config.json"),
    "NULs": (b"\0" * 1000, "config.json"),
    "a NUL in a string": (config(hostname="a\0b"), "/hostname"),
    "a NUL in an argument": (process(args=["a\0b"]), "/process/args/0"),
    "a NUL in a path": (config(root={"path": "root\0fs"}), "/root/path"),
    "a NUL in a variable": (process(env=["A=b\0c"]), "/process/env/0"),
    "a lone surrogate": (config().replace(b'"true"', b'"\\ud800"'), "/process/args/0"),
    "10 MB": (config(annotations={"x": "y" * 10_000_000}), "config.json"),
    "deep nesting": (b"[" * DEEP + b"]" * DEEP, "config.json"),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "config.json"),
    "deep annotations": (
        config().replace(b'"ociVersion"', b'"x": ' + b"[" * DEEP + b"]" * DEEP + b', "ociVersion"'),
        "config.json",
    ),
    "something after the end": (config() + b"}", "config.json:1:"),
    "a list": (b"[]", "config.json"),
    "null": (b"null", "config.json"),
    "a number": (b"1e999", "config.json"),
    "an empty object": (b"{}", "ociVersion"),
    "no version": (without("ociVersion"), "ociVersion"),
    "a version that is none": (config(ociVersion="latest"), "/ociVersion"),
    "a version of the future": (config(ociVersion="99.0.0"), "/ociVersion"),
    "no root": (without("root"), "root"),
    "no path of the root": (config(root={}), "path"),
    "an empty path of the root": (config(root={"path": ""}), "/root/path"),
    "a missing root": (config(root={"path": "nowhere"}), "nowhere"),
    "a root that is a file": (config(root={"path": "config.json"}), "config.json"),
    "a root that is a dangling link": (config(root={"path": "dangling"}), "dangling"),
    "a root that links to itself": (config(root={"path": "loop"}), "loop"),
    "no working directory": (without("process", "cwd"), "cwd"),
    "a relative working directory": (process(cwd="tmp"), "/process/cwd"),
    "no arguments": (process(args=[]), "/process/args"),
    "arguments as a string": (process(args="true"), "/process/args"),
    "an argument that is a number": (process(args=["true", 1]), "/process/args/1"),
    "an empty program": (process(args=[""]), '""'),
    "a user that is a name": (process(user={"uid": "root", "gid": 0}), "/process/user/uid"),
    "a negative user": (process(user={"uid": -1, "gid": 0}), "/process/user/uid"),
    "a negative group": (process(user={"uid": 0, "gid": 0, "additionalGids": [-5]}), "/process/user/additionalGids/0"),
    "an unknown limit": (process(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "RLIMIT_X"),
    "an OOM score out of range": (process(oomScoreAdj=1001), "oomScoreAdj"),
    "terminal as a string": (process(terminal="yes"), "/process/terminal"),
    "a mount without a destination": (config(mounts=[{"type": "tmpfs"}]), "destination"),
    "a mount with an empty destination": (
        config(mounts=[{"destination": "", "type": "tmpfs", "source": "x"}]),
        "/mounts/0/destination",
    ),
    "mounts as an object": (config(mounts={"a": "b"}), "/mounts"),
    "an unknown namespace": (linux(namespaces=[{"type": "mount"}, {"type": "weather"}]), "weather"),
    "a namespace of nowhere": (
        linux(namespaces=[{"type": "mount"}, {"type": "network", "path": "/no/such/ns"}]),
        "/no/such/ns",
    ),
    "a relative path of a namespace": (linux(namespaces=[{"type": "network", "path": "ns"}]), "path"),
    "a device without a type": (linux(devices=[{"path": "/dev/x"}]), "type"),
    "a device of an unknown type": (linux(devices=[{"path": "/dev/x", "type": "z"}]), "/linux/devices/0/type"),
    "maps without a user namespace": (linux(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}]), "uidMappings"),
    "an unknown propagation": (linux(rootfsPropagation="sideways"), "/linux/rootfsPropagation"),
    "a negative limit of swap": (linux(resources={"memory": {"limit": 1 << 20, "swap": 1}}), "memory"),
    "a limit as text": (linux(resources={"memory": {"limit": "512m"}}), "/linux/resources/memory/limit"),
    "a huge number": (linux(resources={"memory": {"limit": 10**30}}), "/linux/resources/memory/limit"),
    "a hook without a path": (config(hooks={"poststop": [{"args": ["x"]}]}), "path"),
    "a hook's timeout of zero": (config(hooks={"poststop": [{"path": "/bin/true", "timeout": 0}]}), "timeout"),
    "hooks as a list": (config(hooks=[]), "/hooks"),
    "an unknown parameter": (linux(sysctl={"net.no_such": "1"}), "net.no_such"),
    "a hostname of 65 letters": (config(hostname="h" * 65), "hostname"),
    "a masked path that is relative": (linux(maskedPaths=["proc"]), "/linux/maskedPaths/0"),
    "an unknown personality": (linux(personality={"domain": "SOLARIS"}), "SOLARIS"),
    "solaris": (config(linux=None, solaris={"milestone": "x"}).replace(b'"linux": null, ', b""), ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_configuration_that_is_none(container, name):
    text, culprit = TEXTS[name]
    c = container()
    (c.bundle.path / "dangling").symlink_to("nowhere")
    (c.bundle.path / "loop").symlink_to("loop")
    (c.bundle.path / "config.json").write_bytes(text)
    result = c.runtime("create", "--bundle", c.bundle.path, c.id, check=False)
    if name in ("solaris", "a masked path that is relative", "a version of the future"):  # let through by some
        assert result.code in (0, 1)
        return
    assert result.code == 1, repr(result)
    assert len(result.err.splitlines()) == 1, repr(result)
    assert len(result.err) < 1000
    assert result.err.startswith("pyrunc")
    assert "internal error" not in result.err
    assert "Traceback" not in result.err
    assert culprit in result.err, repr(result)
    c.assert_gone()


# --- files


def create(c):
    result = c.runtime("create", "--bundle", c.bundle.path, c.id, check=False, timeout=60)
    assert result.code == 1, repr(result)
    assert len(result.err.splitlines()) == 1, repr(result)
    c.assert_gone()
    return result.err


def test_a_bundle_without_a_configuration(container):
    assert "config.json" in create(container())


def test_a_bundle_that_is_not_there(container):
    c = container()
    c.bundle.path = c.bundle.path / "nowhere"
    assert "nowhere" in create(c)


def test_a_bundle_that_is_a_file(container):
    c = container()
    (c.bundle.path / "file").touch()
    c.bundle.path = c.bundle.path / "file"
    assert "file" in create(c)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link", "device", "loop"])
def test_a_configuration_that_is_no_file(container, kind):
    c = container()
    place = c.bundle.path / "config.json"
    if kind == "folder":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.symlink_to("config.json" if kind == "loop" else "nowhere")
    assert "config.json" in create(c)


def test_a_configuration_that_can_not_be_read(container):
    """Not even root reads what the kernel refuses: a file of another process's memory."""
    c = container()
    (c.bundle.path / "config.json").symlink_to("/proc/self/mem")
    assert "config.json" in create(c)


def test_a_link_to_a_configuration_is_followed(container):
    c = container()
    c._prepare(("true",))
    (c.bundle.path / "config.json").rename(c.bundle.path / "other.json")
    (c.bundle.path / "config.json").symlink_to("other.json")
    c.runtime("run", "--bundle", c.bundle.path, c.id)


def test_a_bundle_with_a_name_of_bytes(container):
    """Not UTF-8: as the kernel allows it."""
    c = container()
    c._prepare(("true",))
    strange = os.fsencode(c.bundle.path.parent) + b"/b\xff\n\xfe"
    os.rename(c.bundle.path, strange)
    result = c.runtime("run", "--bundle", os.fsdecode(strange), c.id, check=False)
    assert result.code == 0, repr(result)
    os.rename(strange, c.bundle.path)


def test_an_unknown_member_is_ignored(container):
    c = container()
    c.config["x-unknown"] = {"a": [1, None]}
    c.config["process"]["x-unknown"] = 1
    c.run("true")


def test_a_byte_order_mark_is_explained(container):
    c = container()
    (c.bundle.path / "config.json").write_bytes(b"\xef\xbb\xbf" + config())
    result = c.runtime("run", "--bundle", c.bundle.path, c.id, check=False)
    assert result.code == 0 or "config.json" in result.err


# --- names


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "a b", "a\nb", "ä", "a:b", "a*", "$(id)", "x" * 1025, "%s", "a\\b", "~"]
)
def test_an_id_that_is_none(container, tmp_path, name):
    c = container()
    c._prepare(("true",))
    for verb in (
        ("create", "--bundle", c.bundle.path),
        ("run", "--bundle", c.bundle.path),
        ("state",),
        ("delete",),
        ("delete", "--force"),
        ("start",),
        ("kill",),
    ):
        result = c.runtime(*verb, "--", name, check=False)
        assert result.code == 1, repr(result)
        assert "ID" in result.err
        assert len(result.err.splitlines()) == 1, repr(result)
    assert not c.runtime.root.exists() or not os.listdir(c.runtime.root)


@pytest.mark.parametrize("name", ["a", "A-b_c.d+e", "-starts-with-a-dash", "0", "...", "x" * 200, ".hidden"])
def test_an_id_that_is_one(container, name):
    c = container()
    c._prepare(("true",))
    c.runtime("create", "--bundle", c.bundle.path, "--", name)
    assert json.loads(c.runtime("state", "--", name).out)["id"] == name
    c.runtime("delete", "--force", "--", name)


@pytest.mark.skipif("resctrl" in Path("/proc/filesystems").read_text(), reason="this host has it")
@pytest.mark.parametrize("wanted", [{}, {"closID": "gold", "schemata": ["L3:0=f"]}])
def test_rdt_on_a_host_without(container, wanted):
    error = container(intelRdt=wanted).refused("true")
    assert "/linux/intelRdt: no resctrl file system is mounted on this host" in error


def test_a_root_that_can_not_be_made(container, tmp_path):
    (tmp_path / "file").touch()
    c = container()
    c._prepare(("true",))
    c.runtime.root = tmp_path / "file/root"
    result = c.runtime("create", "--bundle", c.bundle.path, c.id, check=False)
    assert result.code == 1
    assert "file" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("value", ["x", "-1", "99999", "1.5", "99999999999999999999"])
def test_a_number_of_descriptors_that_is_none(container, value):
    error = container().refused("true", flags=(f"--preserve-fds={value}",))
    assert error


# --- cgroups


@pytest.mark.parametrize("path", ["/", "/..", "/."])
def test_the_root_cgroup_is_no_containers(container, path):
    assert "root cgroup" in container(cgroupsPath=path).refused("true")


@pytest.mark.parametrize(
    "resources",
    [
        {"hugepageLimits": [{"pageSize": "../cgroup.procs", "limit": 1}]},
        {"hugepageLimits": [{"pageSize": "2MB/../x", "limit": 1}]},
        {"unified": {"../memory.max": "1"}},
        {"unified": {"cgroup.procs/x": "1"}},
        {"unified": {"a/b": "1"}},
        {"rdma": {"../x": {"hcaHandles": 1}}},
        {"network": {"priorities": [{"name": "../x", "priority": 1}], "classID": 1}},
    ],
)
def test_names_that_would_be_paths_are_refused(container, resources):
    """runc#4103"""
    container(resources=resources).refused("true")


MANY_DIGITS = "1" * 5000  # int() has a limit of its own, and a traceback


@pytest.mark.parametrize(
    "words",
    [
        ("kill", "x", MANY_DIGITS),
        ("kill", "x", f"RTMIN+{MANY_DIGITS}"),
        ("create", "--preserve-fds", MANY_DIGITS, "x"),
        ("checkpoint", "--page-server", f"host:{MANY_DIGITS}", "x"),
    ],
)
def test_a_number_of_thousands_of_digits_is_no_number(runtime, words):
    result = runtime(*words, check=False)
    assert result.code == 1
    assert "internal error" not in result.err


def test_limits_of_thousands_of_digits(container):
    c = container().up()
    for flag in ("--memory", "--pids-limit", "--cpu-share", "--cpu-quota"):
        for value in (MANY_DIGITS, f"{MANY_DIGITS}.5g", f"1.{MANY_DIGITS}g"):
            assert "internal error" not in c.runtime("update", flag, value, c.id, check=False).err


def test_a_folder_in_place_of_a_file_is_named(container):
    c = container().up()
    for words in (("exec", "--process", "/etc", c.id), ("update", "-r", "/etc", c.id), ("mounts", "add", c.id, "/etc")):
        assert "/etc: is a directory" in c.runtime(*words, check=False).err


@pytest.mark.parametrize("text", [b"", b"{", b'"x"', b"\xff", b'{"process": {"capabilities": "x"}}'])
def test_what_was_not_learned_is_not_added(container, text):
    c = container()
    c.bundle.write()
    earlier = c.bundle.path / "earlier.json"
    earlier.write_bytes(text)
    result = c.runtime("learn", "--bundle", c.bundle.path, "--add", earlier, c.id, check=False)
    assert result.err == f"pyrunc: reading {earlier}: is nothing that pyrunc learn has written\n"


def test_learning_does_not_begin_where_nothing_can_be_written(container):
    c = container(args=["touch", "/ran"])
    c.bundle.write()
    result = c.runtime("learn", "--bundle", c.bundle.path, "--output", "/nowhere/x", c.id, check=False)
    assert result.err == "pyrunc: /nowhere/x: no such file or directory\n"
    assert not (c.bundle.rootfs / "ran").exists()
    c.assert_gone()


@pytest.mark.parametrize("interval", ["99999999999999h", MANY_DIGITS + "h", "1e3s"])
def test_an_interval_that_nobody_waits_for(container, interval):
    c = container().up()
    result = c.runtime("events", "--interval", interval, c.id, check=False)
    assert (result.code, "internal error" in result.err, "--interval" in result.err) == (1, False, True)


def test_a_member_that_is_given_twice_is_told(runtime, tmp_path):
    """Who reads the file may see another one than who obeys it."""
    text = config().decode().replace('"cwd"', '"noNewPrivileges": true, "noNewPrivileges": false, "cwd"', 1)
    (tmp_path / "config.json").write_text(text)
    assert "/process/noNewPrivileges: it is given twice" in runtime("validate", "-b", tmp_path, check=False).out

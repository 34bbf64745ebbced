"""The options that containerd's configuration gives a runtime: each has its effect, or is refused in words."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from engines.shim import Client, Failed, wait_until
from pyrunc.protobuf import STRING, encode
from pyrunc.shim import messages, ttrpc


def given(**options):
    return {"type_url": "containerd.runc.v1.Options", "value": encode(messages.RUNC_OPTIONS, options)}


def generic(text=b"", path=""):
    """As containerd's CRI sends the options of a runtime that it does not know; 1.6 only the path of a file."""
    value = encode(messages.RUNTIME_OPTIONS, {"config_body": text, "config_path": str(path)})
    return {"type_url": "runtimeoptions.v1.Options", "value": value}


def output(c, **values):
    """What its program writes."""
    path = c.fifo("stdout")
    reader = c.open(path)
    c.create(stdout=path, **values)
    waiting = c.client.send("Wait", id=c.id)
    c.call("Start")
    c.client.receive(waiting)
    c.call("Delete")
    return os.read(reader, 1 << 16).decode()


def test_io_uid_and_io_gid_own_the_streams(container):
    """The program's own user becomes their owner at last, as with runc. The group stays."""
    program = ("/bin/stat", "-L", "-c", "%u:%g", "/proc/self/fd/1")
    assert output(container(*program).start_shim(), options=given(io_uid=1000, io_gid=1001)) == "0:1001\n"
    assert output(container(*program).start_shim()) == "0:0\n"


def test_no_new_keyring(container):
    program = ("/bin/sh", "-c", "grep _ses. /proc/keys")
    c = container(*program).start_shim()
    assert f"_ses.{c.id}:" in output(c)
    c = container(*program).start_shim()
    assert f"_ses.{c.id}:" not in output(c, options=given(no_new_keyring=True))


@pytest.mark.parametrize("asked", [False, True])
def test_no_pivot_root(container, asked):
    c = container("/bin/ls", "/").start_shim()
    log = c.bundle / "calls"
    words = ["strace", "-f", "-e", "trace=pivot_root,chroot", "-o", log, "-p", str(c.call("Connect")["shim_pid"])]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert b"attached" in tracer.stderr.readline()
        assert output(c, options=given(no_pivot_root=asked)) == "bin\ndev\nproc\ntmp\n"
        tracer.send_signal(signal.SIGINT)
    assert set(re.findall(r"pivot_root|chroot", log.read_text())) == {"chroot" if asked else "pivot_root"}


def test_systemd_cgroup_without_systemd_is_refused_and_leaves_nothing(container, host):
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("systemd runs here: test_systemd_cgroup.py has the containers that it makes")
    c = container("/bin/true", linux={"cgroupsPath": "system.slice:pyrunc:x"}).start_shim()
    with pytest.raises(Failed, match="systemd"):
        c.create(options=given(systemd_cgroup=True))
    assert host.run("mountpoint", "-q", c.bundle / "rootfs").returncode


@pytest.mark.parametrize("in_a_file", [False, True])
def test_options_as_toml(container, host, tmp_path, in_a_file):
    text = b'Root = "/run/toml"\nNoNewKeyring = true\n'
    (tmp_path / "options").write_bytes(text)
    c = container("/bin/true").start_shim()
    c.create(options=generic(path=tmp_path / "options") if in_a_file else generic(text))
    assert os.path.isdir(f"/proc/{host.keeper.pid}/root/run/toml/tests/{c.id}")
    c.call("Delete")


@pytest.mark.parametrize("text", [b"Rooot = 1", b"Root = 1", b"=", b"\xff"])
def test_toml_that_is_none_of_it_is_refused(container, text):
    c = container("/bin/true").start_shim()
    with pytest.raises(Failed, match="the runtime's options") as caught:
        c.create(options=generic(text))
    assert caught.value.code == ttrpc.INVALID_ARGUMENT


def test_options_of_another_runtime_have_no_effect_and_a_warning(container):
    c = container("/bin/true").start_shim()
    c.create(options={"type_url": "somebody.else.v1.Options", "value": b"\xff"})
    wait_until(lambda: "options of type somebody.else.v1.Options are none of this runtime's" in c.messages())


def bootstrap(parameters):
    """All that containerd 2.3.4 sends; the shim's own table has what it reads."""
    message = {**messages.BOOTSTRAP, 2: ("namespace", STRING), 4: ("containerd_version", STRING)}
    return encode(message, {"namespace": "tests", "containerd_version": "v2.3.4", **parameters})


def test_bootstrap_parameters_of_containerd_2_3(container, host):
    """The folder of the sockets is one of them, and where events go."""
    c = container("/bin/true")
    parameters = {"id": c.id, "socket_dir": "/run/other/s", "ttrpc_address": host.address}
    done = c.command("start", input=bootstrap(parameters), env={"TTRPC_ADDRESS": ""})
    said = json.loads(done.stdout)
    assert (said["version"], said["protocol"]) == (3, "ttrpc")
    assert said["address"].startswith("unix:///run/other/s/")
    c.address = said["address"]
    c.client = Client(c.socket)
    c.create()
    wait_until(lambda: host.topics(c.id) == ["create"])


@pytest.mark.parametrize("form", ["parameters", "alone"])
@pytest.mark.parametrize("options", [given(shim_cgroup="/pyrunc-s"), generic(b'ShimCgroup = "/pyrunc-s"')])
def test_the_cgroup_of_the_shim(container, form, options):
    """`start` has the options, which 2.3 sends as an extension of its parameters, and others alone."""
    c = container("/bin/true")
    parameters = bootstrap({"id": c.id, "extensions": [{"value": options}]})
    c.start_shim(input=parameters if form == "parameters" else encode(messages.ANY, options)).create()
    pid = c.call("Connect")["shim_pid"]
    places = [line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    assert {path for name, path in places if name not in ("", "name=systemd")} in ({"/pyrunc-s"}, set())
    assert "/pyrunc-s" in [path for _, path in places]
    c.kill_shim()
    for folder in Path("/sys/fs/cgroup").glob("*/pyrunc-s"):
        folder.rmdir()


def test_one_shim_for_all_containers_of_a_namespace(container):
    """Pods share it, too. Without a container it stays for a while, for a client that has just found it."""
    options = generic(b"ShimPerNamespace = true")
    given = encode(messages.ANY, options)
    first = container("/bin/sleep", "1000").start_shim(input=given).create(options=options)
    pid = first.call("Connect")["shim_pid"]
    pod = {"io.kubernetes.cri.sandbox-id": "pod"}
    second = container("/bin/sleep", "1000", annotations=pod).start_shim(input=given).create(options=options)
    third = container("/bin/sleep", "1000").start_shim().create()
    assert second.call("Connect")["shim_pid"] == pid
    assert third.call("Connect")["shim_pid"] != pid
    first.call("Delete")
    first.call("Shutdown")
    assert second.call("State")["status"] == 1
    second.call("Delete")
    second.call("Shutdown")
    fourth = container("/bin/sleep", "1000").start_shim(input=given).create(options=options)
    assert fourth.call("Connect")["shim_pid"] == pid
    fourth.call("Delete")
    fourth.call("Shutdown")
    wait_until(lambda: not os.path.exists(fourth.socket))

"""update --device-add and --device-rm: the node and the rule of a container that runs."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from integration.support.bundle import full
from sizes import FULL, size

ZERO = "/dev/zero:/dev/another"
RACER = Path(__file__).parent.parent / "security/racer.py"
DENY = {"devices": [{"allow": False, "access": "rwm"}]}


def bind(source, destination):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind"]}


def readable(container, path):
    return container.attempt_exec("dd", f"if={path}", "of=/dev/null", "bs=1", "count=1").code == 0


@pytest.fixture(params=["own", "unified"])
def hierarchy(request):
    if request.param == "unified":
        request.getfixturevalue("cgroup2_alone")


def test_a_device_comes_and_goes(hierarchy, container):
    """/dev/kmsg, which no rule allows before."""
    c = container(resources=DENY, capabilities=full("CAP_MKNOD", "CAP_SYSLOG")).up()
    c.exec("mknod", "/own", "c", "1", "11")
    assert not readable(c, "/own")
    c.runtime("update", "--device-add", "/dev/kmsg:/dev/log/kernel:r", c.id)
    assert c.exec("stat", "-c", "%t:%T", "/dev/log/kernel") == "1:b"
    assert c.attempt_exec("sh", "-c", "exec 3</own").code == 0
    assert c.attempt_exec("sh", "-c", "exec 3>>/own").code != 0  # r alone
    assert (
        "it was added before" in c.runtime("update", "--device-add", "/dev/kmsg:/dev/log/kernel", c.id, check=False).err
    )
    c.runtime("update", "--device-rm", "/dev/log/kernel", c.id)
    assert c.attempt_exec("sh", "-c", "exec 3</own").code != 0
    assert c.attempt_exec("ls", "/dev/log/kernel").code != 0
    assert readable(c, "/dev/zero")  # what every container has
    assert "it was not added" in c.runtime("update", "--device-rm", "/dev/null", c.id, check=False).err
    c.delete("--force")
    c.assert_gone()


def test_what_can_not_be_put_on_record_is_not_allowed(hierarchy, container):
    """Only the error can be written, which is shorter: who would take it away again?"""
    c = container(resources=DENY, capabilities=full("CAP_MKNOD", "CAP_SYSLOG")).up()
    c.exec("mknod", "/own", "c", "1", "11")
    short = (300, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    words = ("update", "--device-add", "/dev/kmsg", c.id)
    result = c.runtime(*words, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, short))
    assert (result.code, "file too large" in result.err.lower()) == (1, True), repr(result)
    assert not readable(c, "/own")
    c.delete("--force")


def test_what_another_rule_allows_stays_allowed(hierarchy, container):
    c = container(resources=DENY).up()
    c.runtime("update", "--device-add", ZERO, c.id)
    assert readable(c, "/dev/another")
    c.runtime("update", "--device-rm", "/dev/another", c.id)
    assert readable(c, "/dev/zero")
    c.delete("--force")


def test_with_limits_all_or_nothing(container):
    c = container(resources=DENY).up()
    c.runtime("update", "--device-add", ZERO, "--pids-limit", "77", c.id)
    assert c.control_file("pids.max").read_text() == "77\n"
    words = ("update", "--device-add", "/dev/full:/dev/more", "--memory", "1", c.id)
    assert c.runtime(*words, check=False).code == 1
    assert c.attempt_exec("ls", "/dev/more").code != 0
    c.runtime("update", "--device-add", "/dev/full:/dev/more", c.id)
    c.delete("--force")


def test_in_a_user_namespace(container):
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c = container(uidMappings=mapping, gidMappings=mapping, resources=DENY).reachable()
    c.config["linux"]["namespaces"].append({"type": "user"})
    c.bundle.rootfs.chmod(0o755)
    c.up()
    c.runtime("update", "--device-add", ZERO, c.id)
    assert readable(c, "/dev/another")
    for place in ("/dev/another", "/dev/null"):  # nodes of the host's that are bound
        line = c.exec("grep", f" {place} ", "/proc/self/mountinfo")
        assert {"nosuid", "noexec"} <= set(line.split()[5].split(","))
    c.runtime("update", "--device-rm", "/dev/another", c.id)
    assert c.attempt_exec("ls", "/dev/another").code != 0
    c.delete("--force")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/etc/passwd", "is no device"),
        ("zero", "is not a device"),
        ("/dev/zero:/etc/zero", "is not in /dev"),
        ("/dev/zero:/dev/x:rq", "is not a device"),
        ("/dev/none-such", "no such file"),
    ],
)
def test_what_is_no_device(container, text, said):
    c = container().up()
    assert said in c.runtime("update", "--device-add", text, c.id, check=False).err
    c.delete("--force")


@pytest.fixture
def volume(tmp_path):
    """A folder of the host's that a container may write to. On the host no cgroup keeps anybody from a node in it."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def test_a_link_of_the_containers_leads_nowhere(container, volume):
    c = container(resources=DENY, mounts=[bind(volume, "/volume"), bind(volume, "/dev/mounted")]).up()
    c.exec_sh("ln -s /volume /dev/out; ln -s /volume /dev/deep")
    for place in ("/dev/out/made", "/dev/mounted/made", "/dev/deep/er/made"):
        result = c.runtime("update", "--device-add", f"/dev/zero:{place}", c.id, check=False)
        assert (result.code, "a symlink or another mount is in the way" in result.err) == (1, True), repr(result)
        assert not list(volume.iterdir())
        assert "it was not added" in c.runtime("update", "--device-rm", place, c.id, check=False).err
    c.runtime("update", "--device-add", "/dev/zero:/dev/one/two", c.id)
    c.exec_sh("mv /dev/one/two /dev/three; rm -r /dev/one; ln -s /volume /dev/one; touch /volume/two")
    c.runtime("update", "--device-rm", "/dev/one/two", c.id)
    assert [entry.name for entry in volume.iterdir()] == ["two"]
    c.delete("--force")


def test_the_hosts_dev_gets_no_node(container, volume):
    c = container(resources=DENY)
    c.config["mounts"] = [m for m in c.config["mounts"] if not m["destination"].startswith("/dev")]
    c.change(mounts=[bind(volume, "/dev")]).up()
    said = c.runtime("update", "--device-add", "/dev/zero:/dev/made", c.id, check=False).err
    assert "is a folder of the host's" in said
    assert not list(volume.iterdir())
    c.delete("--force")


@pytest.mark.slow
def test_a_container_that_swaps_a_folder_for_a_link(container, volume):
    """While the node is made, and while it is removed."""
    c = container(resources=DENY, mounts=[bind(volume, "/volume")]).up()
    c.exec_sh("mkdir /dev/folder; ln -s /volume /dev/link")
    dev, hosts = f"/proc/{c.pid}/root/dev", volume / "node"
    racer = subprocess.Popen([sys.executable, RACER, f"{dev}/folder", f"{dev}/link"])
    made = set()
    try:
        for _ in range(size(1000, 12)):
            result = c.runtime("update", "--device-add", "/dev/zero:/dev/folder/node", c.id, check=False)
            assert not hosts.exists(), repr(result)
            made.add(result.code == 0)
            os.mknod(hosts, stat.S_IFCHR | 0o600, os.makedev(1, 5))
            c.runtime("update", "--device-rm", "/dev/folder/node", c.id, check=False)
            hosts.unlink()  # it is still there
            subprocess.run(["find", dev, "-xdev", "-name", "node", "-delete"], check=False, timeout=60)
    finally:
        racer.kill()
        racer.wait()
    assert made == {True, False} or not FULL
    c.delete("--force")

"""update --device-add and --device-rm: the node and the rule of a container that runs."""

import resource

import pytest

from integration.support.bundle import full

ZERO = "/dev/zero:/dev/another"
DENY = {"devices": [{"allow": False, "access": "rwm"}]}


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


def test_a_link_of_the_containers_leads_nowhere_outside(container, canary):
    c = container(resources=DENY).up()
    c.exec_sh(f"ln -s {canary} /dev/out")
    c.runtime("update", "--device-add", "/dev/zero:/dev/out/made", c.id)
    assert sorted(entry.name for entry in canary.iterdir()) == ["file", "ptmx"]
    c.delete("--force")

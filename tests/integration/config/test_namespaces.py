"""Namespaces: new, joined by a path, or the runtime's own. config-linux.md#namespaces"""

import os
from pathlib import Path

import pytest

from integration.support.bundle import MAPS, NAMESPACES, OWN_USERS, namespaces

KINDS = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
WHOLE = [{"containerID": 0, "hostID": 0, "size": 65536}]


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"])
def test_a_new_namespace_of_each_kind(container, kind):
    kinds = [*dict.fromkeys(["mount", "pid", kind])]
    c = container(namespaces=namespaces(*kinds))
    if kind == "user":
        c.change(uidMappings=WHOLE, gidMappings=WHOLE)
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    assert c.run("readlink", f"/proc/self/ns/{KINDS[kind]}") != os.readlink(f"/proc/self/ns/{KINDS[kind]}")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "time"])
def test_a_namespace_that_is_not_listed_is_the_runtimes(container, kind):
    assert container(namespaces=namespaces("mount", "pid")).run(
        "readlink", f"/proc/self/ns/{KINDS[kind]}"
    ) == os.readlink(f"/proc/self/ns/{KINDS[kind]}")


def test_the_processes_of_the_host_without_a_namespace(container):
    c = container(namespaces=namespaces("mount"))
    assert c.run("readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"])
def test_a_namespace_that_is_joined_by_path(container, kind):
    other = container(namespaces=namespaces(*NAMESPACES, "cgroup", "time", "user"), uidMappings=MAPS, gidMappings=MAPS)
    other.reachable().up()
    path = f"/proc/{other.pid}/ns/{KINDS[kind]}"
    rest = [name for name in ("mount", "pid", "uts", "ipc") if name != kind]
    c = container(namespaces=namespaces(*rest, **{kind: path}))
    if kind == "mount":  # the procfs there is that of the other's processes
        c.change(namespaces=namespaces("uts", mount=path, pid=f"/proc/{other.pid}/ns/pid"))
    if kind == "user":
        c.reachable()
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    if kind in ("network", "mount"):
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    if kind == "mount":
        c.config["mounts"] = []
        c.change(root={"path": "/"})
    assert c.run("/bin/readlink", f"/proc/self/ns/{KINDS[kind]}") == os.readlink(path)


def test_all_namespaces_of_another_container_can_be_joined(container):
    other = container(**OWN_USERS)
    other.config["mounts"] = [m for m in other.config["mounts"] if m["type"] != "sysfs"]
    other.reachable().up()
    paths = {kind: f"/proc/{other.pid}/ns/{KINDS[kind]}" for kind in ("user", "pid", "network", "ipc", "uts")}
    c = container(namespaces=namespaces("mount", **paths)).reachable()
    c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    for kind, path in paths.items():
        assert c.run("readlink", f"/proc/self/ns/{KINDS[kind]}") == os.readlink(path)


def test_a_path_of_the_wrong_kind_is_refused(container):
    c = container(namespaces=namespaces("mount", "pid", network="/proc/self/ns/uts"))
    error = c.refused("true")
    assert "/proc/self/ns/uts" in error


def test_a_path_that_is_no_namespace_is_refused(container, tmp_path):
    (tmp_path / "file").touch()
    error = container(namespaces=namespaces("mount", network=str(tmp_path / "file"))).refused("true")
    assert str(tmp_path / "file") in error


def test_a_kind_that_is_listed_twice_is_refused(container):
    assert "pid" in container(namespaces=namespaces("mount", "pid", "pid")).refused("true")


def test_the_loopback_device_is_up(container):
    assert container().sh("cat /sys/class/net/lo/operstate; ls /sys/class/net").split() == ["unknown", "lo"]


def test_the_root_of_a_cgroup_namespace_is_the_containers_cgroup(container):
    c = container(namespaces=namespaces(*NAMESPACES, "cgroup"))
    assert {line.split(":", 2)[2] for line in c.run("cat", "/proc/self/cgroup").splitlines()} == {"/"}


def test_offsets_of_time(container):
    c = container(
        namespaces=namespaces(*NAMESPACES, "time"),
        timeOffsets={"boottime": {"secs": 1000000}, "monotonic": {"secs": 5, "nanosecs": 7}},
    )
    offsets = [line.split() for line in c.run("cat", "/proc/self/timens_offsets").splitlines()]
    assert offsets == [["monotonic", "5", "7"], ["boottime", "1000000", "0"]]
    assert float(c.run("cat", "/proc/uptime").split()[0]) > 1000000


def test_a_user_namespace_with_its_maps(container):
    c = container(**OWN_USERS).reachable()
    assert c.run("cat", "/proc/self/uid_map", "/proc/self/gid_map").split() == ["0", "100000", "65536"] * 2
    c.up()
    assert "Uid:\t100000\t100000\t100000\t100000\n" in Path(f"/proc/{c.pid}/status").read_text()


def test_a_user_of_a_user_namespace(container):
    c = container(**OWN_USERS, user={"uid": 1000, "gid": 1000}).reachable()
    assert c.run("id", "-u") == "1000"


def test_devices_in_a_user_namespace(container):
    c = container(**OWN_USERS).reachable()
    assert c.sh("for d in null zero full random urandom tty; do stat -c '%t:%T' /dev/$d; done").split() == [
        "1:3",
        "1:5",
        "1:7",
        "1:8",
        "1:9",
        "5:0",
    ]


def test_a_user_that_is_not_mapped_is_refused(container):
    c = container(**OWN_USERS, user={"uid": 70000, "gid": 0}).reachable()
    assert "70000" in c.refused("true")

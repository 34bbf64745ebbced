"""Limits, read back from the kernel's files; and whose cgroup a container's is. config-linux.md#control-groups"""

import os
import subprocess
from pathlib import Path

import pytest

from integration.harness import MARK, NAMESPACES, Running, cgroups_of, full, hierarchies, namespaces, wait_until

pytestmark = pytest.mark.vm
V2 = "cpu" not in hierarchies()
MIB = 1 << 20


def value(c, controller, file):
    """What stands in a control file of the container's cgroup."""
    mount = hierarchies()["" if V2 else controller]
    (path,) = {p for p in cgroups_of(c.id) if p.startswith(f"{mount}/") and p.endswith(c.id)}
    return (Path(path) / file).read_text().strip()


def needs(controller):
    def available():
        if not V2:
            return controller in hierarchies()
        return controller in Path(hierarchies()[""], "cgroup.controllers").read_text().split()

    return pytest.mark.skipif(not available(), reason=f"no {controller} controller here")


@needs("memory")
def test_memory(container):
    c = container(resources={"memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB}}).up()
    if V2:
        assert [value(c, "memory", f"memory.{f}") for f in ("max", "swap.max", "low")] == [
            str(64 * MIB),
            str(64 * MIB),
            str(32 * MIB),
        ]
    else:
        assert value(c, "memory", "memory.limit_in_bytes") == str(64 * MIB)
        assert value(c, "memory", "memory.soft_limit_in_bytes") == str(32 * MIB)
        if Path(hierarchies()["memory"], "memory.memsw.limit_in_bytes").exists():
            assert value(c, "memory", "memory.memsw.limit_in_bytes") == str(128 * MIB)


@needs("memory")
def test_a_program_that_takes_more_memory_is_killed(container):
    c = container(resources={"memory": {"limit": 16 * MIB}})
    assert c.attempt("sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1").code == 137


@needs("memory")
def test_no_limit_on_memory(container):
    c = container(resources={"memory": {"limit": -1}}).up()
    assert value(c, "memory", "memory.max" if V2 else "memory.limit_in_bytes") in ("max", "9223372036854771712")


@needs("pids")
@pytest.mark.parametrize(("limit", "expected"), [(17, "17"), (-1, "max")])
def test_the_number_of_processes(container, limit, expected):
    assert value(container(resources={"pids": {"limit": limit}}).up(), "pids", "pids.max") == expected


@needs("pids")
def test_a_program_that_forks_more_is_stopped(container):
    c = container(resources={"pids": {"limit": 4}})
    assert "can't fork" in c.attempt("sh", "-c", "sleep 1 & sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait").err


@needs("cpu")
def test_cpu(container):
    c = container(resources={"cpu": {"shares": 512, "quota": 20000, "period": 50000}}).up()
    if V2:
        assert value(c, "cpu", "cpu.max") == "20000 50000"
    else:
        assert [value(c, "cpu", f) for f in ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")] == [
            "512",
            "20000",
            "50000",
        ]


@needs("cpu")
def test_a_period_alone(container):
    c = container(resources={"cpu": {"period": 50000}}).up()
    assert value(c, "cpu", "cpu.max" if V2 else "cpu.cfs_period_us") in ("max 50000", "50000")


@needs("cpuset")
def test_cpus(container):
    c = container(resources={"cpu": {"cpus": "0", "mems": "0"}}).up()
    assert [value(c, "cpuset", f) for f in ("cpuset.cpus", "cpuset.mems")] == ["0", "0"]
    assert c.exec_sh("grep Cpus_allowed_list /proc/self/status").split()[1] == "0"


@needs("cpuset")
def test_cpus_that_are_not_there_are_an_error(container):
    error = container(resources={"cpu": {"cpus": "4000-4001"}}).refused("true")
    assert "cpuset.cpus" in error


def test_devices_are_forbidden_that_no_rule_allows(container):
    devices = [{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11}]
    for rules, expected in (
        ([{"allow": False, "access": "rwm"}], "EPERM"),
        (
            [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
            "opened",
        ),
        ([], "EPERM"),
    ):
        c = container(
            devices=devices,
            resources={"devices": rules},
            capabilities=full("CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"),
        )
        if not V2:
            assert c.run("probe", "open", "/dev/kmsg2", "0x800") == expected


def test_of_two_rules_the_last_counts(container):
    devices = [{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11}]
    allow, deny = ({"allow": a, "type": "c", "major": 1, "minor": 11, "access": "rwm"} for a in (True, False))
    for rules, expected in (([allow, deny], "EPERM"), ([deny, allow], "opened")):
        c = container(devices=devices, resources={"devices": rules}, capabilities=full("CAP_SYSLOG"))
        if not V2:
            assert c.run("probe", "open", "/dev/kmsg2", "0x800") == expected


def test_the_devices_that_every_container_may_use(container):
    c = container(resources={"devices": [{"allow": False, "access": "rwm"}]})
    assert (
        c.sh("for d in null zero full random urandom; do probe open /dev/$d 0; done; probe open /dev/ptmx 2").split()
        == ["opened"] * 6
    )


def test_access_that_no_rule_allows_is_refused(container):
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}]
    c = container(
        devices=[{"path": "/dev/k", "type": "c", "major": 1, "minor": 11}],
        resources={"devices": rules},
        capabilities=full("CAP_SYSLOG"),
    )
    if not V2:
        assert c.run("probe", "open", "/dev/k", "0x800") == "EPERM"


# --- whose cgroup


def test_the_default_cgroup_is_named_like_the_container(container):
    c = container().up()
    assert all(path.endswith(f"/{c.id}") for path in cgroups_of(c.id))
    assert len(cgroups_of(c.id)) >= len(set(hierarchies().values())) - 1


@pytest.mark.parametrize("form", ["/{}/sub", "{}/sub", "//{}//./sub/"])
def test_the_cgroup_of_the_configuration(container, form):
    name = f"{MARK}-path"
    c = container(cgroupsPath=form.format(name)).up()
    assert f"/{name}/sub" in Path(f"/proc/{c.pid}/cgroup").read_text()
    c.delete("--force")
    for path in sorted(cgroups_of(name), reverse=True):
        os.rmdir(path)


@pytest.mark.parametrize("path", ["/../../{}", "/{}/../../../x/../{}"])
def test_a_cgroup_is_always_below_the_hierarchys_root(container, path):
    name = f"{MARK}-dots"
    c = container(cgroupsPath=path.format(name, name) if path.count("{") > 1 else path.format(name))
    c.up()
    assert cgroups_of(name)
    c.delete("--force")
    for path in sorted(cgroups_of(name), reverse=True):
        os.rmdir(path)


@pytest.mark.parametrize("path", ["/", "/..", "/."])
def test_the_root_cgroup_is_no_containers(container, path):
    assert "root cgroup" in container(cgroupsPath=path).refused("true")


def test_a_cgroup_with_processes_in_it_is_refused(container, tmp_path):
    name = f"{MARK}-used"
    mount = hierarchies().get("pids", hierarchies().get(""))
    folder = Path(mount, name)
    folder.mkdir()
    other = Running(["sleep", "1000"], str(tmp_path / "other"), stdin=subprocess.DEVNULL)
    try:
        (folder / "cgroup.procs").write_text(str(other.pid))
        error = container(cgroupsPath=f"/{name}").refused("true")
        assert "not empty" in error
        assert other.poll() is None
        assert folder.exists()
    finally:
        other.kill()
        other.end()
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the cgroup to be empty")
        folder.rmdir()


@needs("freezer")
def test_a_frozen_cgroup_is_refused(container):
    name = f"{MARK}-frozen"
    folder = Path(hierarchies()["freezer"], name)
    folder.mkdir()
    (folder / "freezer.state").write_text("FROZEN")
    try:
        c = container(cgroupsPath=f"/{name}")
        result = c.attempt("true", timeout=10)
        assert result.code == 1
        assert "frozen" in result.err
    finally:
        (folder / "freezer.state").write_text("THAWED")
        folder.rmdir()


def test_a_limit_that_the_kernel_refuses_names_file_and_value(container):
    error = container(resources={"pids": {"limit": 5}, "cpu": {"period": 1}}).refused("true")
    assert "1" in error
    assert "cpu" in error


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


def test_a_cgroup_mount_shows_only_the_containers_cgroup(container):
    mount = {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    }
    c = container(mounts=[mount], namespaces=namespaces(*NAMESPACES, "cgroup"))
    if V2:
        assert c.run("cat", "/sys/fs/cgroup/cgroup.procs").split()[0] == "1"
    else:
        out = c.sh(
            "cat /sys/fs/cgroup/pids/cgroup.procs | head -1; mkdir /sys/fs/cgroup/pids/x 2>&1; ls /sys/fs/cgroup"
        )
        assert out.split()[0] == "1"
        assert "Read-only" in out

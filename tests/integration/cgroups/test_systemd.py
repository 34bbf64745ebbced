"""--systemd-cgroup: the cgroup is a transient scope of systemd's, which is told the limits. Where systemd runs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, namespaces
from integration.support.container import MARK, Container
from integration.support.runtime import wait_until
from sizes import FULL

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="a host that runs systemd"),
]
MIB = 1 << 20


def show(unit, *names):
    """Properties of a unit, as systemctl shows them."""
    text = subprocess.run(["systemctl", "show", unit], capture_output=True, text=True, check=True, timeout=20).stdout
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    return {name: found.get(name) for name in names}


@pytest.fixture
def scoped(container):
    """A container in a scope of its own."""

    def make(name="", slice_name="", annotations=None, **changes) -> Container:
        made = container(**changes)
        made.unit = f"{MARK}-{name or made.id}.scope"
        made.config["linux"]["cgroupsPath"] = f"{slice_name}:{MARK}:{name or made.id}"
        if annotations:
            made.config["annotations"] = annotations
        return made

    return make


WITHOUT_A_BUS = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run/dbus && exec "$@"', "sh")


def up(made, *command, around=()):
    made._prepare(command or ("sleep", "1000"))
    runtime = made.runtime
    words = [*around, runtime.binary, "--root", str(runtime.root), "--systemd-cgroup", "run", "-d", "--bundle"]
    with open(made.bundle.path / "err", "w") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": err}
        result = subprocess.run([*words, str(made.bundle.path), made.id], **streams, timeout=60, check=False)
    return result.returncode, (made.bundle.path / "err").read_text()


def cgroup_of(made):
    line = Path(f"/proc/{made.pid}/cgroup").read_text().splitlines()[-1]
    return Path("/sys/fs/cgroup" + line.split(":", 2)[2])


LIMITS = {
    "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
    "cpu": {"shares": 512, "quota": 25000, "period": 50000, "cpus": "0"},
    "pids": {"limit": 20},
}


def test_a_scope_with_its_limits(scoped):
    made = scoped(resources=LIMITS)
    assert up(made) == (0, "")
    assert cgroup_of(made) == Path(f"/sys/fs/cgroup/system.slice/{made.unit}")
    assert show(
        made.unit, "Slice", "Delegate", "MemoryMax", "MemorySwapMax", "MemoryLow", "TasksMax", "AllowedCPUs"
    ) == {
        "Slice": "system.slice",
        "Delegate": "yes",
        "MemoryMax": f"{64 * MIB}",
        "MemorySwapMax": f"{32 * MIB}",
        "MemoryLow": f"{32 * MIB}",
        "TasksMax": "20",
        "AllowedCPUs": "0",
    }
    files = {
        "memory.max": f"{64 * MIB}",
        "cpu.max": "25000 50000",
        "cpu.weight": "59",
        "pids.max": "20",
        "cpuset.cpus": "0",
    }
    assert {file: (cgroup_of(made) / file).read_text().strip() for file in files} == files


def test_the_scope_of_another_is_refused_and_left_alone(scoped):
    first, in_its_slice, in_another = scoped("one"), scoped("one"), scoped("one", slice_name="machine.slice")
    assert up(first) == (0, "")
    code, err = up(in_its_slice)
    assert (code, "container's cgroup is not empty" in err) == (1, True)
    code, err = up(in_another)
    assert (code, "already loaded" in err) == (1, True)
    assert first.status == "running"


def test_controllers_that_systemd_does_not_know(scoped):
    made = scoped(resources={"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MIB}]})
    assert up(made) == (0, "")
    assert (cgroup_of(made) / "hugetlb.2MB.max").read_text().strip() == f"{2 * MIB}"


def test_a_directory_that_is_there_and_frozen_is_refused(scoped):
    made = scoped(slice_name="machine.slice")
    folder = Path(f"/sys/fs/cgroup/machine.slice/{made.unit}")
    folder.mkdir(parents=True)
    (folder / "cgroup.freeze").write_text("1")
    try:
        code, err = up(made)
        assert code == 1
        assert "container's cgroup unexpectedly frozen" in err
        assert folder.exists()
    finally:
        (folder / "cgroup.freeze").write_text("0")
        folder.rmdir()


def test_limits_and_devices_outlive_a_reload_of_systemd(scoped):
    made = scoped(resources={**LIMITS, "devices": [{"allow": False, "access": "rwm"}]})
    assert up(made) == (0, "")
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)
    assert (cgroup_of(made) / "cpu.max").read_text().strip() == "25000 50000"
    assert (cgroup_of(made) / "cpuset.cpus").read_text().strip() == "0"
    assert made.exec_sh("echo x > /dev/null && echo allowed") == "allowed"
    made.exec_sh("mknod /tmp/kmsg c 1 11 || true")
    assert made.attempt_exec("cat", "/tmp/kmsg").code != 0


def test_update_tells_systemd(scoped):
    made = scoped(resources=LIMITS)
    assert up(made) == (0, "")
    made.runtime(
        "update", "--memory", "80m", "--memory-swap", "100m", "--pids-limit", "33", "--cpu-quota", "30000", made.id
    )
    assert show(made.unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec") == {
        "MemoryMax": f"{80 * MIB}", "TasksMax": "33", "CPUQuotaPerSecUSec": "600ms",
    }  # fmt: skip
    assert (cgroup_of(made) / "cpu.max").read_text().strip() == "30000 50000"


def test_an_update_that_the_kernel_refuses_is_undone_at_systemd_too(scoped, tmp_path):
    made = scoped(resources=LIMITS)
    assert up(made) == (0, "")
    (tmp_path / "limits").write_text(json.dumps({"pids": {"limit": 5}, "unified": {"memory.nonsense": "1"}}))
    assert made.runtime("update", "-r", tmp_path / "limits", made.id, check=False).code == 1
    assert show(made.unit, "TasksMax") == {"TasksMax": "20"}
    assert (cgroup_of(made) / "pids.max").read_text().strip() == "20"


def test_without_a_bus_systemd_is_asked_at_its_own_socket(scoped):
    made = scoped(resources=LIMITS)
    assert up(made, around=WITHOUT_A_BUS) == (0, "")
    assert show(made.unit, "TasksMax") == {"TasksMax": "20"}
    runtime = [*WITHOUT_A_BUS, made.runtime.binary, "--root", made.runtime.root]
    subprocess.run([*runtime, "update", "--pids-limit", "33", made.id], check=True, timeout=60)
    assert show(made.unit, "TasksMax") == {"TasksMax": "33"}
    subprocess.run([*runtime, "delete", "--force", made.id], check=True, timeout=60)
    assert show(made.unit, "LoadState")["LoadState"] == "not-found"
    made.assert_gone()


def test_annotations_are_properties(scoped):
    made = scoped(annotations={"org.systemd.property.TimeoutStopSec": "uint64 12"})
    assert up(made) == (0, "")
    assert show(made.unit, "TimeoutStopUSec") == {"TimeoutStopUSec": "12s"}


def test_a_property_that_systemd_does_not_know_is_an_error(scoped):
    made = scoped(annotations={"org.systemd.property.NoSuchThing": "true"})
    code, text = up(made)
    assert code == 1
    assert "NoSuchThing" in text
    made.assert_gone()


def test_a_slice_of_slices(scoped):
    made = scoped(slice_name="pyruncx-deep.slice")
    assert up(made) == (0, "")
    assert cgroup_of(made).parent == Path("/sys/fs/cgroup/pyruncx.slice/pyruncx-deep.slice")


def test_a_unit_that_is_there_is_an_error(scoped):
    first, second = scoped("same"), scoped("same")
    assert up(first) == (0, "")
    code, text = up(second)
    assert code == 1
    assert first.unit in text
    assert first.status == "running"


def test_a_scope_that_failed_is_made_again(scoped):
    unit = f"{MARK}-failed.scope"
    properties = ["-p", "RuntimeMaxSec=1"]
    subprocess.run(["systemd-run", "--scope", *properties, "--unit", unit, "sleep", "20"], check=False, timeout=60)
    wait_until(lambda: show(unit, "ActiveState")["ActiveState"] == "failed", "the unit to fail")
    assert up(scoped("failed"))[0] == 0


@pytest.mark.parametrize("end", ["kill", "exit", "force"])
def test_nothing_is_left(scoped, end):
    made = scoped()
    assert up(made, *(["true"] if end == "exit" else []))[0] == 0
    if end == "kill":
        made.kill("KILL")
    if end != "force":
        made.wait_for("stopped")
    made.delete(*(["--force"] if end == "force" else []))
    assert show(made.unit, "LoadState")["LoadState"] == "not-found"
    made.assert_gone()


def test_exec_joins_the_scope(scoped):
    made = scoped()
    assert up(made) == (0, "")
    assert made.exec("cat", "/proc/self/cgroup").endswith(made.unit) or made.exec("cat", "/proc/self/cgroup") == "0::/"


def test_pause_and_resume(scoped):
    made = scoped()
    assert up(made) == (0, "")
    made.runtime("pause", made.id)
    assert made.status == "paused"
    made.runtime("resume", made.id)
    assert made.status == "running"


# --- crun's annotations: what has nothing to do with systemd is in test_crun_annotations.py

OWN = namespaces(*NAMESPACES, "cgroup")
CGROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}


@pytest.mark.timeout(600)  # nine calls, on an emulated machine
def test_a_cgroup_below_the_scope(scoped):
    """It has the limits, as the scope has, and all processes."""
    made = scoped(annotations={"run.oci.systemd.subgroup": "inner"}, resources=LIMITS, namespaces=OWN, mounts=[CGROUPS])
    assert up(made) == (0, "")
    place = Path(f"/sys/fs/cgroup/system.slice/{made.unit}/inner")
    assert cgroup_of(made) == place
    assert show(made.unit, "TasksMax") == {"TasksMax": "20"}
    said = made.exec("cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/proc/self/cgroup")
    assert said.split() == [f"{64 * MIB}", "20", "0::/"]
    made.runtime("update", "--pids-limit", "33", made.id)
    assert show(made.unit, "TasksMax") == {"TasksMax": "33"}
    assert (place / "pids.max").read_text().strip() == "33"
    made.runtime("pause", made.id)
    assert "frozen 1" in (place / "cgroup.events").read_text()
    made.runtime("resume", made.id)
    made.delete("--force")
    assert show(made.unit, "LoadState")["LoadState"] == "not-found"
    assert not place.parent.exists()
    made.assert_gone()


@pytest.mark.timeout(600)
def test_a_cgroup_below_that_is_the_containers(scoped):
    given = {"run.oci.systemd.subgroup": "inner", "run.oci.delegate-cgroup": "/payload"}
    made = scoped(annotations=given, resources=LIMITS, namespaces=OWN, mounts=[CGROUPS])
    assert up(made) == (0, "")
    assert cgroup_of(made) == Path(f"/sys/fs/cgroup/system.slice/{made.unit}/inner/payload")
    said = made.exec("cat", "/proc/self/cgroup", "/sys/fs/cgroup/payload/cgroup.controllers").split()
    assert said[0] == "0::/payload"
    assert {"memory", "pids"} <= {*said}
    made.kill("KILL")
    made.wait_for("stopped")
    made.delete()
    assert show(made.unit, "LoadState")["LoadState"] == "not-found"
    made.assert_gone()


@pytest.mark.skipif(not FULL, reason="NOT TESTED without PYRUNC_FULL=1: the hierarchy lasts, for all of the machine")
@pytest.mark.timeout(600)
def test_version_1_beside_version_2(scoped, tmp_path_factory):
    """The process is there before the scope, and finds its place in both."""
    place = tmp_path_factory.mktemp("named")
    subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=systemd", "cgroup", place], check=True)
    try:
        made = scoped(annotations={"run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup"}, mounts=[CGROUPS])
        assert up(made) == (0, "")
        assert f":name=systemd:/system.slice/{made.unit}" in Path(f"/proc/{made.pid}/cgroup").read_text()
        assert "1" in made.exec("cat", "/sys/fs/cgroup/systemd/cgroup.procs").split()
        made.delete("--force")
        assert not list(place.rglob(made.unit))
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_may_start_with_a_subgroup_and_fails_leaves_nothing(scoped):
    made = scoped(annotations={"run.oci.systemd.subgroup": "inner"})
    assert up(made, "/no/such/program")[0] == 1
    assert show(made.unit, "LoadState")["LoadState"] == "not-found"
    made.assert_gone()


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a:b:c/d"])
def test_a_path_that_names_no_scope(container, path):
    made = container(cgroupsPath=path)
    code, text = up(made)
    assert code == 1
    assert "cgroupsPath" in text
    made.assert_gone()

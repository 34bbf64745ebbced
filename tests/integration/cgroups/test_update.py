"""update: other limits, read back from the kernel; all of them or none."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from integration.support.host import cgroups_of, hierarchies

V1 = "memory" in hierarchies()
MIB = 1 << 20
pytestmark = pytest.mark.skipif(not {"memory", ""} & set(hierarchies()), reason="no memory controller")

# flags: {file of v1: what is in it afterwards}
FLAGS = [
    (["--memory", "64m"], {"memory.limit_in_bytes": 64 * MIB}, {"memory.max": 64 * MIB}),
    (["--memory", "67108864"], {"memory.limit_in_bytes": 64 * MIB}, {"memory.max": 64 * MIB}),
    (["--memory", "0.0625GiB"], {"memory.limit_in_bytes": 64 * MIB}, {"memory.max": 64 * MIB}),
    (["--memory-reservation", "8m"], {"memory.soft_limit_in_bytes": 8 * MIB}, {"memory.low": 8 * MIB}),
    (
        ["--memory", "64M", "--memory-swap", "96M"],
        {"memory.limit_in_bytes": 64 * MIB, "memory.memsw.limit_in_bytes": 96 * MIB},
        {"memory.max": 64 * MIB, "memory.swap.max": 32 * MIB},
    ),
    (["--pids-limit", "10"], {"pids.max": 10}, {"pids.max": 10}),
    (["--pids-limit", "-1"], {"pids.max": "max"}, {"pids.max": "max"}),
    (["--cpu-share", "200"], {"cpu.shares": 200}, {"cpu.weight": 29}),
    (["--cpu-quota", "20000"], {"cpu.cfs_quota_us": 20000}, {"cpu.max": "20000 100000"}),
    (["--cpu-quota", "-1"], {"cpu.cfs_quota_us": -1}, {"cpu.max": "max 100000"}),
    (
        ["--cpu-period", "50000", "--cpu-quota", "25000", "--cpu-burst", "10000"],
        {"cpu.cfs_quota_us": 25000, "cpu.cfs_period_us": 50000, "cpu.cfs_burst_us": 10000},
        {"cpu.max": "25000 50000", "cpu.max.burst": 10000},
    ),
    (["--cpu-idle", "1"], {"cpu.idle": 1}, {"cpu.idle": 1}),
    (["--cpuset-cpus", "0"], {"cpuset.cpus": 0}, {"cpuset.cpus": 0}),
    (["--cpuset-mems", "0"], {"cpuset.mems": 0}, {"cpuset.mems": 0}),
]
START = {
    "memory": {"limit": 32 * MIB, "reservation": 24 * MIB, "swap": 64 * MIB},
    "cpu": {"quota": 50000, "period": 100000},
    "pids": {"limit": 20},
}


def read(made, file):
    (place,) = {path for path in cgroups_of(made.id) if Path(path, file).exists()}
    return Path(place, file).read_text().strip()


@pytest.fixture
def limited(container):
    return container(resources=START).up()


@pytest.mark.parametrize(("flags", "v1", "v2"), FLAGS, ids=[" ".join(row[0]) for row in FLAGS])
def test_flags(container, flags, v1, v2):
    resources = {**START, "memory": {"reservation": 24 * MIB}} if "--memory" in flags else START
    made = container(resources=resources).up()
    made.runtime("update", *flags, made.id)
    for file, value in (v1 if V1 else v2).items():
        assert read(made, file) == str(value)
    if "--pids-limit" not in flags:
        assert read(made, "pids.max") == "20"  # what is not named stays


@pytest.mark.parametrize("source", ["-", "file"])
def test_a_document(limited, tmp_path, source):
    document = json.dumps({"pids": {"limit": 7}, "cpu": {"shares": 300}, "memory": None})
    (tmp_path / "limits").write_text(document)
    if source == "-":
        command = limited.runtime.command("update", "--resources", "-", limited.id)
        subprocess.run(command, input=document.encode(), check=True, timeout=20)
    else:
        limited.runtime("update", "-r", tmp_path / "limits", limited.id)
    assert read(limited, "pids.max") == "7"


def test_limits_that_bound_each_other_grow_and_shrink(limited):
    """The kernel keeps memory <= memory with swap, and burst <= quota, at every moment."""
    memory, swap = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if V1 else ("memory.max", "memory.swap.max")
    for low, high in ((128, 256), (16, 32), (200, 200), (32, 512), (-1, -1), (64, 64)):
        limited.runtime("update", "--memory", size(low), "--memory-swap", size(high), limited.id)
        if low > 0:
            assert read(limited, memory) == str(low * MIB)
            assert read(limited, swap) == str((high if V1 else high - low) * MIB)
    for quota, burst in ((40000, 40000), (10000, 5000), (80000, 80000), (20000, 0)):
        limited.runtime("update", "--cpu-quota", str(quota), "--cpu-burst", str(burst), limited.id)
        assert read(limited, "cpu.cfs_burst_us" if V1 else "cpu.max.burst") == str(burst)


def size(mebibytes):
    return "-1" if mebibytes < 0 else f"{mebibytes}m"


def test_the_period_alone_keeps_the_quota(limited):
    limited.runtime("update", "--cpu-period", "200000", limited.id)
    if V1:
        assert (read(limited, "cpu.cfs_quota_us"), read(limited, "cpu.cfs_period_us")) == ("50000", "200000")
    else:
        assert read(limited, "cpu.max") == "50000 200000"


def test_a_value_that_the_kernel_refuses_changes_nothing(limited, tmp_path):
    files = ["pids.max", *(["memory.limit_in_bytes", "cpu.cfs_quota_us"] if V1 else ["memory.max", "cpu.max"])]
    before = [read(limited, file) for file in files]
    document = {"memory": {"limit": 40 * MIB}, "cpu": {"quota": 30000, "cpus": "0"}, "pids": {"limit": 5}}
    for wrong in ({"quota": 1}, {"cpus": "4000"}, {"period": 5}):
        (tmp_path / "limits").write_text(json.dumps({**document, "cpu": {**document["cpu"], **wrong}}))
        result = limited.runtime("update", "-r", tmp_path / "limits", limited.id, check=False)
        assert result.code == 1
        assert "cgroup file" in result.err
        assert [read(limited, file) for file in files] == before


def test_a_limit_below_what_is_used_says_how_much_that_is(container):
    """v1's kernel refuses it; v2's would kill, and is asked not to (checkBeforeUpdate)."""
    folder = {"destination": "/m", "type": "tmpfs", "source": "tmpfs"}
    made = container(resources={"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}, mounts=[folder]).up()
    made.exec("dd", "if=/dev/zero", "of=/m/file", "bs=1M", "count=16")
    document = json.dumps({"memory": {"limit": 8 * MIB, "swap": 8 * MIB, "checkBeforeUpdate": True}})
    command = made.runtime.command("update", "--resources", "-", made.id)
    error = subprocess.run(command, input=document, text=True, capture_output=True, timeout=60).stderr
    found = re.search(r"current usage: (\d+), peak usage: (\d+)" if V1 else r"< usage (\d+); peak usage: (\d+)", error)
    assert found, error
    assert 16 * MIB <= int(found[1]) <= int(found[2]) <= 64 * MIB


def test_what_was_changed_is_what_the_next_update_builds_on(limited):
    limited.runtime("update", "--cpu-quota", "30000", limited.id)
    limited.runtime("update", "--cpu-period", "60000", limited.id)
    assert read(limited, "cpu.cfs_quota_us" if V1 else "cpu.max").split()[0] == "30000"


@pytest.mark.parametrize("state", ["created", "paused"])
def test_containers_that_are_not_running_yet_or_now(container, state):
    made = container(resources=START)
    if state == "created":
        made.create("sleep", "100")
    else:
        made.up()
        made.runtime("pause", made.id)
    made.runtime("update", "--pids-limit", "9", made.id)
    assert read(made, "pids.max") == "9"
    assert made.status == state


def test_a_stopped_container_has_no_limits(container):
    made = container().up("true")
    made.wait_for("stopped")
    assert "container not running" in made.runtime("update", "--memory", "64m", made.id, check=False).err


@pytest.mark.parametrize(
    "flags",
    [
        ["--memory", "x"],
        ["--memory", "1.2.3g"],
        ["--memory", "1e9"],
        ["--cpu-share", "-5"],
        ["--cpu-quota", "a"],
        ["--cpuset-cpus", "0-"],
        ["--pids-limit", "many"],
        ["--blkio-weight", "-1"],
        ["--resources", "/missing"],
        ["--resources", "/dev/null"],
    ],
    ids=" ".join,
)
def test_a_value_that_is_none_is_an_error(limited, flags):
    result = limited.runtime("update", *flags, limited.id, check=False)
    assert result.code == 1
    assert len(result.err.splitlines()) == 1


def test_the_rules_for_devices_stay(container, tmp_path):
    made = container().up()
    (tmp_path / "limits").write_text(json.dumps({"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 9}}))
    made.runtime("update", "-r", tmp_path / "limits", made.id)
    assert made.exec("cat", "/dev/null") == ""


def test_devices_of_block_io_one_by_one(container):
    block = sorted(Path("/sys/block").iterdir())
    if not block:
        pytest.skip("no block device")
    major, minor = (block[0] / "dev").read_text().strip().split(":")
    device = {"major": int(major), "minor": int(minor)}
    made = container(resources={"blockIO": {"throttleReadBpsDevice": [{**device, "rate": 1000000}]}}).up()
    document = json.dumps({"blockIO": {"throttleReadBpsDevice": [{**device, "rate": 2000000}]}})
    subprocess.run(made.runtime.command("update", "-r", "-", made.id), input=document.encode(), check=True, timeout=20)
    file = "blkio.throttle.read_bps_device" if V1 else "io.max"
    assert f"{major}:{minor} {'' if V1 else 'rbps='}2000000" in read(made, file)


def test_names_in_letters_of_the_other_case(limited):
    """Go reads such names, and runc writes them. If they were ignored, they would limit nothing."""
    document = json.dumps({"Pids": {"Limit": 6}, "CPU": {"Quota": 40000}})
    command = limited.runtime.command("update", "-r", "-", limited.id)
    subprocess.run(command, input=document.encode(), check=True, timeout=20)
    assert read(limited, "pids.max") == "6"
    assert read(limited, "cpu.cfs_quota_us" if V1 else "cpu.max").split()[0] == "40000"


def test_an_idle_cgroup_has_no_weight(limited):
    result = limited.runtime("update", "--cpu-idle", "1", "--cpu-share", "200", limited.id)
    assert "unable to apply both" in result.err
    assert read(limited, "cpu.idle") == "1"

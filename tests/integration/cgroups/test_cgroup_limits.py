"""linux.resources, read back from the kernel's files, and what the limits do. config-linux.md#control-groups

What stands in a file of v1 or v2 has the controller's name before its first dot. A row is skipped where this host lacks
one of its controllers: v2 with all of them is in the virtual machine (tests/vm/README.md).
"""

import os
import time
from pathlib import Path

import pytest

from integration.support.container import MARK
from integration.support.host import controllers, hierarchies, unified

pytestmark = pytest.mark.vm
MIB = 1 << 20
NO_LIMIT = str((1 << 63) - 4096)  # as v1 shows it
DISK = next((Path(f"/sys/block/{name}/dev").read_text().strip() for name in sorted(os.listdir("/sys/block"))), "8:0")
DEVICE = dict(zip(("major", "minor"), map(int, DISK.split(":")), strict=True))

# name: (linux.resources, files of v1, files of v2); {}: that version has nothing like it
LIMITS = {
    "memory": (
        {"memory": {"limit": 64 * MIB, "reservation": 32 * MIB}},
        {"memory.limit_in_bytes": f"{64 * MIB}", "memory.soft_limit_in_bytes": f"{32 * MIB}"},
        {"memory.max": f"{64 * MIB}", "memory.low": f"{32 * MIB}", "memory.swap.max": "max"},
    ),
    "memory and swap": (
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory.limit_in_bytes": f"{64 * MIB}", "memory.memsw.limit_in_bytes": f"{96 * MIB}"},
        {"memory.max": f"{64 * MIB}", "memory.swap.max": f"{32 * MIB}"},
    ),
    "no swap": (
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory.limit_in_bytes": f"{64 * MIB}", "memory.memsw.limit_in_bytes": f"{64 * MIB}"},
        {"memory.max": f"{64 * MIB}", "memory.swap.max": "0"},
    ),
    "any swap": (
        {"memory": {"limit": 64 * MIB, "swap": -1}},
        {"memory.limit_in_bytes": f"{64 * MIB}", "memory.memsw.limit_in_bytes": NO_LIMIT},
        {"memory.max": f"{64 * MIB}", "memory.swap.max": "max"},
    ),
    "no limit on memory": (
        {"memory": {"limit": -1, "reservation": -1}},
        {f"memory.{name}limit_in_bytes": NO_LIMIT for name in ("", "soft_", "memsw.")},
        {"memory.max": "max", "memory.low": "max", "memory.swap.max": "max"},
    ),
    "swappiness": ({"memory": {"swappiness": 7}}, {"memory.swappiness": "7"}, {}),
    "no swappiness": ({"memory": {"swappiness": 0}}, {"memory.swappiness": "0"}, {"memory.max": "max"}),
    "no OOM killer": (
        {"memory": {"disableOOMKiller": True}},
        {"memory.oom_control": "oom_kill_disable 1\nunder_oom 0\noom_kill 0"},
        {},
    ),
    "TCP buffers": ({"memory": {"kernelTCP": 8 * MIB}}, {"memory.kmem.tcp.limit_in_bytes": f"{8 * MIB}"}, {}),
    "processes": ({"pids": {"limit": 17}}, {"pids.max": "17"}, {"pids.max": "17"}),
    "no limit on processes": ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    "one process": ({"pids": {"limit": 0}}, {"pids.max": "1"}, {"pids.max": "1"}),
    "shares": ({"cpu": {"shares": 512}}, {"cpu.shares": "512"}, {"cpu.weight": "59"}),
    "shares as they are": ({"cpu": {"shares": 1024}}, {"cpu.shares": "1024"}, {"cpu.weight": "100"}),
    "quota and period": (
        {"cpu": {"quota": 20000, "period": 50000}},
        {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "50000"},
        {"cpu.max": "20000 50000"},
    ),
    "quota": (
        {"cpu": {"quota": 20000}},
        {"cpu.cfs_quota_us": "20000", "cpu.cfs_period_us": "100000"},
        {"cpu.max": "20000 100000"},
    ),
    "period": (
        {"cpu": {"period": 50000}},
        {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "50000"},
        {"cpu.max": "max 50000"},
    ),
    "no quota": ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
    "burst": (
        {"cpu": {"quota": 20000, "burst": 10000}},
        {"cpu.cfs_quota_us": "20000", "cpu.cfs_burst_us": "10000"},
        {"cpu.max": "20000 100000", "cpu.max.burst": "10000"},
    ),
    "idle": ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}, {"cpu.idle": "1"}),
    "CPUs and nodes": (
        {"cpu": {"cpus": "0", "mems": "0"}},
        {"cpuset.cpus": "0", "cpuset.mems": "0"},
        {"cpuset.cpus": "0", "cpuset.mems": "0"},
    ),
    "weight of I/O": ({"blockIO": {"weight": 500}}, {"blkio.bfq.weight": "500"}, {"io.weight": "default 4950"}),
    "rates of I/O": (
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**DEVICE, "rate": 5 * MIB}],
                "throttleWriteBpsDevice": [{**DEVICE, "rate": 6 * MIB}],
                "throttleReadIOPSDevice": [{**DEVICE, "rate": 700}],
                "throttleWriteIOPSDevice": [{**DEVICE, "rate": 800}],
            }
        },
        {
            "blkio.throttle.read_bps_device": f"{DISK} {5 * MIB}",
            "blkio.throttle.write_bps_device": f"{DISK} {6 * MIB}",
            "blkio.throttle.read_iops_device": f"{DISK} 700",
            "blkio.throttle.write_iops_device": f"{DISK} 800",
        },
        {"io.max": f"{DISK} rbps={5 * MIB} wbps={6 * MIB} riops=700 wiops=800"},
    ),
    "huge pages": (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]},
        {"hugetlb.2MB.limit_in_bytes": f"{4 * MIB}", "hugetlb.2MB.rsvd.limit_in_bytes": f"{4 * MIB}"},
        {"hugetlb.2MB.max": f"{4 * MIB}", "hugetlb.2MB.rsvd.max": f"{4 * MIB}"},
    ),
    "class of packets": ({"network": {"classID": 0x100001}}, {"net_cls.classid": f"{0x100001}"}, {}),
    "files of v2": (
        {"unified": {"memory.high": f"{48 * MIB}", "memory.oom.group": "1", "pids.max": "19"}},
        {},
        {"memory.high": f"{48 * MIB}", "memory.oom.group": "1", "pids.max": "19"},
    ),
    "a file of v2 that takes a setting a line": (
        {"unified": {"io.max": f"{DISK} rbps=1048576\n{DISK} wiops=90"}},
        {},
        {"io.max": f"{DISK} rbps=1048576 wbps=max riops=max wiops=90"},
    ),
}


def needs(*names):
    missing = [name for name in names if name not in controllers()]
    if missing:
        pytest.skip(f"no controller here: {', '.join(missing)}")


def controllers_of(files):
    return {file.partition(".")[0] for file in files}


def is_known(file):
    """Whether v1 has the file here. A new cgroup is looked at: the root of a hierarchy lacks some files."""
    folder = Path(hierarchies()[file.partition(".")[0]], f"{MARK}-probe")
    folder.mkdir()
    try:
        return (folder / file).exists()
    finally:
        folder.rmdir()


@pytest.mark.parametrize("name", [name for name in LIMITS if LIMITS[name][1 + unified()]])
def test_a_limit_stands_in_the_kernels_files(container, name):
    resources, *files = LIMITS[name]
    expected = files[unified()]
    needs(*controllers_of(expected))
    if not unified() and not all(map(is_known, expected)):
        pytest.skip("a file that this kernel doesn't have")
    c = container(resources=resources).up()
    assert {file: c.control_file(file).read_text().strip() for file in expected} == expected


@pytest.mark.parametrize("name", [name for name in LIMITS if not LIMITS[name][1 + unified()]])
def test_a_limit_that_this_version_of_cgroups_does_not_have_is_refused(container, name):
    resources, *_ = LIMITS[name]
    (member,) = resources
    assert member in container(resources=resources).refused("true")


def test_limits_in_two_spellings_are_one_object(container):
    """Go compares names without regard to case."""
    needs("cpu", "pids")
    c = container(resources={"cpu": {"shares": 512}, "CPU": {"Quota": 40000, "shares": 3}, "Pids": {"Limit": 7}}).up()
    files = ("cpu.max", "cpu.weight") if unified() else ("cpu.cfs_quota_us", "cpu.shares")
    expected = ["40000 100000", "59"] if unified() else ["40000", "512"]
    assert [c.control_file(file).read_text().strip() for file in (*files, "pids.max")] == [*expected, "7"]


# --- what they do


def test_a_program_that_takes_more_memory_is_killed(container):
    needs("memory")
    c = container(resources={"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    assert c.attempt("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1").code == 137


def test_a_program_that_forks_more_is_stopped(container):
    needs("pids")
    c = container(resources={"pids": {"limit": 4}})
    assert "can't fork" in c.attempt("sh", "-c", "sleep 1 & sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait").err


def test_a_program_gets_no_more_of_the_cpu_than_its_quota(container):
    needs("cpu")
    c = container(resources={"cpu": {"quota": 20000, "period": 100000}}).up("sh", "-c", "while :; do :; done")

    def used():
        fields = Path(f"/proc/{c.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = used(), time.monotonic()
    time.sleep(2)
    share = (used() - before) / (time.monotonic() - began)
    assert 0.02 < share < 0.3, share  # 0.2, but for the kernel's granularity


def test_a_program_runs_on_the_cpus_of_its_set(container):
    needs("cpuset")
    c = container(resources={"cpu": {"cpus": "0", "mems": "0"}})
    assert c.sh("grep Cpus_allowed_list /proc/self/status").split()[1] == "0"


def test_cpus_that_are_not_there_are_an_error(container):
    needs("cpuset")
    assert "cpuset.cpus" in container(resources={"cpu": {"cpus": "4000-4001"}}).refused("true")


def test_a_limit_that_the_kernel_refuses_names_file_and_value(container):
    needs("cpu", "pids")
    error = container(resources={"pids": {"limit": 5}, "cpu": {"period": 1}}).refused("true")
    assert "1" in error
    assert "cpu" in error


def test_no_more_huge_pages_than_the_limit(container):
    needs("hugetlb")
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    pool.write_text("8")
    try:
        if int(pool.read_text()) < 8:
            pytest.skip("the kernel has no eight huge pages in a row")
        c = container(resources={"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}).up()
        assert [c.exec("probe", "huge", str(size * MIB)) for size in (2, 4, 6)] == ["had", "had", "ENOMEM"]
    finally:
        pool.write_text(before)


def test_two_containers_share_a_cpu_as_their_shares_say(container):
    """The shares are 2:1, and both want the same CPU."""
    if "cpu" not in controllers() or "cpuset" not in controllers():
        pytest.skip("no controller here: cpu, cpuset")
    limits = [{"cpu": {"shares": shares, "cpus": "0"}} for shares in (2048, 1024)]
    made = [container(resources=each).up("sh", "-c", "while :; do :; done") for each in limits]
    before = [used(each) for each in made]
    time.sleep(3)
    first, second = (used(each) - start for each, start in zip(made, before, strict=True))
    assert 1.5 < first / second < 2.6


def used(made):
    """The CPU time of its first process, in ticks."""
    fields = Path(f"/proc/{made.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_writing_to_a_device_is_throttled(container, tmp_path):
    """Two megabytes are written, at one megabyte a second."""
    device = os.stat(tmp_path).st_dev
    place = f"{os.major(device)}:{os.minor(device)}"
    if not {"blkio", "io"} & set(controllers()) or not os.path.exists(f"/sys/dev/block/{place}"):
        pytest.skip("no controller here for block devices, or no block device below the tests' folder")
    throttle = [{"major": os.major(device), "minor": os.minor(device), "rate": MIB}]
    (tmp_path / "disk").mkdir()
    mount = {"destination": "/disk", "type": "bind", "source": str(tmp_path / "disk"), "options": ["bind"]}
    write = ["dd", "if=/dev/zero", "of=/disk/file", "bs=64k", "count=32", "oflag=direct"]
    started = time.monotonic()
    container(mounts=[mount], resources={"blockIO": {"throttleWriteBpsDevice": throttle}}).run(*write)
    assert time.monotonic() - started > 1.4

"""A test for each advisory about procfs and sysfs: what is mounted there, and what is written to them."""

import os
import subprocess
from pathlib import Path

import pytest

from integration.support.attacks import bound, replace, without_mounts
from integration.support.bundle import OWN_USERS, full, namespaces
from integration.support.host import cgroups_of, unchanged
from integration.support.runtime import wait_until


@pytest.mark.parametrize(
    "place",
    [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/self/attr/exec",
        "/proc/sys",
        "/proc/sys/net",
        "/proc/sys/kernel/core_pattern",
        "/proc/thread-self",
        "/proc/../proc/self",
        "//proc//self/",
        "/link/self",
    ],
)
def test_cve_2019_16884_cve_2025_52881_nothing_is_mounted_over_what_is_written_to(container, tmp_path, place):
    """Labels and parameters are written to a real /proc. A folder of a volume with attr/ in it could take them."""
    (tmp_path / "fake/attr").mkdir(parents=True)
    for mount in ({"type": "tmpfs", "source": "tmpfs"}, bound(tmp_path / "fake", place, "rbind")):
        c = replace(container(), "/link", "proc").change(mounts=[{**mount, "destination": place}])
        assert "proc" in c.refused("true")


@pytest.mark.parametrize("name", ["cpuinfo", "meminfo", "stat", "uptime", "loadavg", "swaps", "diskstats"])
def test_single_files_of_procfs_may_be_replaced(container, tmp_path, name):
    """lxcfs does this."""
    (tmp_path / "fake").write_text("fake")
    assert container(mounts=[bound(tmp_path / "fake", f"/proc/{name}")]).run("cat", f"/proc/{name}") == "fake"


def hostile_procfs(rootfs):
    """A /proc of plain files: what the runtime writes would land in a file of the attacker's."""
    for name in ("self", "thread-self"):
        (rootfs / "fake" / name / "attr/apparmor").mkdir(parents=True)
        for file in ("attr/exec", "attr/current", "attr/apparmor/exec", "oom_score_adj", "setgroups", "uid_map"):
            (rootfs / "fake" / name / file).symlink_to("/fake/sys/kernel/core_pattern")
        (rootfs / "fake" / name / "fd").mkdir()
        for number in range(40):
            (rootfs / "fake" / name / "fd" / str(number)).symlink_to("/fake/sys/kernel/core_pattern")
    (rootfs / "fake/sys/kernel").mkdir(parents=True)
    (rootfs / "fake/sys/net/ipv4").mkdir(parents=True)
    (rootfs / "fake/sys/kernel/core_pattern").write_text("untouched")
    (rootfs / "fake/sys/net/ipv4/ip_forward").symlink_to("/fake/sys/kernel/core_pattern")
    return rootfs / "fake"


@pytest.fixture
def covered(container):
    """A container that runs, and has mounted a folder over its /proc."""
    c = container(capabilities=full("CAP_SYS_ADMIN"))
    c.fake = hostile_procfs(c.bundle.rootfs)
    c.up("sh", "-c", "mount -o bind /fake /proc && touch /ready && exec sleep 1000")
    wait_until((c.bundle.rootfs / "ready").exists, "the mount")
    return c


def test_cve_2025_52881_what_exec_writes_is_not_taken_by_a_procfs_that_was_covered(covered, tmp_path):
    process = tmp_path / "process.json"
    process.write_text(
        '{"args": ["sh", "-c", "cat /proc/self/oom_score_adj"], "cwd": "/", "env": ["PATH=/bin"], '
        '"user": {"uid": 0, "gid": 0}, "oomScoreAdj": 567, "apparmorProfile": "unconfined", "selinuxLabel": "a:b:c"}'
    )
    with unchanged(covered.fake):
        assert covered.runtime("exec", "--process", process, covered.id).out == "untouched"
    process.write_text(process.read_text().replace("cat /proc/self/oom_score_adj", "sleep 1000"))
    covered.runtime("exec", "-d", "--process", process, "--pid-file", tmp_path / "pid", covered.id)
    pid = (tmp_path / "pid").read_text()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "567\n"


def test_cve_2025_52881_what_create_writes_is_not_taken_by_a_procfs_of_others(covered, container):
    """In a mount namespace that is somebody else's."""
    joined = namespaces("network", mount=f"/proc/{covered.pid}/ns/mnt")
    c = container(namespaces=joined, sysctl={"net.ipv4.ip_forward": "1"}, oomScoreAdj=567)
    c.config["root"]["path"] = "/"
    c.config["mounts"] = []
    with unchanged(covered.fake):
        c.up("/bin/sleep", "1000")
        assert Path(f"/proc/{c.pid}/oom_score_adj").read_text() == "567\n"
        entered = ("nsenter", f"--net=/proc/{c.pid}/ns/net", "cat", "/proc/sys/net/ipv4/ip_forward")
        assert subprocess.run(entered, capture_output=True, timeout=60, check=True).stdout == b"1\n"


def test_cve_2025_52881_parameters_are_set_whatever_the_configuration_mounts(container, tmp_path):
    (tmp_path / "fake").write_text("0")
    c = container(sysctl={"net.ipv4.ip_forward": "1"}, mounts=[bound(tmp_path / "fake", "/proc/uptime")])
    assert c.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1"
    assert (tmp_path / "fake").read_text() == "0"


@pytest.mark.parametrize("sys", ["sysfs", "rbind"])
def test_cve_2023_25809_cgroups_are_read_only_without_a_namespace_of_their_own(container, sys):
    """In a user namespace the mount was a plain bind of the host's, that could be written to."""
    c = container(**OWN_USERS).reachable()
    if sys == "rbind":
        c = without_mounts(c, "/sys").change(mounts=[bound("/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")])
    options = ["nosuid", "noexec", "nodev", "relatime", "ro"]
    c.change(
        mounts=[{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}],
        capabilities=full("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_CHOWN"),
    )
    script = """
        for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
            mkdir $d/new && echo made $d; echo 0 > $d/cgroup.procs && echo joined $d
            mount -o remount,rw $d && echo rw $d
        done 2>/dev/null; true"""
    c.up()
    for path in cgroups_of(c.id):  # what an engine may have delegated
        os.chown(path, 100000, 100000)
        os.chown(f"{path}/cgroup.procs", 100000, 100000)
    assert c.exec_sh(script) == ""

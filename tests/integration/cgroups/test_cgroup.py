"""A container's cgroup: where it is, what it may hold, its devices and its freezer. config-linux.md#control-groups

Nothing of this needs a controller of v2, so it is tested with v2 alone on every host, beside what the host has.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, full, namespaces
from integration.support.container import MARK
from integration.support.host import cgroups_of, hierarchies, host_mounts, unified
from integration.support.runtime import Running, wait_until


@pytest.fixture(autouse=True, params=["the host's"] if unified() else ["the host's", "v2 alone"])
def version(request):
    if request.param == "v2 alone":
        request.getfixturevalue("cgroup2_alone")


def a_hierarchy():
    """The mount point of a hierarchy that every container is in."""
    found = hierarchies()
    return Path(found[""] if unified() else found["pids"])


# --- where it is


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


@pytest.mark.parametrize("path", ["/cgroup.procs/x", "/" + "x" * 256, f"/{'y' * 200}" * 25], ids=len)
def test_a_cgroup_that_can_never_be_made_leaves_nothing(container, path):
    assert "cgroup" in container(cgroupsPath=path).refused("true")


def test_a_cgroup_with_processes_in_it_is_refused(container, tmp_path):
    name = f"{MARK}-used"
    folder = a_hierarchy() / name
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


def test_a_frozen_cgroup_is_refused(container):
    name = f"{MARK}-frozen"
    file, frozen, thawed = ("cgroup.freeze", "1", "0") if unified() else ("freezer.state", "FROZEN", "THAWED")
    folder = Path(hierarchies()["" if unified() else "freezer"], name)
    folder.mkdir()
    (folder / file).write_text(frozen)
    try:
        assert "frozen" in container(cgroupsPath=f"/{name}").attempt("true", timeout=60).err
    finally:
        (folder / file).write_text(thawed)
        folder.rmdir()


def test_a_cgroup_mount_shows_only_the_containers_cgroup(container):
    mount = {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    }
    folder = "/sys/fs/cgroup" if unified() else "/sys/fs/cgroup/pids"
    c = container(mounts=[mount], namespaces=namespaces(*NAMESPACES, "cgroup"))
    out = c.sh(f"cat {folder}/cgroup.procs | head -1; mkdir {folder}/x 2>&1; ls /sys/fs/cgroup")
    assert out.split()[0] == "1"
    assert "Read-only" in out


@pytest.mark.vm
def test_a_cgroup_mount_leaves_the_options_of_the_hosts(container):
    """runc#5258: nsdelegate and memory_recursiveprot, which systemd sets, are the same for all mounts of cgroup v2."""
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}
    before = host_mounts()
    for kinds in (NAMESPACES, (*NAMESPACES, "cgroup")):
        c = container(mounts=[mount], namespaces=namespaces(*kinds))
        assert "Read-only" in c.sh(f"mkdir /sys/fs/cgroup/{MARK} 2>&1; true")
    assert host_mounts() == before


@pytest.mark.vm
@pytest.mark.parametrize("below", ["", "/sub"])
def test_below_a_cgroup_with_processes_a_container_has_no_controllers(container, tmp_path, below):
    """The kernel of v2 offers some. With them the cgroup becomes a threaded one, and takes no process any more."""
    if not unified():
        pytest.skip("a rule of v2")
    folder = a_hierarchy() / f"{MARK}-parent"
    folder.mkdir()
    other = Running(["sleep", "1000"], str(tmp_path / "other"), stdin=subprocess.DEVNULL)
    try:
        (folder / "cgroup.procs").write_text(str(other.pid))
        c = container(cgroupsPath=f"/{MARK}-parent{below}/child").up()
        assert (folder / "cgroup.type").read_text() == "domain\n"
        c.delete("--force")
    finally:
        other.kill()
        other.end()
        for path in sorted(cgroups_of(folder.name), reverse=True):
            os.rmdir(path)


# --- its processes


def test_pause_stops_every_process_and_resume_lets_them_go_on(container):
    c = container().up("sh", "-c", "while :; do date +%s.%N > /tmp/now; sleep 0.01; done")
    file = c.bundle.rootfs / "tmp/now"
    wait_until(file.exists, "the program to begin")
    c.runtime("pause", c.id)
    assert c.status == "paused"
    before = file.read_text()
    assert not wait_until(lambda: [file.read_text() != before], "a moment")[0]
    c.runtime("resume", c.id)
    assert c.status == "running"
    wait_until(lambda: file.read_text() != before, "the program to go on")


def test_a_paused_container_is_killed(container):
    c = container().up("sh", "-c", "sleep 1000 & sleep 1000")
    c.runtime("pause", c.id)
    c.kill("KILL")
    c.wait_for("stopped")
    c.delete()
    c.assert_gone()


def test_a_paused_container_is_deleted_by_force(container):
    c = container(namespaces=namespaces("mount")).up("sh", "-c", "sleep 1000 & sleep 1000")
    c.runtime("pause", c.id)
    c.delete("--force")
    c.assert_gone()


def test_processes_in_cgroups_that_the_container_made_are_killed_with_it(container):
    """The container has the host's process namespace: only the cgroup says which processes are its own."""
    c = container(namespaces=namespaces("mount")).up()
    (path,) = [path for path in cgroups_of(c.id) if path.startswith(f"{a_hierarchy()}/")]
    os.mkdir(f"{path}/below")
    other = c.runtime.spawn("exec", c.id, "sh", "-c", "sleep 1000 & sleep 1000")
    wait_until(lambda: len(Path(path, "cgroup.procs").read_text().split()) > 2, "the other processes")
    for pid in Path(path, "cgroup.procs").read_text().split():
        if int(pid) != c.pid:
            Path(path, "below/cgroup.procs").write_text(pid)
    c.delete("--force")
    other.end()
    c.assert_gone()


# --- its devices

KMSG = {"type": "c", "major": 1, "minor": 11}
NOTHING = {"allow": False, "access": "rwm"}


def opens(container, rules, access="0x800"):
    """How the kernel refuses a device that runtimes do not allow to a process that may do everything else."""
    c = container(
        devices=[{"path": "/dev/log", **KMSG}],
        resources={"devices": rules},
        capabilities=full("CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"),
    )
    return c.run("probe", "open", "/dev/log", access)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "EPERM"),
        ([NOTHING], "EPERM"),
        ([NOTHING, {"allow": True, **KMSG, "access": "r"}], "opened"),
        ([NOTHING, {"allow": True, **KMSG, "access": "w"}], "EPERM"),
        ([NOTHING, {"allow": True, "type": "c", "major": 1, "access": "r"}], "opened"),
        ([NOTHING, {"allow": True, "type": "b", "major": 1, "minor": 11, "access": "rwm"}], "EPERM"),
        ([{"allow": True, **KMSG, "access": "rwm"}, {"allow": False, **KMSG, "access": "rwm"}], "EPERM"),
        ([{"allow": False, **KMSG, "access": "rwm"}, {"allow": True, **KMSG, "access": "rwm"}], "opened"),
        ([{"allow": True, "access": "rwm"}], "opened"),
        ([NOTHING, {"allow": True, "access": "w"}], "EPERM"),
        ([NOTHING, {"allow": True, "type": "a", "major": 1, "minor": 12, "access": "rwm"}], "EPERM"),
        ([NOTHING, {"allow": True, "major": 1, "minor": 11, "access": "r"}], "opened"),
        ([{"allow": True, **KMSG, "access": "rwm"}, {"allow": False, "major": 1, "access": "rwm"}], "EPERM"),
        ([{"allow": True, "access": "rwm"}, {"allow": False, **KMSG, "access": "r"}], "EPERM"),
    ],
)  # fmt: skip
def test_a_device_may_be_used_if_the_last_rule_that_matches_it_allows_that(container, rules, expected):
    assert opens(container, rules) == expected


def test_root_who_is_told_to_be_rootless_forbids_devices_all_the_same(container, runtime):
    c = container(
        devices=[{"path": "/dev/log", **KMSG}],
        resources={"devices": [NOTHING]},
        capabilities=full("CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"),
    )
    c._prepare(("probe", "open", "/dev/log", "0x800"))
    assert runtime("--rootless=true", "run", "--bundle", c.bundle.path, c.id).out == "EPERM\n"


def test_an_exception_from_what_is_allowed(container):
    """v1 has none, and the kernel does not say so."""
    rules = [NOTHING, {"allow": True, "type": "c", "access": "rwm"}, {"allow": False, **KMSG, "access": "rwm"}]
    if unified():
        assert opens(container, rules) == "EPERM"
    else:
        said = container(resources={"devices": rules}).refused("true")
        assert "cgroup v1 can't except c 1:11 rwm from c *:* rwm" in said


def test_the_devices_that_every_container_may_use(container):
    c = container(resources={"devices": [NOTHING]})
    said = c.sh("for d in null zero full random urandom; do probe open /dev/$d 0; done; probe open /dev/ptmx 2")
    assert said.split() == ["opened"] * 6


@pytest.mark.vm
def test_the_rules_hold_for_processes_of_exec(container):
    c = container(
        devices=[{"path": "/dev/log", **KMSG}],
        resources={"devices": [NOTHING]},
        capabilities=full("CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"),
    ).up()
    assert c.exec("probe", "open", "/dev/log", "0x800") == "EPERM"


# --- without one


def in_a_host_without(*hierarchies_):
    return ("unshare", "-m", "sh", "-c", f'umount {" ".join(hierarchies_)} && exec "$@"', "sh")


@pytest.mark.parametrize(
    ("controller", "resources"),
    [
        ("devices", {}),
        ("devices", {"devices": [NOTHING]}),
        ("memory", {"memory": {"limit": 64 << 20}}),
        ("memory", {"memory": {"swappiness": 0}}),
        ("cpu", {"cpu": {"shares": 512}}),
        ("cpuset", {"cpu": {"cpus": "0"}}),
        ("pids", {"pids": {"limit": 20}}),
        ("pids", {"pids": {"limit": 0}}),
        ("blkio", {"blockIO": {"weight": 100}}),
    ],
)
def test_a_limit_that_nothing_holds_is_refused(container, controller, resources):
    """Else a container could use every device of the host, or all of its memory, and nobody would be told."""
    if unified():
        pytest.skip("v2's controllers have no mounts of their own")
    wrapper = in_a_host_without(hierarchies()[controller])
    assert f"controller {controller}" in container(resources=resources).refused("true", wrapper=wrapper)


def test_a_host_without_cgroups_has_no_containers_of_roots(container):
    wrapper = in_a_host_without(*{*hierarchies().values()})
    assert "devices" in container().refused("true", wrapper=wrapper)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which makes system calls fail, is not installed")
@pytest.mark.parametrize(
    ("call", "error"), [("openat", "EMFILE"), ("statfs,fstatfs", "ENOMEM"), ("statfs,fstatfs", "EINTR")]
)
def test_a_call_that_fails_does_not_say_that_there_are_no_cgroups(container, call, error):
    place = hierarchies()["" if unified() else "devices"]
    failing = ("-P", place, "-e", f"trace={call}", "-e", f"inject={call}:error={error}")
    wrapper = ("strace", "-f", "-qq", "-o", "/dev/null", *failing)
    assert f"looking for cgroups at {place}" in container().refused("true", wrapper=wrapper)


def take_away(path, pid):
    """Its process goes to the root: on v2 no other cgroup takes processes while it passes controllers on."""
    root = next(mount for mount in hierarchies().values() if path.startswith(f"{mount}/"))
    Path(root, "cgroup.procs").write_text(str(pid))
    os.rmdir(path)


def test_exec_into_a_container_whose_cgroup_is_gone_is_refused(container):
    """Else the process would be in the caller's cgroup, without the container's limits and rules."""
    c = container().up()
    for path in cgroups_of(c.id):
        take_away(path, c.pid)
    result = c.attempt_exec("true")
    assert (result.code, "error adding a process to cgroups" in result.err) == (255, True), result
    c.delete("--force")
    c.assert_gone()


def test_exec_into_a_container_of_which_one_cgroup_is_gone_is_refused(container):
    if unified():
        pytest.skip("there is one only")
    c = container().up()
    (path,) = [path for path in cgroups_of(c.id) if "/devices/" in path]
    take_away(path, c.pid)
    result = c.attempt_exec("true")
    assert (result.code, "devices" in result.err) == (255, True), result


def test_systemds_cgroups_without_systemd(container):
    """It is refused before anything is made."""
    c = container()
    c._prepare(("true",))
    wrapper = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    for verb in ("create", "run"):
        command = [*wrapper, c.runtime.binary, "--root", str(c.runtime.root), "--systemd-cgroup", verb]
        result = subprocess.run(
            [*command, "--bundle", str(c.bundle.path), c.id], capture_output=True, text=True, timeout=30, check=False
        )
        assert (result.returncode, "systemd not running on this host" in result.stderr) == (1, True), result
        assert len(result.stderr.splitlines()) == 1
        assert not c.runtime.root.exists()
        c.assert_gone()

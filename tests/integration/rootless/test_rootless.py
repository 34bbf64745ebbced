"""Callers who are not root: `spec --rootless` and every verb, from a cgroup that was delegated to them, and from none.

The cgroup is v2's, as the kernel delegates it: a directory that belongs to the user. cgroups(7), delegation
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.support.container import MARK, Container
from integration.support.host import cgroups_of, controllers, hierarchies, unified
from integration.support.runtime import Runtime, wait_until

UID = 1000  # in the virtual machine this is the user `rootless`
SYSTEMD = Path("/run/systemd/system").is_dir() and Path(f"/run/user/{UID}/bus").exists()
IN_A_SCOPE = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "env", f"XDG_RUNTIME_DIR=/run/user/{UID}",
              "systemd-run", "--user", "--scope", "--quiet")  # fmt: skip
WITH_SYSTEMD = IN_A_SCOPE[: IN_A_SCOPE.index("systemd-run")]
AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "env", "-u", "XDG_RUNTIME_DIR")
MIB = 1 << 20
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # with the directory itself


class Rootless(Runtime):
    """The binary as a user calls it."""

    def __init__(self, runtime, folder, prefix):
        super().__init__(runtime.binary, folder / "state", runtime.scratch)
        self.count = 20_000
        self.prefix = prefix
        self.driver = ("--systemd-cgroup",) if prefix == WITH_SYSTEMD else ()

    def command(self, *words):
        return [*self.prefix, *super().command(*self.driver, *words)]


@pytest.fixture(autouse=True)
def alone(request, binary):
    if not unified():
        request.getfixturevalue("cgroup2_alone")
    if subprocess.run([*AS_USER, binary, "--version"], capture_output=True).returncode:
        pytest.skip(f"users can't run {binary}")


@pytest.fixture
def delegated():
    """A cgroup that belongs to the user, with the controllers that there are, and one in it that he is in."""
    (mount,) = hierarchies().values()
    folder = Path(mount, f"{MARK}-user")
    folder.mkdir()
    available = [f"+{name}" for name in controllers()]
    Path(mount, "cgroup.subtree_control").write_text(" ".join(available))
    (folder / "cgroup.subtree_control").write_text(" ".join(available))
    (folder / "session").mkdir()
    for place in (folder, folder / "session"):
        for file in (place, *(place / name for name in DELEGATED)):
            os.chown(file, UID, UID)
    yield folder
    wait_until(lambda: not (folder / "session/cgroup.procs").read_text(), "the user to leave")
    for path in sorted(cgroups_of(folder.name), reverse=True):
        os.rmdir(path)


@pytest.fixture
def make(runtime, bundle, tmp_path, delegated):
    """A container of the user's, from what `spec --rootless` gives him, with limits if they are named."""
    made = []

    inside = ("sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(delegated / "session"), *AS_USER)

    def make(prefix=inside, **resources):
        folder = tmp_path / f"user{len(made)}"
        (folder / "state").mkdir(parents=True)
        c = Container(Rootless(runtime, folder, prefix), bundle(), f"{MARK}-rootless{len(made)}").reachable()
        made.append(c)
        for place, _, files in os.walk(c.bundle.path):
            for file in (place, *(os.path.join(place, name) for name in files)):
                if os.path.isfile(file) and not os.path.islink(file) and os.stat(file).st_nlink > 1:
                    shutil.copy2(file, f"{file}.own")  # the programs are links to those of all images
                    os.replace(f"{file}.own", file)
                os.chown(file, UID, UID, follow_symlinks=False)
        for place in (folder, folder / "state"):
            os.chown(place, UID, UID)
        c.runtime("spec", "--rootless", "--bundle", c.bundle.path)
        c.bundle.config = json.loads((c.bundle.path / "config.json").read_text())
        c.config["process"]["terminal"] = False
        c.config["process"]["env"] = ["PATH=/bin"]
        if resources:
            c.config["linux"]["resources"] = resources
        return c

    yield make
    for c in made:
        c.delete("--force", check=False)
        c.assert_gone()


@pytest.mark.vm
def test_run(make):
    c = make()
    assert c.sh("id -u; cat /proc/self/uid_map").split() == ["0", "0", f"{UID}", "1"]
    assert c.attempt("sh", "-c", "exit 7").code == 7


def test_run_without_a_cgroup_of_ones_own(make):
    assert make(prefix=AS_USER).run("id", "-u") == "0"


def test_root_of_a_user_namespace_is_a_user_too(make, tmp_path):
    """Rootless Podman calls a runtime so. The cgroups and the state are the user's, not those of the host's root."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    os.chown(folder, UID, UID)
    inside = (*AS_USER, f"XDG_RUNTIME_DIR={folder}", "unshare", "--map-root-user", "--mount")
    c = make(prefix=inside)
    assert c.run("id", "-u") == "0"
    subprocess.run(
        [*inside, c.runtime.binary, "run", "--bundle", c.bundle.path, c.id], check=True, stdin=subprocess.DEVNULL
    )
    assert (folder / "pyrunc").stat().st_mode & 0o7777 == 0o1700


def test_exec_by_root_of_a_user_namespace(make):
    """Rootless Podman does this. The user may enter a process namespace, but not go back to his own, the host's."""
    c = make(prefix=AS_USER)
    c.config["process"]["args"] = ["sleep", "1000"]
    for kind in ("uidMappings", "gidMappings"):
        c.config["linux"][kind] = [{"containerID": 0, "hostID": 0, "size": 1}]
    c.bundle.write()
    pyrunc = f"{c.runtime.binary} --root {c.runtime.root}"
    script = f"{pyrunc} run -d --bundle {c.bundle.path} {c.id} && {pyrunc} exec {c.id} id -u; {pyrunc} delete -f {c.id}"
    words = [*AS_USER, "unshare", "--map-root-user", "--mount", "sh", "-c", script]
    with open(c.bundle.path / "out", "w") as out:
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=60)
    assert (c.bundle.path / "out").read_text() == "0\n"


@pytest.mark.vm
def test_the_verbs(make):
    c = make()
    c.create("sh", "-c", "sleep 1000")
    assert c.status == "created"
    c.start()
    assert c.status == "running"
    assert Path(f"/proc/{c.pid}").stat().st_uid == UID
    assert c.exec_sh("id -u; exit 0") == "0"
    assert c.attempt_exec("sh", "-c", "exit 3").code == 3
    assert c.id in c.runtime("list", "-q").out
    c.kill("KILL")
    c.wait_for("stopped")
    c.delete()
    c.assert_gone()


def test_exec_into_what_waits_for_start(make):
    """The caller has no capability over the host's user namespace, in which the interpreter was executed."""
    c = make()
    c.create("true")
    assert c.exec("id", "-u") == "0"
    assert c.status == "created"
    c.start()
    c.wait_for("stopped")


def test_a_time_namespace(make):
    c = make()
    c.config["linux"]["namespaces"] += [{"type": "time"}]
    c.config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000}}
    assert c.sh("cat /proc/self/timens_offsets").split()[-3:] == ["boottime", "1000000", "0"]


def test_no_cgroup_and_no_process_namespace_are_a_doubt(make):
    c = make(prefix=AS_USER)
    c.config["linux"]["namespaces"] = [n for n in c.config["linux"]["namespaces"] if n["type"] != "pid"]
    options = ["rbind", "nosuid", "nodev", "noexec"]
    proc = {"destination": "/proc", "type": "none", "source": "/proc", "options": options}
    c.config["mounts"] = [proc if mount["type"] == "proc" else mount for mount in c.config["mounts"]]
    assert "strongly discouraged" in c.attempt("true").err


@pytest.mark.vm
def test_the_cgroup_is_beside_the_callers(make, delegated):
    c = make().up()
    assert Path(f"/proc/{c.pid}/cgroup").read_text().strip().endswith(f"/{delegated.name}/{c.id}")
    assert c.exec("cat", "/proc/self/cgroup") == c.exec("cat", "/proc/1/cgroup")


@pytest.mark.vm
def test_pause_and_resume(make, delegated):
    c = make().up()
    c.runtime("pause", c.id)
    assert c.status == "paused"
    assert (delegated / c.id / "cgroup.events").read_text().split()[-2:] == ["frozen", "1"]
    c.runtime("resume", c.id)
    assert c.status == "running"


def test_delete_by_force_ends_all_its_processes(make):
    c = make().up("sh", "-c", "sleep 1000 & sleep 1000")
    c.delete("--force")
    c.assert_gone()


def test_the_kernels_devices_are_there(make):
    c = make()
    assert c.sh("for d in null zero full random urandom; do probe open /dev/$d 0; done").split() == ["opened"] * 5


@pytest.mark.vm
@pytest.mark.parametrize(
    ("controller", "resources", "files"),
    [
        ("memory", {"memory": {"limit": 32 * MIB}}, {"memory.max": f"{32 * MIB}"}),
        ("pids", {"pids": {"limit": 9}}, {"pids.max": "9"}),
        ("cpu", {"cpu": {"quota": 20000, "period": 100000}}, {"cpu.max": "20000 100000"}),
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, {"hugetlb.2MB.max": "0"}),
    ],
)
def test_limits_of_a_delegated_controller(make, delegated, controller, resources, files):
    if controller not in controllers():
        pytest.skip(f"no controller here: {controller}")
    c = make(**resources).up()
    assert {file: (delegated / c.id / file).read_text().strip() for file in files} == files


def test_limits_without_a_cgroup_of_ones_own_are_refused(make):
    error = make(prefix=AS_USER, memory={"limit": 32 * MIB}).refused("true")
    assert "cannot set memory limit: container could not join or create cgroup" in error


@pytest.mark.vm
def test_a_cgroup_of_somebody_else_is_refused(make):
    c = make()
    c.config["linux"]["cgroupsPath"] = f"/{MARK}-not-mine"
    error = c.refused("true")
    assert "unable to apply cgroup configuration" in error
    assert "permission denied" in error


@pytest.mark.vm
def test_ids_that_etc_subuid_gives_him(make):
    if f"{UID}:" not in Path("/etc/subuid").read_text() and "rootless:" not in Path("/etc/subuid").read_text():
        pytest.skip("the user has no subordinate IDs here")
    c = make()
    for kind in ("uidMappings", "gidMappings"):
        c.config["linux"][kind] += [{"containerID": 1, "hostID": 100000, "size": 1000}]
    c.config["process"]["user"] = {"uid": 5, "gid": 6}
    assert c.sh("id -u; id -g").split() == ["5", "6"]


def test_the_programs_that_map_ids_may_lie_elsewhere(make, tmp_path):
    """NixOS has them in /run/wrappers/bin. They are found by the caller's PATH."""
    tmp_path.chmod(0o711)
    folder = tmp_path / "wrappers"
    folder.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {folder}/log\nexit 1\n")
        (folder / name).chmod(0o755)
    (folder / "log").touch()
    (folder / "log").chmod(0o666)
    c = make()
    for kind in ("uidMappings", "gidMappings"):
        c.config["linux"][kind] += [{"containerID": 1, "hostID": 100000, "size": 1000}]
    error = c.refused("true", env={**os.environ, "PATH": f"relative:{folder}:{os.environ['PATH']}"})
    assert "newgidmap refused" in error
    assert (folder / "log").read_text() == "newgidmap\n"


@pytest.mark.vm
@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param({"prefix": WITH_SYSTEMD}, marks=pytest.mark.skipif(not SYSTEMD, reason="no instance of systemd")),
    ],
    ids=["delegated", "systemd"],
)
def test_limits_are_kept_and_changed(make, how):
    if not {"memory", "pids"} <= controllers():
        pytest.skip("no controller here: memory, pids")
    c = make(**how, memory={"limit": 32 * MIB, "swap": 32 * MIB}, pids={"limit": 6}).up()
    folder = Path("/sys/fs/cgroup" + Path(f"/proc/{c.pid}/cgroup").read_text().strip().removeprefix("0::"))

    def limits():
        return [(folder / file).read_text().strip() for file in ("memory.max", "memory.swap.max", "pids.max")]

    take = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    forks = " ".join(["sleep 1 &"] * 8) + " wait"
    assert limits() == [f"{32 * MIB}", "0", "6"]
    assert c.attempt_exec(*take).code == 137
    assert "can't fork" in c.attempt_exec("sh", "-c", forks).err
    c.runtime("pause", c.id)
    assert c.status == "paused"
    c.runtime("resume", c.id)
    c.runtime("update", "--memory", f"{128 * MIB}", "--memory-swap", f"{128 * MIB}", "--pids-limit", "60", c.id)
    assert limits() == [f"{128 * MIB}", "0", "60"]
    c.exec(*take)
    c.exec_sh(forks)
    c.delete("--force")
    c.assert_gone()
    assert not folder.exists()


@pytest.mark.vm
@pytest.mark.skipif(not SYSTEMD, reason="needs systemd and its instance for the user")
@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({"memory": {"limit": 32 * MIB}, "pids": {"limit": 9}}, {"memory.max": f"{32 * MIB}", "pids.max": "9"}),
        ({"cpu": {"shares": 1024, "cpus": "0"}}, {"cpu.weight": "100", "cpuset.cpus": "0"}),
    ],
)
def test_limits_in_a_scope_of_the_users_systemd(make, resources, files):
    c = make(prefix=IN_A_SCOPE, **resources).up()
    path = Path(f"/proc/{c.pid}/cgroup").read_text().strip().removeprefix("0::")
    assert path.startswith(f"/user.slice/user-{UID}.slice/user@{UID}.service/")
    assert path.endswith(f"/{c.id}")
    assert {file: Path(f"/sys/fs/cgroup{path}/{file}").read_text().strip() for file in files} == files
    assert c.exec_sh("id -u") == "0"
    c.kill("KILL")
    c.wait_for("stopped")
    c.delete()
    c.assert_gone()

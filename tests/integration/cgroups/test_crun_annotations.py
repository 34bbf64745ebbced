"""crun's annotations for cgroups: one that the container manages itself, one below systemd's scope, v1's beside v2.

What they make of systemd's scopes: test_systemd.py.
"""

import os
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, OWN_USERS, namespaces
from integration.support.host import cgroups_of, controllers, unified
from integration.support.runtime import wait_until

DELEGATED, FORCED, SUBGROUP = (
    f"run.oci.{name}" for name in ("delegate-cgroup", "systemd.force_cgroup_v1", "systemd.subgroup")
)
CGROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid"]}
OWN = namespaces(*NAMESPACES, "cgroup")
OWN_WITH_USERS = {**OWN_USERS, "namespaces": namespaces(*NAMESPACES, "user", "cgroup")}


@pytest.fixture
def v2(request):
    """cgroup v2 is the only hierarchy in sight."""
    if not unified():
        request.getfixturevalue("cgroup2_alone")


@pytest.fixture
def delegated(v2, container):
    def make(name="payload", **changes):
        made = container(**{"namespaces": OWN, "mounts": [CGROUPS], **changes}).reachable()
        return made.change(annotations={DELEGATED: name})

    return make


def own_line(pid):
    """Where a process is in v2."""
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].removeprefix("0::")


def whole(made):
    (path,) = (path for path in cgroups_of(made.id) if path.endswith(made.id))
    return Path(path)


def owners(directory):
    names = Path("/sys/kernel/cgroup/delegate").read_text().split()
    return {(each.stat().st_uid, each.stat().st_gid) for each in (directory / name for name in names) if each.exists()}


# --- a cgroup that the container manages


@pytest.mark.parametrize("name", ["payload", "/init", "a/b"])
def test_the_program_is_in_a_cgroup_of_its_own(delegated, name):
    """The root of its cgroup namespace is the one above, which has the limits."""
    made = delegated(name).up()
    inside = f"/{name.strip('/')}"
    assert own_line(made.pid).endswith(f"/{made.id}{inside}")
    assert made.exec("cat", "/proc/self/cgroup").splitlines()[-1] == f"0::{inside}"
    assert made.exec("cat", "/proc/1/cgroup").splitlines()[-1] == f"0::{inside}"
    made.delete("--force")
    made.assert_gone()


def test_it_makes_cgroups_there_and_exec_follows(delegated):
    made = delegated(**OWN_WITH_USERS).up("sh", "-c", "sleep 1000 & sleep 1000")
    top = "/sys/fs/cgroup"
    made.exec_sh(f"mkdir {top}/payload/inner && echo 1 >{top}/payload/inner/cgroup.procs")
    assert own_line(made.pid).endswith("/payload/inner")
    assert made.exec("cat", "/proc/self/cgroup").splitlines()[-1] == "0::/payload/inner"
    assert made.attempt_exec("mkdir", f"{top}/beside").code != 0
    there = made.exec("cat", "/proc/self/cgroup", flags=("--cgroup", "payload"))
    assert there.splitlines()[-1] == "0::/payload"
    found = made.runtime("ps", "--format", "json", made.id).out
    assert len(found.strip("[]\n").split(",")) == 2  # in two cgroups
    made.delete("--force")
    made.assert_gone()


@pytest.mark.parametrize("users", [False, True])
def test_whose_it_is(delegated, users):
    """Its root's, whoever runs in it; what is above it stays the host's."""
    changes = OWN_WITH_USERS if users else {}
    made = delegated(**changes, user={"uid": 1000, "gid": 1000}).up()
    root = 100000 if users else 0
    place = whole(made)
    assert (owners(place), owners(place / "payload")) == ({(0, 0)}, {(root, root)})
    assert (place / "payload").stat().st_uid == root


def test_without_a_cgroup_namespace(delegated):
    made = delegated(namespaces=namespaces(*NAMESPACES), mounts=[]).up()
    assert own_line(made.pid).endswith(f"/{made.id}/payload")


def test_what_is_done_to_it_is_done_to_all(delegated):
    made = delegated().up("sh", "-c", "sleep 1000 & sleep 1000")
    made.exec_sh("mkdir /sys/fs/cgroup/payload/inner; echo 1 >/sys/fs/cgroup/payload/inner/cgroup.procs")
    made.runtime("pause", made.id)
    assert made.status == "paused"
    for path in (whole(made), whole(made) / "payload", whole(made) / "payload/inner"):
        assert "frozen 1" in (path / "cgroup.events").read_text()
    made.runtime("resume", made.id)
    made.runtime("kill", "--all", made.id, "KILL")
    made.wait_for("stopped")
    wait_until(lambda: "populated 0" in (whole(made) / "cgroup.events").read_text(), "all to be dead")
    made.delete()
    made.assert_gone()


@pytest.mark.vm
@pytest.mark.timeout(600)  # on an emulated machine
def test_its_limits_are_above_it_and_it_has_controllers(delegated):
    if not {"memory", "pids"} <= set(controllers()) or not unified():
        pytest.skip("v2 with controllers")
    made = delegated(resources={"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}).up()
    place = whole(made)
    assert (place / "memory.max").read_text().strip() == f"{64 << 20}"
    assert (place / "payload/memory.max").read_text().strip() == "max"
    assert {"memory", "pids"} <= {*made.exec("cat", "/sys/fs/cgroup/payload/cgroup.controllers").split()}
    made.exec_sh("mkdir /sys/fs/cgroup/payload/x && echo $$ >/sys/fs/cgroup/payload/x/cgroup.procs")
    made.runtime("update", "--pids-limit", "40", made.id)
    assert (place / "pids.max").read_text().strip() == "40"
    said = made.runtime("events", "--stats", made.id).out
    assert '"current":' in said


def test_a_start_that_fails_leaves_nothing(delegated):
    made = delegated()
    made.refused("/no/such/program")


@pytest.mark.parametrize("name", ["..", "../x", "a/../b", ".", "/", "a//b", "a\nb", "x" * 256])
def test_it_never_leaves_the_containers_cgroup(delegated, name):
    assert "is no path below a cgroup" in delegated(name).refused("true")


def test_version_1_can_not_be_delegated(container):
    if unified():
        pytest.skip("a host of cgroup v1")
    assert "cgroup v1 can't be delegated safely" in container(annotations={DELEGATED: "x"}).refused("true")


def test_without_a_cgroup_there_is_none_to_delegate(v2, container):
    c = container(annotations={DELEGATED: "x"})
    c._prepare(("true",))
    result = c.runtime("--cgroup-manager", "disabled", "run", "--bundle", c.bundle.path, c.id, check=False)
    assert "the container has no cgroup" in result.err


# --- below systemd's scope, where there is none


def test_a_subgroup_of_no_scope_is_a_warning(container):
    result = container(annotations={SUBGROUP: "x"}).attempt("true")
    assert (result.code, "there is no scope" in result.err) == (0, True), result


def test_a_subgroup_never_leaves_the_scope(container):
    c = container(annotations={SUBGROUP: "../x"})
    c._prepare(("true",))
    result = c.runtime("--systemd-cgroup", "run", "--bundle", c.bundle.path, c.id, check=False)
    assert (result.code, "is no path below a cgroup" in result.err) == (1, True), result


# --- v1's name=systemd


@pytest.fixture(params=["the host's", "v2 alone"])
def named(request, tmp_path_factory):
    """name=systemd is mounted: with the others of v1, or beside v2 alone."""
    if request.param == "the host's" and not unified():
        if not os.path.isdir("/sys/fs/cgroup/systemd"):
            pytest.skip("no name=systemd")
        yield Path("/sys/fs/cgroup/systemd")
        return
    if request.param == "the host's":
        pytest.skip("the same as v2 alone")
    request.getfixturevalue("v2")
    place = tmp_path_factory.mktemp("named")
    subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=systemd", "cgroup", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def forced(named, container):
    def make(**changes):
        made = container(**{"namespaces": OWN, "mounts": [CGROUPS], **changes}).reachable()
        return made.change(annotations={FORCED: "/sys/fs/cgroup/"})

    return make


@pytest.mark.parametrize(
    "changes", [{}, OWN_WITH_USERS, {"namespaces": namespaces(*NAMESPACES)}], ids=["", "users", "no namespace"]
)
def test_a_systemd_of_old_finds_its_hierarchy(forced, named, changes):
    """And nothing of the host's or of other containers' in it; it can make cgroups there."""
    made = forced(**changes).up()
    top = "/sys/fs/cgroup/systemd"
    assert made.exec("ls", "/sys/fs/cgroup") == "systemd"
    assert " - cgroup cgroup " in made.exec_sh(f"grep {top} /proc/self/mountinfo")
    assert made.attempt_exec("ls", f"{top}/release_agent").code != 0
    assert "1" in made.exec("cat", f"{top}/cgroup.procs").split()
    made.exec_sh(f"mkdir {top}/init.scope && echo 1 >{top}/init.scope/cgroup.procs")
    lines = Path(f"/proc/{made.pid}/cgroup").read_text().splitlines()
    (line,) = (line for line in lines if ":name=systemd:" in line)
    assert line.endswith(f"{made.id}/init.scope")
    made.delete("--force")
    made.assert_gone()
    assert not list(named.rglob(made.id))


def test_a_bind_mount_of_that_place_is_overridden(forced):
    bind = {"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}
    made = forced(mounts=[bind])
    assert made.run("ls", "/sys/fs/cgroup") == "systemd"
    assert "Read-only file system" in made.attempt("mkdir", "/sys/fs/cgroup/systemd/x").err


def test_it_takes_a_mount_and_the_hierarchy(v2, container):
    c = container(annotations={FORCED: "/sys/fs/cgroup"}, mounts=[CGROUPS])
    assert "cgroup v1's hierarchy name=systemd is not mounted" in c.refused("true")


def test_it_takes_a_mount(forced):
    made = forced(mounts=[])
    assert "nothing in mounts has the destination" in made.refused("true")

"""Cgroups that a container makes in its own: exec into them, and whose they are. config-linux.md#cgroup-ownership"""

import os
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, namespaces
from integration.support.container import MARK
from integration.support.host import all_cgroups, cgroups_of, controllers, unified

MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
READ_ONLY = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
WRITABLE = {**READ_ONLY, "options": ["rw", "nosuid"]}
OWN = namespaces(*NAMESPACES, "cgroup")


@pytest.fixture(autouse=True, params=["the host's", "v2 alone"])
def version(request):
    if request.param == "v2 alone":
        if unified():
            pytest.skip("v2 is alone on this host")
        request.getfixturevalue("cgroup2_alone")


def place(made):
    """The container's cgroup, in v2 or in some hierarchy of v1."""
    return Path(sorted(path for path in cgroups_of(made.id) if path.endswith(made.id))[0])


def line_of(made, text):
    """The line of /proc/PID/cgroup for the hierarchy of place()."""
    if unified():
        return text.splitlines()[-1]
    name = place(made).relative_to("/sys/fs/cgroup").parts[0]
    return next(line for line in text.splitlines() if name in line.split(":")[1].split(","))


@pytest.mark.parametrize("path", ["sub", "/sub", "sub/"])
def test_exec_into_a_sub_cgroup(container, path):
    made = container().up()
    for each in [each for each in all_cgroups() if each.endswith(made.id)]:
        os.mkdir(f"{each}/sub")
        for file in ("cpuset.cpus", "cpuset.mems"):  # nobody may be in an empty one (v1)
            if not unified() and Path(each, file).exists():
                Path(each, "sub", file).write_text(Path(each, file).read_text())
    assert line_of(made, made.exec("cat", "/proc/self/cgroup", flags=("--cgroup", path))).endswith("/sub")
    made.delete("--force")
    made.assert_gone()


def test_exec_into_the_cgroup_itself(container):
    made = container().up()
    assert line_of(made, made.exec("cat", "/proc/self/cgroup", flags=("--cgroup", "/"))).endswith(made.id)


@pytest.mark.parametrize("path", ["..", "../x", "sub/..", "a/../../b", "."])
def test_exec_never_leaves_the_containers_cgroup(container, path):
    made = container().up()
    result = made.attempt_exec("true", flags=("--cgroup", path))
    assert (result.code, "bad sub cgroup path" in result.err) == (255, True), result


def test_exec_into_a_cgroup_that_is_not_there(container):
    made = container().up()
    result = made.attempt_exec("true", flags=("--cgroup", "missing"))
    assert (result.code, "no such file or directory" in result.err) == (255, True), result


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nonsense:/"], "unknown controller nonsense"),
        ([":/"], "empty <controller> prefix"),
        (["a", "b"], "missing <controller>: prefix"),
        (["cpu:/", "cpu:/"], "specified multiple times"),
    ],
)
def test_controllers_that_are_none(container, flags, words):
    made = container().up()
    result = made.attempt_exec("true", flags=tuple(word for flag in flags for word in ("--cgroup", flag)))
    assert (result.code, words in result.err) == (255, True), result


def test_exec_into_one_controllers_sub_cgroup(container):
    if unified() or "memory" not in controllers():
        pytest.skip("v1 only")
    made = container().up()
    (memory,) = (path for path in cgroups_of(made.id) if "/memory/" in path)
    os.mkdir(f"{memory}/sub")
    lines = made.exec("cat", "/proc/self/cgroup", flags=("--cgroup", "memory:sub")).splitlines()
    assert [line.endswith("/sub") for line in lines if ":memory:" in line] == [True]
    assert not [line for line in lines if line.endswith("/sub") and ":memory:" not in line]


@pytest.mark.vm
def test_exec_goes_where_the_first_process_is(container):
    """On v2 a cgroup that passes a controller on takes no process any more ("no internal processes")."""
    passed_on = {"memory", "pids", "hugetlb"} & set(controllers()) if unified() else set()
    if not passed_on:
        pytest.skip("v2 with a controller")
    made = container(namespaces=OWN, mounts=[WRITABLE]).up()
    controller = sorted(passed_on)[0]
    made.exec_sh("mkdir /sys/fs/cgroup/inner; for p in 1 $$; do echo $p > /sys/fs/cgroup/inner/cgroup.procs; done")
    (place(made) / "cgroup.subtree_control").write_text(f"+{controller}")
    assert made.exec("cat", "/proc/self/cgroup").splitlines()[-1] == "0::/inner"
    result = made.attempt_exec("true", flags=("--cgroup", "/"))
    assert (result.code, "device or resource busy" in result.err.lower()) == (255, True), result


@pytest.mark.vm
@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_container_below_a_threaded_cgroup(container, below):
    """A cgroup that is made there is "domain invalid" until it is threaded too. cgroup-v2.rst, Threads"""
    if not unified():
        pytest.skip("v2 only")
    top = Path(f"/sys/fs/cgroup/{MARK}-threads")
    (top / "sibling").mkdir(parents=True)
    (top / "sibling/cgroup.type").write_text("threaded")
    made = container(cgroupsPath=f"/{top.name}/own{below}").up("sh", "-c", "sleep 1000 & sleep 1000")
    try:
        assert f"/{top.name}/own{below}" in Path(f"/proc/{made.pid}/cgroup").read_text()
        assert made.exec("echo", "inside") == "inside"
        made.runtime("pause", made.id)
        assert made.status == "paused"
        made.runtime("resume", made.id)
        made.delete("--force")
    finally:
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        top.rmdir()


@pytest.mark.vm
@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({"mounts": [WRITABLE], "namespaces": OWN}, 0),
        ({"mounts": [WRITABLE], "namespaces": OWN, "user": {"uid": 1000, "gid": 0}}, 1000),
        ({"mounts": [READ_ONLY], "namespaces": OWN, "user": {"uid": 1000, "gid": 0}}, 0),
        ({"mounts": [WRITABLE], "namespaces": namespaces(*NAMESPACES), "user": {"uid": 1000, "gid": 0}}, 0),
        (
            {
                "mounts": [WRITABLE],
                "namespaces": namespaces(*NAMESPACES, "cgroup", "user"),
                "uidMappings": MAPPING,
                "gidMappings": MAPPING,
            },
            100000,
        ),
    ],
    ids=["root's", "the user's", "a view that is read-only", "no namespace of its own", "root's of a user namespace"],
)
def test_whose_the_cgroup_is(container, changes, owner):
    if not unified():
        pytest.skip("v2 only")
    made = container(**changes).reachable().up()
    directory = place(made)
    names = Path("/sys/kernel/cgroup/delegate").read_text().split()
    assert directory.stat().st_uid == owner
    assert {(directory / name).stat().st_uid for name in names if (directory / name).exists()} == {owner}
    assert (directory / "cgroup.type").stat().st_uid == 0  # the rest stays the host's

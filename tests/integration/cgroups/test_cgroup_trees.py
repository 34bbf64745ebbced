"""Cgroups that a container makes in its own: as deep, as many and as long as it likes. They go with it."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.support.bundle import namespaces
from integration.support.container import MARK
from integration.support.host import cgroups_of, hierarchies, unified
from integration.support.runtime import wait_until

NAME_MAX = 255


@pytest.fixture(autouse=True, params=["the host's"] if unified() else ["the host's", "v2 alone"])
def version(request):
    if request.param == "v2 alone":
        request.getfixturevalue("cgroup2_alone")


def places(made):
    """Its directories. The freezer's is the first: it tells of the processes."""
    found = [path for path in cgroups_of(made.id) if path.endswith(f"/{made.id}")]
    return sorted(found, key=lambda path: "/freezer/" not in path)


@contextlib.contextmanager
def in_folder(path) -> Iterator[None]:
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(home)
        os.close(home)


def descend(*names) -> None:
    """Make each directory in the one before, and stay in the last: no path could name it."""
    for name in names:
        os.mkdir(name)
        for file in ("cpuset.cpus", "cpuset.mems"):  # v1: an empty set takes no process
            if not unified() and os.path.exists(f"{name}/{file}"):
                Path(name, file).write_text(Path(file).read_text())
        os.chdir(name)


def write(file, text) -> None:
    Path(file).write_text(str(text))


def freeze_here() -> None:
    write(*(("cgroup.freeze", "1") if unified() else ("freezer.state", "FROZEN")))


@pytest.mark.parametrize(
    "names",
    [["d"] * 1500, ["n" * 200] * 20, ["x" * NAME_MAX] * 40],
    ids=["deep", "long", "longest"],
)
def test_cgroups_deeper_than_a_path_can_be(container, names):
    made = container().up()
    with in_folder(places(made)[0]):
        descend(*names)
    made.delete("--force")
    made.assert_gone()


def test_many_cgroups_beside_each_other(container):
    made = container().up()
    for index in range(300):
        os.makedirs(f"{places(made)[0]}/{index}/{'below' if index % 3 == 0 else ''}")
    made.kill("KILL")
    made.wait_for("stopped")
    made.delete()
    made.assert_gone()


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
@pytest.mark.parametrize("force", [False, True], ids=["killed before", "by force"])
def test_processes_deep_below_die_with_it(container, frozen, force):
    """On v1 not even SIGKILL reaches a process that is frozen further down, until it is thawed."""
    made = container(namespaces=namespaces("mount")).up()
    other = made.runtime.spawn("exec", made.id, "sh", "-c", "sleep 1000 & sleep 1000")
    place = places(made)[0]
    wait_until(lambda: len(Path(place, "cgroup.procs").read_text().split()) > 2, "the other processes")
    with in_folder(place):
        pids = Path("cgroup.procs").read_text().split()
        descend(*["n" * 200] * 25)
        for pid in pids:
            write("cgroup.procs", pid)
        if frozen:
            freeze_here()
    if not force:
        made.kill("KILL")
        made.wait_for("stopped")
    made.delete(*(["--force"] if force else []))
    other.end()
    made.assert_gone()


def test_a_first_process_that_is_frozen_below_is_killed(container):
    made = container().up()
    with in_folder(places(made)[0]):
        descend("below")
        write("cgroup.procs", made.pid)
        freeze_here()
    made.kill("KILL")
    made.wait_for("stopped")
    made.delete()
    made.assert_gone()


def test_to_resume_thaws_only_what_pause_froze(container):
    made = container().up()
    with in_folder(places(made)[0]):
        descend("below")
        freeze_here()
        made.runtime("pause", made.id)
        made.runtime("resume", made.id)
        file = "cgroup.freeze" if unified() else "freezer.self_freezing"
        assert Path(file).read_text() == "1\n"


def test_threads_in_cgroups_of_their_own(container):
    """The kernel does not list the processes of a threaded cgroup, and refuses its cgroup.kill."""
    if not unified():
        pytest.skip("v2 only")
    top = f"/sys/fs/cgroup/{MARK}-threaded"
    os.mkdir(top)
    made = container(namespaces=namespaces("mount"), cgroupsPath=f"/{MARK}-threaded/own").up()
    with in_folder(f"{top}/own"):
        descend("a")
        write("cgroup.type", "threaded")
        descend("b")
        write("cgroup.type", "threaded")
        write("cgroup.threads", made.pid)
    made.runtime("ps", made.id)
    made.kill("KILL")
    made.wait_for("stopped")
    made.delete()
    os.rmdir(top)
    made.assert_gone()


@pytest.mark.parametrize("deeper", [False, True], ids=["beside", "deeper"])
def test_somebody_makes_more_of_them_meanwhile(container, deeper):
    """The removal ends. On v2 nobody can make cgroups any more once the removal has begun."""
    made = container().up()
    place = places(made)[0]
    os.mkdir(f"{place}/start")
    made_some, until = threading.Event(), time.monotonic() + 1.5

    def make():
        """By descriptors: both threads share one current directory."""
        folder = os.open(f"{place}/start", os.O_RDONLY)
        for index in range(100_000):
            with contextlib.suppress(OSError):
                os.mkdir(f"{index}", dir_fd=folder)
                if deeper:
                    inner = os.open(f"{index}", os.O_RDONLY, dir_fd=folder)
                    os.close(folder)
                    folder = inner
            made_some.set()
            if time.monotonic() > until or not os.path.exists(place):
                break
        os.close(folder)

    maker = threading.Thread(target=make)
    maker.start()
    made_some.wait()
    try:
        made.delete("--force", timeout=60)
    finally:
        maker.join()
    made.assert_gone()


@pytest.mark.parametrize("deep", [1, 600], ids=["just above", "far above"])
def test_a_cgroup_above_that_of_another_container_is_refused(container, tmp_path, deep):
    """Else it would be killed and removed with the other container."""
    name = f"{MARK}-above"
    first = container(cgroupsPath=f"/{name}/first").up()
    place = Path(hierarchies()["" if unified() else "freezer"], name)
    if deep > 1:
        with in_folder(place / "first"):
            descend(*["d"] * deep)
            write("cgroup.procs", first.pid)
    try:
        before = cgroups_of(name)
        assert "container's cgroup is not empty" in container(cgroupsPath=f"/{name}").refused("true")
        assert cgroups_of(name) == before
        assert first.status == "running"
    finally:
        first.delete("--force")
        for path in cgroups_of(name):
            os.rmdir(path)


def test_one_that_is_empty_may_be_used_with_what_is_below(container):
    name = f"{MARK}-empty"
    place = Path(hierarchies()["" if unified() else "freezer"], name)
    (place / "below").mkdir(parents=True)
    made = container(cgroupsPath=f"/{name}").up()
    made.delete("--force")
    assert not cgroups_of(name)


def test_a_cgroup_of_processes_that_fork_all_the_time_is_emptied(container):
    """No process namespace of its own ends them all."""
    made = container(namespaces=namespaces("mount"), resources={"pids": {"limit": 60}} if not unified() else {})
    made.up("sh", "-c", "while :; do (sleep 0.01; :) & (:) & wait $!; done 2>/dev/null")
    started = time.monotonic()
    made.delete("--force")
    assert time.monotonic() - started < 20
    made.assert_gone()

"""Fixtures. Containers run in mount and UTS namespaces of the session's own: what leaks is seen, and harms nobody."""

import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.support.bundle import BUSYBOX, Bundle
from integration.support.container import MARK, Container
from integration.support.host import cgroups_of, host_mounts, mounts_of, processes_of
from integration.support.runtime import Runtime, bury_orphans, program

CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36
STATE_FOLDERS = ("/run/pyrunc", "/run/runc")
numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def namespaces_of_our_own() -> None:
    if os.geteuid():
        pytest.exit("the integration tests make containers on the real kernel, and need root", 2)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUTS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace for the tests")
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # containers' processes end as ours, and are buried


@pytest.fixture(scope="session", autouse=True)
def binary(namespaces_of_our_own: None) -> Iterator[str]:
    """The program, at a place where every user can run it. Root's home, for instance, is closed to others."""
    try:
        found = Path(program()).resolve()
    except FileNotFoundError as error:
        pytest.exit(str(error), 2)
    if all(folder.stat().st_mode & 0o001 for folder in found.parents):
        yield str(found)
        return
    prefix, place = found.parents[1], tempfile.mkdtemp(prefix="pyrunc-", dir="/tmp")
    os.chmod(place, 0o755)
    subprocess.run(["mount", "--bind", prefix, place], check=True)
    yield f"{place}/{found.relative_to(prefix)}"
    subprocess.run(["umount", "--lazy", place], check=True)
    os.rmdir(place)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests the host's mounts, cgroups, processes and state folders are what they were before."""
    base = str(tmp_path_factory.getbasetemp())
    before = _host()
    yield
    deadline = time.monotonic() + 30  # another run of the tests may have a container of its own there
    while True:
        bury_orphans()
        differences = _differences(before, _host())
        differences += [f"cgroup {path}" for path in cgroups_of(MARK)] + processes_of(base)
        if not differences:
            return
        if time.monotonic() > deadline:
            pytest.fail("left behind by the tests:\n" + "\n".join(differences), pytrace=False)
        time.sleep(0.1)


def _host() -> dict[str, list[str]]:
    state = {folder: sorted(os.listdir(folder)) if os.path.isdir(folder) else [] for folder in STATE_FOLDERS}
    state = {folder: [name for name in names if ":" not in name] for folder, names in state.items()}  # but for caches
    return {"mounts": host_mounts(), **state}


def _differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    found = []
    for what, was in before.items():
        found += [f"{what}: new: {line}" for line in after[what] if line not in was]
        found += [f"{what}: gone: {line}" for line in was if line not in after[what]]
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of every image: busybox, and a probe that asks the kernel what a shell can't."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copy(BUSYBOX, folder / "busybox")
    source = Path(__file__).parent / "support/probe.c"
    subprocess.run(["cc", "-static", "-O1", "-Wall", "-o", folder / "probe", source], check=True, timeout=60)
    return folder


@pytest.fixture
def runtime(binary: str, tmp_path: Path) -> Iterator[Runtime]:
    """The binary with a state root of this test's own. What the test leaves in it is deleted by force."""
    scratch = tmp_path / "output"
    scratch.mkdir()
    runtime = Runtime(binary, tmp_path / "state", scratch)
    yield runtime
    if runtime.root.is_dir():
        for name in sorted(os.listdir(runtime.root)):
            if ":" not in name:
                runtime("delete", "--force", name)
    left = [*mounts_of(str(tmp_path)), *processes_of(str(tmp_path))]
    assert not left, left


@pytest.fixture
def bundle(tmp_path: Path, template: Path) -> Callable[[], Bundle]:
    return lambda: Bundle(tmp_path / f"bundle{next(numbers)}", template)


@pytest.fixture
def container(runtime: Runtime, bundle: Callable[[], Bundle]) -> Callable[..., Container]:
    """Make a container: `container(hostname="web").run("hostname")`. Members of config.json are given by name."""

    def make(**changes: Any) -> Container:
        made = Container(runtime, bundle(), f"{MARK}-{next(numbers)}")
        return made.change(**changes)

    return make


@pytest.fixture
def cgroup2_alone() -> Iterator[None]:
    """cgroup v2 is the only hierarchy in sight, without the controllers that v1 has on this host."""
    libc = ctypes.CDLL(None, use_errno=True)
    home, folder = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.open(".", os.O_RDONLY)

    def call(name: str, *words: object) -> None:
        if getattr(libc, name)(*words):
            raise OSError(ctypes.get_errno(), f"{name} {words}")

    call("unshare", CLONE_NEWNS)
    try:
        lines = [line for line in host_mounts() if " - cgroup2 " in line]
        options = lines[0].rpartition(" ")[2].partition(",")[2] if lines else ""  # one set for all mounts: the host's
        call("umount2", b"/sys/fs/cgroup", MNT_DETACH)
        call("mount", b"none", b"/sys/fs/cgroup", b"cgroup2", 0, options.encode())
        yield
    finally:
        call("setns", home, CLONE_NEWNS)
        os.fchdir(folder)
        os.close(folder)
        os.close(home)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder of the host's that an attack would change."""
    folder = tmp_path / "canary"
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("untouched\n")
    (folder / "ptmx").write_text("untouched\n")
    return folder

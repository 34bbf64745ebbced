"""Engines as users have them, in namespaces of their own."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines import containerd, shim
from engines.neighbours import Hanging, Pending, Pod, Slow

numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid():
        pytest.exit("the tests of the engines make containers on the real kernel, and need root", 2)
    if not shim.SHIM.exists():
        pytest.exit(f"{shim.SHIM} is not there: install pyrunc, or set PYRUNC", 2)


@pytest.fixture(scope="session")
def host() -> Iterator[shim.Host]:
    host = shim.Host()
    yield host
    try:
        shim.wait_until(lambda: not host.shims())  # one that has answered its last call takes a moment to end
    finally:
        host.close()
    for folder in Path("/sys/fs/cgroup").glob(f"*/{shim.CGROUPS}"):
        assert not [path.name for path in folder.iterdir() if path.is_dir()], "cgroups are left"
        folder.rmdir()


@pytest.fixture
def container(host: shim.Host) -> Iterator[Callable[..., shim.Container]]:
    made: list[shim.Container] = []

    def make(*args: str, **config: object) -> shim.Container:
        made.append(shim.Container(host, f"c{next(numbers)}", *args, **config))
        return made[-1]

    yield make
    for each in made:
        each.remove()


@pytest.fixture(scope="session")
def engine() -> Iterator[containerd.Containerd]:
    if containerd.PROGRAM is None:
        pytest.skip("NOT TESTED: containerd is not installed (Debian: apt-get install containerd)")
    with containerd.Containerd(shim.SHIM.parent) as engine:
        yield engine


@pytest.fixture
def pod(host: shim.Host, container: Callable[..., shim.Container]) -> Pod:
    return Pod(host, container)


@pytest.fixture
def call(pod: Pod) -> Iterator[Callable[..., Pending]]:
    with contextlib.ExitStack() as stack:
        yield lambda *words, **values: stack.enter_context(Pending(pod, *words, **values))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    made = Slow(tmp_path)
    yield made
    made.let_go()


@pytest.fixture
def hanging(host: shim.Host, tmp_path: Path) -> Iterator[Hanging]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("NOT TESTED: this kernel has no FUSE")
    made = Hanging(host, tmp_path / "far")
    yield made
    made.end()

"""The worker of these tests lives as long as they do."""

import os
import time
from collections.abc import Iterator

import pytest

from pyrunc.library import client


@pytest.fixture(scope="package", autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    client._at_exit()


@pytest.fixture
def state(tmp_path: object) -> Iterator[str]:
    """A state root of the test's own, which is empty afterwards but for caches."""
    root = f"{tmp_path}/state"
    yield root
    for _ in range(1000):  # what was called off before it could be seen is seen now, and removed behind us
        if not left_in(root):
            break
        time.sleep(0.02)
    assert left_in(root) == []


def left_in(root: str) -> list[str]:
    """Containers and their bundles; not what the worker keeps."""
    if not os.path.isdir(root):
        return []
    names = [*os.listdir(root), *(f"bundle of {name}" for name in os.listdir(f"{root}/:library"))]
    return [name for name in names if ":" not in name]

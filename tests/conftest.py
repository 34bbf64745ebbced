"""What holds for every test."""

import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_file_is_left_open() -> Iterator[None]:
    """By us: its number is none that another test can ask for, and a runtime of another test is told of it."""
    before = _opened()
    yield
    gc.collect()
    assert not [name for file, name in _opened().items() if file not in before]


def _opened() -> dict[tuple[int, int], str]:
    """Files and namespaces: descriptor and inode (a name changes with the mount namespace), and the name.

    Of sockets, threads that outlive their test may have some for a moment.
    """
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
            inode = os.fstat(number).st_ino
        except OSError:
            continue  # that of this listing
        if not name.startswith(("socket:", "pipe:", "anon_inode:")):
            found[number, inode] = name
    return found

"""Callers without room: a full disk, limits on files and descriptors, a receiver of terminals that does not receive.
The container runs on, or can be restored by who has room."""

import os
import socket
import subprocess

import pytest

from integration.support.runtime import wait_until
from integration.support.terminal import receive_descriptor


@pytest.mark.parametrize("limit", ["fsize=20000", "nofile=12", "as=16777216"])
def test_a_caller_with_limits(saved, limit):
    s = saved().counting()
    how = {"check": False, "wrapper": ("prlimit", f"--{limit}")}
    done = s.checkpoint(**how)
    assert done.code, done
    assert "Traceback" not in done.err
    s.assert_goes_on(wait_until)
    s.checkpoint()
    done = s.restore(**how)
    assert "Traceback" not in done.err
    if done.code:
        s.container.assert_gone()
        s.restore()
    s.assert_goes_on(wait_until)


def test_a_full_disk(saved, tmp_path):
    s = saved().counting()
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", full], check=True)
    try:
        s.images, images = full / "images", s.images
        result = s.checkpoint(check=False)
        assert result.code == 1, result
        assert not (s.images / "inventory.img").exists()
        s.assert_goes_on(wait_until)
        s.images = images
        s.checkpoint()
        s.restore()
    finally:
        subprocess.run(["umount", full], check=True)


def test_a_receiver_of_the_terminal_that_does_not_receive(saved, tmp_path):
    """Its socket takes what it is sent."""
    s = saved(terminal=True)
    place = tmp_path / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(0)
        s.container.up("sh", flags=("--console-socket", str(place)))
        master, _ = receive_descriptor(listener)
        s.checkpoint()
        os.close(master)
        s.restore("--console-socket", place)  # nobody accepts
        assert s.container.status == "running"
    s.container.delete("--force")

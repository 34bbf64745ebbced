"""The library's checkpoint and restore, by its worker."""

import os
import subprocess
import sys

import pytest

from integration.support.runtime import wait_until

PROGRAM = """
import asyncio, sys, pyrunc
from pyrunc import aio
root, bundle, images, how = sys.argv[1:]
try:
    pyrunc.Container.load("x", root).checkpoint(images, nonsense=True)
except TypeError as error:
    print(error)
if how == "awaited":
    async def main():
        await (await aio.Container.load("x", root)).checkpoint(images)
        made = await aio.Container.restore(images, bundle, "x", state_root=root, stdout=pyrunc.DEVNULL)
        print(made.process.pid == (await made.state())["pid"])
    asyncio.run(main())
else:
    pyrunc.Container.load("x", root).checkpoint(images)
    made = pyrunc.Container.restore(images, bundle, "x", state_root=root, stdout=pyrunc.DEVNULL)
    print(made.process.pid == made.state()["pid"])
"""


@pytest.mark.parametrize("how", ["called", "awaited"])
def test_the_library(saved, how):
    s = saved()
    s.container.id = "x"
    s.counting()
    wait_until(lambda: s.count > 3, "it to count")
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, s.runtime.root, s.container.bundle.path, s.images, how],
        env=s.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "there is no option nonsense\nTrue\n"), done
    s.assert_goes_on(wait_until)
    assert s.container.status == "running"
    assert os.path.exists(s.images / "inventory.img")

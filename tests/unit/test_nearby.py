"""What linux/nearby.py keeps of mounts: the kernel gives their numbers again."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, subprocess, sys
from pyrunc.linux import nearby

place = sys.argv[1]
subprocess.run(["mount", "--bind", "/proc/self/ns/net", f"{place}/namespace"], check=True)
with nearby.folder(place) as folder:
    assert nearby.is_in(folder, "namespace")
print(len(nearby._kinds), "nsfs" in nearby._kinds.values())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts")
def test_it_keeps_the_mounts_that_were_asked_for_and_no_namespaces(tmp_path):
    (tmp_path / "namespace").touch()
    command = ["unshare", "-m", sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout == "1 False\n", done

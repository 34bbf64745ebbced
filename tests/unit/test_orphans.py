"""A child of ours whose parent is killed before it could ask to be killed with it does nothing."""

import subprocess
import sys
import time

import pytest

SLOW = """
import os, signal, sys, time
from pyrunc import hook_runner
from pyrunc.container.errand import Errand
from pyrunc.linux import process

ask = process.prctl
def ask_late(*words):
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.001)
    return ask(*words)

if {slow}:
    process.prctl = ask_late
def work():
    open(sys.argv[1], "w").close()
if {kind!r} == "hook":
    hook_runner.run({{"path": "/bin/sh", "args": ["sh", "-c", "echo > " + sys.argv[1]]}}, b"", None)
elif {kind!r} == "errand":
    Errand(work).close()
else:
    os.waitpid(process.in_child(work)[0], 0)
"""


@pytest.mark.parametrize("kind", ["child", "errand", "hook"])
@pytest.mark.parametrize("slow", [False, True])
def test_a_child_whose_parent_is_killed_at_once(tmp_path, kind, slow):
    read_at_end = subprocess.PIPE  # its end is the end of all who have it
    code = SLOW.format(kind=kind, slow=slow)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "done"], stdout=read_at_end, timeout=60, cwd="/")
    time.sleep(0.05)  # a hook has its own streams
    assert done.returncode == (-9 if slow else 0)
    assert (tmp_path / "done").exists() is not slow


IGNORED = """
import signal, time
from pyrunc.container.errand import Errand
from pyrunc.linux.fd import Fd
import os

signal.signal(signal.SIGCHLD, signal.SIG_IGN if {ignored} else signal.SIG_DFL)
with Errand(lambda: Fd(os.dup(0))) as errand:
    os.kill(errand.pid, signal.SIGKILL)
    time.sleep(0.05)
    if not {ignored}:
        os.waitpid(errand.pid, 0)
print("closed")
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_errand_whose_end_somebody_else_has_seen(ignored):
    """Who ignores SIGCHLD has no child to wait for; nor has one whose loop waits for every child."""
    done = subprocess.run(
        [sys.executable, "-c", IGNORED.format(ignored=ignored)], stdout=subprocess.PIPE, timeout=60, cwd="/"
    )
    assert done.stdout == b"closed\n"

"""System calls in a task of their own: killed at any moment, they leave nothing in the process that asked for them."""

import os
import subprocess
import sys

KILLED = """
import os, sys, time
sys.path[:0] = sys.argv[1:]
from pyrunc.linux import apart

def descriptors():
    return len(os.listdir("/proc/self/fd"))

before, opened = descriptors(), 0
for number in range(1500):
    call = apart.open_tree("/", True)
    moment = time.perf_counter_ns() + number % 300 * 500
    while time.perf_counter_ns() < moment:
        pass
    os.kill(call.pid, 9)
    os.waitpid(call.pid, 0)
    result = call.take()
    if result >= 0:
        opened += 1
        os.close(result)
print(opened > 0, descriptors() - before)
"""


def test_a_task_that_is_killed_leaves_no_descriptor():
    """Its call may have opened one by then."""
    command = [sys.executable, "-c", KILLED, *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


def test_a_call_that_fails_says_why():
    from pyrunc.linux import apart

    call = apart.open_tree("/none", False)
    os.waitpid(call.pid, 0)
    assert os.strerror(-call.take()) == "No such file or directory"

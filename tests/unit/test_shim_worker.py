"""A worker's bound: it has one, unless hooks run in it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from pyrunc.log import Log
from pyrunc.shim import worker
from pyrunc.shim.loop import Loop

worker.MOST_SECONDS = 0.2

def work(line):
    if "hooks" in sys.argv:
        line.runs_hooks()
    time.sleep(1)
    return "done"

def done(value, error):
    print(value or error.message)
    loop.over = True

loop = Loop(Log())
worker.Worker(loop, Log(), "waiting", work, done)
loop.run()
"""


@pytest.mark.parametrize(("words", "said"), [([], "waiting has not ended in 0 s"), (["hooks"], "done")])
def test_a_worker_has_a_bound_unless_it_runs_hooks(words, said):
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.startswith(said), done

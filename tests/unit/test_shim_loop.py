"""The shim's loop, and what it knows of ends: what fails in between is done again."""

import gc
import os
import select
import subprocess
import sys
import weakref

from pyrunc.log import Log
from pyrunc.shim.loop import Loop


def test_what_poll_has_told_of_a_descriptor_that_is_gone_is_not_told_of_the_next_of_its_number():
    loop = Loop(Log())
    first, second = os.pipe(), os.pipe()
    for pipe in (first, second):
        os.write(pipe[1], b"x")
    told = []

    def replace(number: int, other: int) -> None:
        loop.unwatch(other)
        read, write = os.pipe()  # empty
        os.dup2(read, other)
        os.close(read)
        loop.watch(other, select.POLLIN, lambda _: told.append(write))
        loop.unwatch(number)
        loop.after(0.01, lambda: setattr(loop, "over", True))

    for mine, other in ((first, second), (second, first)):
        loop.watch(mine[0], select.POLLIN, lambda _, mine=mine, other=other: replace(mine[0], other[0]))
    loop.run()
    assert told == []


def test_a_timer_that_another_one_of_the_same_moment_has_cancelled_does_nothing():
    loop = Loop(Log())
    done = []

    def act(number: int) -> None:
        done.append(number)
        for timer in timers:
            loop.cancel(timer)
        loop.after(0, lambda: setattr(loop, "over", True))

    timers = [loop.after(0, lambda number=number: act(number)) for number in range(3)]
    loop.run()
    assert done == [0]


class Waiting:
    """Whoever has a timer, and is what it calls."""

    def __init__(self, loop: Loop, seconds: float) -> None:
        self.loop = loop
        self.timer = loop.after(seconds, self.over)

    def over(self) -> None:
        self.loop.over = True


def test_who_has_a_timer_that_is_over_is_free_without_the_collector():
    loop = Loop(Log())
    gc.disable()
    try:
        due, cancelled = Waiting(loop, 0), Waiting(loop, 1000)
        loop.cancel(cancelled.timer)
        loop.run()
        gone = [weakref.ref(each) for each in (due, cancelled)]
        del due, cancelled
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


ENDED = """
import os, sys, time
sys.path[:0] = sys.argv[1:]
from types import SimpleNamespace
from pyrunc.log import Log
from pyrunc.shim.loop import Loop
from pyrunc.shim.children import Children
from pyrunc.shim.task import Process, Task
from pyrunc.shim.tasks import Tasks

told, waited, fails = [], [], [RecursionError, OSError]
class Publisher:
    def publish(self, topic, **values):
        if fails:
            raise fails.pop()
        told.append((topic, values["exit_status"]))
loop = Loop(Log())
children = Children(loop, Log(), None, lambda pid, status: None)
tasks = Tasks(children, Log(), "n", "/x", Publisher(), None)
task = Task(loop, Log(), None, "n", "c")
streams = SimpleNamespace(input=None)
task.container = SimpleNamespace(record={"own_pids": True})
task.init = Process(task, "", streams)
task.made = True
tasks.by_id["c"] = task
pid = task.init.pid = os.fork()
if not pid:
    os._exit(3)
task.init.waiters = [lambda process: 1 / 0, lambda process: waited.append(process.status)]
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
loop.soon(children.reap)
def look():
    loop.over = bool(waited) or time.monotonic() > began + 10
    loop.after(0.01, look)
began = time.monotonic()
look()
loop.run()
print(told, waited)
"""


def test_an_end_is_not_lost_by_an_exception_while_it_is_told():
    """It is lost neither for containerd nor for those who wait, whatever happens to one of them."""
    places = [path for path in sys.path if path]
    done = subprocess.run([sys.executable, "-c", ENDED, *places], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[('/tasks/exit', 3)] [3]\n", done.stderr

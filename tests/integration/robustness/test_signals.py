"""Signals at any moment: while a process is made that is not to hear of them, and right before a wait."""

import signal
import subprocess
import sys

import pytest

STIRRED = """
import os, signal, sys, time
sys.path[:0] = sys.argv[2:]
from pyrunc.linux import process

make = {"clone": process.clone, "clone3": lambda: process.clone3(0)}[sys.argv[1]]
ours = os.getpid()
heard = []

def handler(*_):
    if os.getpid() != ours:
        os._exit(77)
    heard.append(1)

def nothing():
    pass

def child():
    for _ in range(3):
        nothing()  # where the interpreter looks whether a handler is due
    os._exit(0)

signal.signal(signal.SIGTERM, handler)
stirrer = os.fork()
if not stirrer:
    while os.getppid() == ours:
        os.kill(ours, signal.SIGTERM)
        time.sleep(0.0001)
    os._exit(0)
ended = []
for _ in range(500):
    pid, pidfd = make()
    if pidfd is None:
        child()
    ended.append(os.waitpid(pid, 0)[1])
    pidfd.close()
os.kill(stirrer, signal.SIGKILL)
print(len(heard) > 10, sum(1 for status in ended if status))
"""


@pytest.mark.parametrize("call", ["clone", "clone3"])
def test_a_signal_of_the_parents_is_not_handled_in_the_child_too(call):
    """It would be called off as well, and undo the container that its parent undoes."""
    done = subprocess.run(
        [sys.executable, "-c", STIRRED, call, *sys.path],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True 0\n", "")


INTERRUPTED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pyrunc.linux import process

make = {"clone": process.clone, "clone3": lambda: process.clone3(0)}[sys.argv[1]]
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
signal.signal(signal.SIGALRM, signal.default_int_handler)
block = process._signal.pthread_sigmask

class Signals:
    '''A signal comes while the child is made.'''
    def __getattr__(self, name):
        return getattr(signal, name)
    def pthread_sigmask(self, how, signals):
        found = block(how, signals)
        if how == signal.SIG_BLOCK and signals:
            os.kill(os.getpid(), signal.SIGALRM)
        return found

process._signal = Signals()
try:
    pid, pidfd = make()
    if pidfd is None:
        signal.pause()
except KeyboardInterrupt:
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize("call", ["clone", "clone3"])
def test_a_child_that_nobody_got_to_know_of_is_ended(call):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, call, *sys.path],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True\nno child\n", "")


def test_a_container_that_waits_ends_by_a_signal_at_once():
    """Whatever the interpreter is at. A handler in Python runs when a system call comes back, such as the wait for
    `start`; here it would when all is added up."""
    program = """
import sys
sys.path[:0] = sys.argv[1:]
from pyrunc.linux.process import end_by
end_by(15)
print(flush=True)
sum(range(10 ** 12))
"""
    with subprocess.Popen([sys.executable, "-c", program, *sys.path], stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        try:
            assert waiting.stdout.readline()
            waiting.terminate()
            assert waiting.wait(60) == 128 + signal.SIGTERM
        finally:
            waiting.kill()

"""A signal ends a verb with words of ours, wherever in Python it arrives: in a finalizer, or when all is over."""

import subprocess
import sys

import pytest

FINALIZERS = """
import signal, time, weakref
from pyrunc.errors import lose_no_interruption

def interrupt(number, _):
    raise KeyboardInterrupt(number)

class Thing:
    pass

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def called_back():
    thing = Thing()
    global reference
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))

def left():
    try:
        yield
    finally:
        signal.raise_signal(signal.SIGTERM)

def generated():
    next(left())

def waits():
    Finalized()
    time.sleep(60)

def loops():
    while True: Finalized()

def calls():
    return [Finalized(), time.sleep(0)] and None or wait()

def wait():
    time.sleep(60)

class Nested:
    def __del__(self):
        Finalized()

signal.signal(signal.SIGTERM, interrupt)
lose_no_interruption()
try:
    {action}
    time.sleep(60)
except KeyboardInterrupt as error:
    print("caught", *error.args)
for _ in range(3):
    print("on", end=" ")
"""


@pytest.mark.parametrize(
    "action",
    [
        "Finalized()",
        "called_back()",
        "generated()",
        "waits()",
        "loops()",
        "calls()",
        "Nested()",
        "sorted([Finalized()], key=id).clear()",
    ],
)
def test_a_signal_in_a_finalizer_is_neither_lost_nor_printed(action):
    done = run(FINALIZERS.replace("{action}", action))
    assert (done.stdout, done.stderr, done.returncode) == ("caught 15\non on on ", "", 0), done


CLEAN_UP = """
import signal, time
from pyrunc.cli import main

def made():
    try:
        raise OSError
    except OSError:
        undo()
        {after}

def undo():
    signal.raise_signal(signal.SIGTERM)
    close()

def close():
    print("undone", end=" ")

main._catch_signals()
try:
    {program}
    time.sleep(60)
except KeyboardInterrupt as error:
    print("caught", *error.args)
"""


@pytest.mark.parametrize("after", ["time.sleep(60)", "return", "raise"])
def test_a_signal_in_a_clean_up_waits_for_its_end(after):
    done = run(CLEAN_UP.replace("{program}", "made()").replace("{after}", after))
    assert (done.stdout, done.stderr, done.returncode) == ("undone caught 15\n", "", 0), done


def test_a_signal_when_the_verb_is_over_changes_nothing():
    done = run(
        """
import signal
from pyrunc.cli.main import main
status = main(["--version"])
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.raise_signal(number)
print("status", status)
"""
    )
    assert done.stdout.endswith("status 0\n"), done
    assert (done.stderr, done.returncode) == ("", 0), done


def run(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd="/")

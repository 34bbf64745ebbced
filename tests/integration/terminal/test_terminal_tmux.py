"""A terminal that a person sits at: tmux is the terminal, keys are typed into it, and what is read is its screen."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from integration.support.host import processes_of
from integration.support.runtime import wait_until

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
PROMPT = "caller> "


class Screen:
    """A shell in a window of tmux, whose terminal the runtime is called at."""

    def __init__(self, socket, scratch):
        self.socket = socket
        self.scratch = scratch
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "90", "-y", "30", f"env PS1='{PROMPT}' TERM=screen sh")
        wait_until(lambda: PROMPT.strip() in self.text, "the caller's shell")
        self.before = self.settings()

    def tmux(self, *words):
        command = ["tmux", "-S", str(self.socket), *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60).stdout

    @property
    def text(self):
        return self.tmux("capture-pane", "-p").rstrip()

    @property
    def lines(self):
        return [line.rstrip() for line in self.text.splitlines()]

    def type(self, text, enter=True):
        self.tmux("send-keys", "-l", text)
        if enter:
            self.key("Enter")

    def key(self, name):
        self.tmux("send-keys", name)

    def sees(self, line):
        wait_until(lambda: line in self.lines, f"a line {line!r} on the screen:\n{self.text}")

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def settings(self):
        """The settings of the terminal, as the caller's shell has them between two commands."""
        out = self.scratch / "stty"
        out.unlink(missing_ok=True)
        self.type(f"stty -a > {out}; echo > {out}.done")
        wait_until((self.scratch / "stty.done").exists, "stty")
        (self.scratch / "stty.done").unlink()
        return [line for line in out.read_text().splitlines() if "rows" not in line]

    def back_at_the_caller(self):
        """The shell has the terminal again, with its settings."""
        wait_until(lambda: self.lines[-1] == PROMPT.strip(), f"the prompt:\n{self.text}")
        assert self.settings() == self.before


@pytest.fixture
def screen(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    screen = Screen(folder / "tmux", folder)
    yield screen
    screen.tmux("kill-server")
    wait_until(lambda: not processes_of(f"{folder}/tmux"), "its end")


@pytest.fixture(params=["run", "exec"])
def at_screen(request, container, screen):
    """A program at the terminal, by `run` and by `exec -t`; it has written "ready"."""

    def start(script):
        c = container(terminal=request.param == "run").file("/script", f"stty -echoctl; echo ready; {script}")
        if request.param == "run":
            c._prepare(("sh", "/script"))
            words = c.runtime.command("run", "--bundle", c.bundle.path, c.id)
        else:
            words = c.up().runtime.command("exec", "-t", c.id, "sh", "/script")
        screen.type("clear; " + " ".join(words))
        screen.sees("ready")
        return c

    return start


def test_lines_begin_at_the_left(at_screen, screen):
    at_screen("echo one; echo two; printf 'three\\nfour\\n'; stty raw; printf 'a\\nb\\r\\n'; stty sane; read x")
    for line in ("one", "two", "three", "four", "a", " b"):  # in its raw mode a newline goes down, and nowhere else
        screen.sees(line)
    screen.key("Enter")
    screen.back_at_the_caller()


def test_the_size_is_the_windows_from_the_first_moment(at_screen, screen):
    at_screen("stty size")
    screen.sees("30 90")
    screen.back_at_the_caller()


def test_a_window_that_is_resized_is_a_terminal_that_is(at_screen, screen):
    at_screen("trap exit INT; trap 'stty size' WINCH; while :; do sleep 0.05; done")
    for columns, rows in ((70, 20), (120, 25)):
        screen.resize(columns, rows)
        screen.sees(f"{rows} {columns}")
    screen.key("C-c")
    screen.back_at_the_caller()


def test_control_c_is_the_programs(at_screen, screen):
    at_screen("trap 'echo trapped' INT; trap exit QUIT; while :; do sleep 0.05; done")
    screen.key("C-c")
    screen.sees("trapped")
    screen.key("C-\\")
    screen.back_at_the_caller()


def test_control_c_ends_a_program_that_does_not_mind(at_screen, screen):
    at_screen("sleep 1000")  # the shell of `run` is a PID 1, and goes on to its end
    screen.key("C-c")
    screen.back_at_the_caller()


def test_control_d_is_the_end_of_its_input(at_screen, screen):
    at_screen("cat; echo read all")
    screen.type("typed")
    screen.key("C-d")
    screen.sees("read all")
    assert screen.lines.count("typed") == 2  # one echo, by the container's terminal, and cat's
    screen.back_at_the_caller()


def test_keys_are_one_echo_and_edited_by_the_containers_terminal(at_screen, screen):
    at_screen("read x; echo got:$x; stty -echo; read y; echo got:$y")
    screen.type("abcd", enter=False)
    screen.key("BSpace")
    screen.key("Enter")
    screen.sees("got:abc")
    screen.type("secret")
    screen.sees("got:secret")
    assert "abc" in screen.lines
    assert "secret" not in screen.lines
    screen.back_at_the_caller()


def test_a_program_that_leaves_its_terminal_raw_does_not_leave_ours_so(at_screen, screen):
    at_screen("stty raw -echo; exit 3")
    screen.back_at_the_caller()
    screen.type("echo status $?")  # of stty, by now; that it is echoed and run is the point
    screen.sees("status 0")


def test_a_program_that_crashes(at_screen, screen):
    at_screen("stty raw; exec probe crash")
    screen.back_at_the_caller()


def test_a_container_that_is_killed(at_screen, screen):
    c = at_screen("stty raw; sleep 1000")
    c.kill("KILL")
    screen.back_at_the_caller()


def test_a_container_that_is_deleted(at_screen, screen):
    c = at_screen("stty raw; sleep 1000")
    c.delete("--force")
    screen.back_at_the_caller()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_runtime_that_is_told_to_end(at_screen, screen, number):
    """`run` passes the signal on. When the program has ended, the terminal is as it was."""
    c = at_screen("trap 'exit 5' TERM HUP; while :; do sleep 0.05; done")
    (runtime,) = (pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if is_foreground(pid, c))
    os.kill(runtime, number)
    screen.back_at_the_caller()


def is_foreground(pid, c):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return str(c.runtime.root).encode() in words and {b"run", b"exec"} & {*words} and os.getpgid(pid) == pid
    except OSError:
        return False


def test_a_job_in_the_background_stops_rather_than_take_the_terminal(container, screen):
    c = container(terminal=True)
    c._prepare(("sh", "-c", "echo ready; read x; echo got:$x"))
    screen.type("set -m; clear")
    screen.type(" ".join(c.runtime.command("run", "--bundle", c.bundle.path, c.id)) + " &")
    wait_until(lambda: "Stopped" in screen.text or c.runtime("state", c.id, check=False).code == 0, "the container")
    screen.type("echo still mine")
    screen.sees("still mine")
    screen.type("fg")
    wait_until(lambda: "ready" in screen.text, "its output")
    screen.type("hello")
    screen.sees("got:hello")
    screen.back_at_the_caller()


def test_less_reads_what_a_program_writes_and_its_keys(container, screen):
    """Output that is piped on: lines end as in a file."""
    c = container(terminal=True)
    c._prepare(("sh", "-c", "for i in 1 2 3; do echo line $i; done"))
    screen.type("clear; " + " ".join(c.runtime.command("run", "--bundle", c.bundle.path, c.id)) + " | od -c | head -3")
    screen.sees("0000000   l   i   n   e       1  \\n   l   i   n   e       2  \\n   l   i")
    screen.back_at_the_caller()

"""Terminals: a real one in the foreground, and one that is sent over a console socket."""

import fcntl
import os
import pty
import signal
import socket
import struct
import termios
import time

import pytest

from integration.support.runtime import wait_until
from integration.support.terminal import read_terminal, receive_descriptor


@pytest.fixture
def console(tmp_path):
    """A socket that waits for a terminal's master; its path is longer than sockaddr_un takes."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/console")
    os.close(here)
    listener.listen()
    yield folder / "console", listener
    listener.close()


class Foreground:
    """The runtime at a terminal of its own, as a shell starts it."""

    def __init__(self, c, *words, size=(40, 100)):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(slave)

        def control() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = c.runtime.spawn(*words, stdin=slave, stdout=slave, stderr=slave, preexec_fn=control)
        self.slave = slave
        self.text = ""

    def read(self, until):
        self.text += read_terminal(self.master, lambda text: until in self.text + text)
        return self.text

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        code = self.process.end(10)
        assert termios.tcgetattr(self.slave) == self.before, "the caller's terminal is not as it was"
        os.close(self.slave)
        self.text += read_terminal(self.master)
        os.close(self.master)
        return code


def at_terminal(c, *command, **how):
    c.change(terminal=True)._prepare(command)
    return Foreground(c, "run", "--bundle", c.bundle.path, c.id, **how)


def test_the_program_has_a_terminal(container):
    f = at_terminal(container(), "sh", "-c", "tty; probe attributes")
    assert f.end() == 0
    assert "/dev/console" in f.text or "/dev/pts/0" in f.text
    assert "terminal 1 1 1" in f.text
    assert "ids 1 1 1" in f.text


def test_what_is_typed_reaches_the_program(container):
    f = at_terminal(container(), "sh", "-c", 'echo ready; read line; echo "got:$line"; exit 3')
    f.read("ready")
    f.type("hello\r")
    assert f.end() == 3
    assert "got:hello" in f.text
    assert f.text.count("hello") == 2  # one echo, by the container's terminal


def test_control_c_is_a_key_of_the_containers(container):
    f = at_terminal(
        container(), "sh", "-c", "trap 'echo trapped; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    )
    f.read("ready")
    f.type("\x03")
    assert f.end() == 9
    assert "trapped" in f.text


def test_the_size_is_that_of_the_callers_terminal(container):
    f = at_terminal(container(), "probe", "size", size=(33, 77))
    assert f.end() == 0
    assert "33 77" in f.text


def test_a_new_size_reaches_the_program(container):
    f = at_terminal(
        container(), "sh", "-c", "echo ready; while [ \"$(probe size)\" != '12 34' ]; do sleep 0.02; done; echo resized"
    )
    f.read("ready")
    fcntl.ioctl(f.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 34, 0, 0))
    f.process.send_signal(signal.SIGWINCH)
    assert f.end() == 0
    assert "resized" in f.text


def test_much_output_arrives_whole(container):
    f = at_terminal(
        container(),
        "sh",
        "-c",
        "i=0; while [ $i -lt 3000 ]; do echo line-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done",
    )
    f.read("line-2999-x")
    assert f.end() == 0
    assert [int(line.split("-")[1]) for line in f.text.split() if line.startswith("line-")] == list(range(3000))


def test_exec_at_a_terminal(container):
    c = container().up()
    f = Foreground(c, "exec", "-t", c.id, "sh", "-c", "tty; probe size; read x; echo got:$x", size=(21, 43))
    f.read("21 43")
    f.type("abc\r")
    assert f.end() == 0
    assert "/dev/pts/0" in f.text
    assert "got:abc" in f.text


def test_the_master_is_sent_over_the_console_socket(container, console):
    path, listener = console
    c = container(terminal=True)
    c.create("sh", "-c", "tty; cat", flags=("--console-socket", str(path)))
    master, name = receive_descriptor(listener)
    assert name.startswith(b"/dev/")
    c.start()
    os.write(master, b"hello\n")
    text = read_terminal(master, lambda text: text.count("hello") == 2)
    os.close(master)
    assert "/dev/" in text


def test_the_console_size_of_the_configuration(container, console):
    path, listener = console
    c = container(terminal=True, consoleSize={"height": 11, "width": 22})
    c.up("probe", "size", flags=("--console-socket", str(path)))
    master, _ = receive_descriptor(listener)
    assert "11 22" in read_terminal(master)
    os.close(master)


def test_the_console_is_the_terminal(container, console):
    path, listener = console
    c = container(terminal=True)
    c.up(
        "sh",
        "-c",
        "echo to-the-console > /dev/console; stat -c '%t:%T' /dev/console; "
        "grep /dev/console /proc/self/mountinfo; sleep 1000",
        flags=("--console-socket", str(path)),
    )
    master, _ = receive_descriptor(listener)
    text = read_terminal(master, lambda text: "devpts" in text)
    os.close(master)
    assert "to-the-console" in text
    assert "88:0" in text


def test_the_terminal_is_the_users(container, console):
    path, listener = console
    c = container(terminal=True, user={"uid": 1000, "gid": 1000})
    c.up(
        "sh",
        "-c",
        "stat -c %u /dev/pts/0; echo > /dev/pts/0 && echo fine; sleep 1000",
        flags=("--console-socket", str(path)),
    )
    master, _ = receive_descriptor(listener)
    text = read_terminal(master, lambda text: "fine" in text)
    os.close(master)
    assert text.split()[0] == "1000"


def test_a_terminal_that_is_hung_up_ends_the_program(container, console):
    path, listener = console
    c = container(terminal=True).up(
        "sh", "-c", "trap exit HUP; echo ready; while :; do sleep 0.02; done", flags=("--console-socket", str(path))
    )
    master, _ = receive_descriptor(listener)
    read_terminal(master, lambda text: "ready" in text)
    os.close(master)
    c.wait_for("stopped")


def test_a_terminal_can_not_be_detached_without_a_socket(container):
    c = container(terminal=True)
    result = c.create("true", check=False)
    assert result.code == 1
    assert "cannot allocate tty if runc will detach without setting console socket" in result.err
    c.assert_gone()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_socket_without_use_is_refused(container, console, terminal):
    path, _ = console
    c = container(terminal=terminal)
    if terminal:
        result = c.attempt("true", flags=("--console-socket", str(path)))  # in the foreground the terminal is ours
    else:
        result = c.create("true", flags=("--console-socket", str(path)), check=False)
    assert result.code == 1
    assert "cannot use console socket if runc will not detach or allocate tty" in result.err
    c.assert_gone()


@pytest.mark.parametrize("what", ["nothing", "a file", "nobody listens"])
def test_a_socket_that_is_none_leaves_no_container(container, tmp_path, what):
    place = tmp_path / "console"
    if what == "a file":
        place.touch()
    if what == "nobody listens":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
    c = container(terminal=True)
    result = c.create("true", flags=("--console-socket", str(place)), check=False)
    assert result.code == 1
    assert str(place) in result.err
    c.assert_gone()


def test_a_receiver_that_hangs_up_leaves_no_container(container, console):
    path, listener = console
    c = container(terminal=True)
    c._prepare(("sleep", "1000"))
    creating = c.runtime.spawn("create", "--bundle", c.bundle.path, "--console-socket", path, c.id)
    connection, _ = listener.accept()
    connection.close()
    code = creating.end(10)
    if code:
        c.assert_gone()
    else:  # it had sent the master before the other side hung up: the same as a terminal that is hung up
        c.delete("--force")
        c.assert_gone()


def test_without_a_terminal_there_is_none(container):
    assert "terminal 0 0 0" in container().run("probe", "attributes")


def test_the_container_can_not_reach_the_callers_terminal(container):
    """The program has a session of its own, without a terminal."""
    c = container()
    c._prepare(("sh", "-c", "cat /dev/tty; echo x > /dev/tty; true"))
    f = Foreground(c, "run", "--bundle", c.bundle.path, c.id)
    assert f.end() == 0
    assert "No such device or address" in f.text or "can't create /dev/tty" in f.text


def test_a_program_that_stops_reading_does_not_hang_the_runtime(container):
    f = at_terminal(container(), "sh", "-c", "stty raw -echo; echo ready; sleep 0.3; exit 4")
    f.read("ready")
    os.set_blocking(f.master, False)
    try:
        for _ in range(50):
            os.write(f.master, b"x" * 4096)
            time.sleep(0.002)
    except BlockingIOError:
        pass
    assert f.process.end(10) == 4
    os.close(f.slave)
    os.close(f.master)


# --- streams that are no terminal


def lines_of(c, *words, **how):
    process = c.runtime.spawn(*words, **how)
    return process.end(10), process.out


def given(text):
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    return read


@pytest.mark.parametrize(("typed", "seen"), [(b"abc", "abcabc"), (b"abc\n", "abc\nabc\n"), (b"", "")])
def test_the_end_of_our_input_is_the_end_of_the_programs(container, typed, seen):
    """In a line that has begun, the first ^D ends only the line."""
    c = container().up()
    read = given(typed)
    code, out = lines_of(c, "exec", "-t", c.id, "cat", stdin=read)
    os.close(read)
    assert (code, out) == (0, seen)  # the echo, and cat's; \n alone, as it goes to a file


@pytest.mark.parametrize("typed", [b"", b"echo hel''lo\n"])
def test_a_shell_that_prompts_late_hears_of_the_end_of_our_input(container, typed):
    """It makes its terminal raw. The key for the end, typed before that, is none then."""
    c = container().up()
    read = given(typed)
    code, out = lines_of(c, "exec", "-t", c.id, "sh", "-c", "sleep 0.1; exec sh", stdin=read)
    os.close(read)
    assert (code, "hello" in out) == (0, bool(typed))


def test_the_size_is_that_of_the_first_stream_that_is_a_terminal(container):
    c = container().up()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 19, 55, 0, 0))
    _, out = lines_of(c, "exec", "-t", c.id, "probe", "size", stderr=slave)
    os.close(slave)
    os.close(master)
    assert out == "19 55\n"


def test_without_any_terminal_it_has_the_size_of_the_configuration(container):
    c = container(terminal=True, consoleSize={"height": 9, "width": 44})
    c._prepare(("probe", "size"))
    _, out = lines_of(c, "run", "--bundle", c.bundle.path, c.id)
    assert out == "9 44\n"


def test_input_that_does_not_block_and_has_nothing_yet_is_not_at_its_end(container):
    c = container().up()
    read, write = os.pipe()
    os.set_blocking(read, False)
    process = c.runtime.spawn("exec", "-t", c.id, "sh", "-c", "echo ready; cat", stdin=read)
    wait_until(lambda: "ready" in process.out, "the program")
    time.sleep(0.1)
    os.write(write, b"late\n")
    os.close(write)
    assert process.end(10) == 0
    assert process.out.count("late") == 2
    os.close(read)


def test_output_that_does_not_block_gets_everything(container):
    c = container().up()
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = c.runtime.spawn("exec", "-t", c.id, "sh", "-c", "yes 0123456789 | head -c 330000", stdout=write)
    os.close(write)
    time.sleep(0.3)  # the pipe is full
    data = b""
    while block := os.read(read, 65536):
        data += block
    os.close(read)
    assert process.end(10) == 0
    assert data == b"0123456789\n" * 30000


def test_a_signal_is_passed_on_while_nobody_reads_the_output(container):
    c = container().up()
    read, write = os.pipe()
    script = "trap 'touch /tmp/trapped; exit' TERM; yes & touch /tmp/ready; while :; do sleep 0.05; done"
    process = c.runtime.spawn("exec", "-t", c.id, "sh", "-c", script, stdout=write)
    os.close(write)
    wait_until((c.bundle.rootfs / "tmp/ready").exists, "the program")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    wait_until((c.bundle.rootfs / "tmp/trapped").exists, "the signal")
    os.close(read)
    process.end(10)


def test_a_program_whose_output_nobody_reads_any_more_hears_that_it_is_hung_up(container):
    c = container().up()
    read, write = os.pipe()
    process = c.runtime.spawn("exec", "-t", c.id, "sh", "-c", "trap 'exit 6' HUP; while :; do echo x; sleep 0.02; done",
                              stdout=write)  # fmt: skip
    os.close(write)
    assert os.read(read, 1) == b"x"
    os.close(read)
    assert process.end(10) == 6


def test_a_program_that_lets_go_of_its_terminal_runs_on(container):
    c = container().up()
    script = "exec < /dev/null > /dev/null 2>&1; sleep 0.3; touch /tmp/alive; exit 8"
    code, _ = lines_of(c, "exec", "-t", c.id, "sh", "-c", script)
    assert code == 8
    assert (c.bundle.rootfs / "tmp/alive").exists()


def test_a_signal_just_when_the_program_runs_is_the_programs(container):
    """The program's first line is seen before `run` is done with starting it."""
    for _ in range(5):
        c = container(terminal=True)
        c._prepare(("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"))
        process = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
        wait_until(lambda process=process: "ready" in process.out, "the program")
        process.send_signal(signal.SIGTERM)
        assert process.end(10) == 7


# --- exec -t


def test_the_terminal_of_exec_is_its_users(container):
    c = container().up()
    script = "stat -c %u:%g $(tty); echo > $(tty) && echo ok"
    f = Foreground(c, "exec", "-t", "-u", "1000:1000", c.id, "sh", "-c", script)
    assert f.end() == 0
    assert "1000:5" in f.text
    assert "ok" in f.text


def test_terminals_of_exec_are_each_others_strangers(container):
    """Each session has a terminal of its own in the container's devpts. None can read the keys of another."""
    c = container().up()
    first = Foreground(c, "exec", "-t", c.id, "sh", "-c", "tty; echo ready; read x; echo got:$x")
    first.read("ready")
    second = Foreground(c, "exec", "-t", c.id, "sh", "-c", "tty; echo ready; read x; echo got:$x")
    second.read("ready")
    second.type("two\r")
    first.type("one\r")
    assert (first.end(), second.end()) == (0, 0)
    assert ("/dev/pts/0" in first.text, "/dev/pts/1" in second.text) == (True, True)
    assert ("got:one" in first.text, "got:two" in second.text) == (True, True)


def test_exec_at_a_terminal_without_a_devpts_is_an_error(container):
    c = container()
    c.config["mounts"] = [mount for mount in c.config["mounts"] if mount["type"] != "devpts"]
    result = c.up().attempt_exec("true", flags=("-t",))
    assert result.code == 255
    assert "/dev/pts/ptmx" in result.err

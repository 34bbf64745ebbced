"""run, in the foreground and detached, and the descriptors that a program gets."""

import os
import signal

import pytest

from integration.support.runtime import wait_until


def test_run_prints_what_the_program_prints(container):
    assert container().run("echo", "hello") == "hello"


def test_run_leaves_nothing(container):
    c = container()
    c.run("true")
    c.assert_gone()


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_run_ends_as_the_program_ended(container, code):
    assert container().attempt("sh", "-c", f"exit {code}").code == code


def test_run_of_a_program_that_a_signal_ended(container):
    c = container()
    c._prepare(("sleep", "1000"))
    running = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: (c.runtime.root / c.id).exists() and c.status == "running", "the container")
    c.kill("KILL")
    assert running.end(10) == 128 + signal.SIGKILL
    c.assert_gone()


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1", "USR2", "QUIT"])
def test_run_passes_signals_on(container, name):
    c = container()
    c._prepare(("sh", "-c", f"trap 'echo {name}; exit 7' {name}; echo ready; while :; do sleep 0.01; done"))
    running = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: "ready" in running.out, "the trap")
    running.send_signal(getattr(signal, f"SIG{name}"))
    assert running.end(10) == 7
    assert running.out == f"ready\n{name}\n"
    c.assert_gone()


def test_run_passes_a_signal_on_that_comes_before_start_has_returned(container):
    c = container(hooks={"poststart": [{"path": "/bin/sleep", "args": ["sleep", "1"]}]})
    c._prepare(("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"))
    running = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: "ready" in running.out, "the trap")
    running.send_signal(signal.SIGTERM)
    assert running.end(10) == 7
    c.assert_gone()


def test_run_detached_returns_while_the_program_runs(container):
    c = container().up()
    assert c.status == "running"


def test_a_detached_program_keeps_the_streams(container):
    c = container()
    c._prepare(("sh", "-c", "sleep 0.1; echo late"))
    result = c.runtime.spawn("run", "-d", "--bundle", c.bundle.path, c.id)
    assert result.end(10) == 0
    wait_until(lambda: result.out == "late\n", "its output")


def test_run_keeps_a_container_when_asked(container):
    c = container()
    assert c.attempt("sh", "-c", "exit 3", flags=("--keep",)).code == 3
    assert c.status == "stopped"
    c.delete()
    c.assert_gone()


def test_run_reads_its_input(container):
    c = container()
    c._prepare(("cat",))
    read, write = os.pipe()
    running = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, stdin=read)
    os.close(read)
    os.write(write, b"hello\n")
    os.close(write)
    assert running.end(10) == 0
    assert running.out == "hello\n"


def test_run_of_a_missing_program_leaves_nothing(container):
    assert "/no/such" in container().refused("/no/such")


def test_a_first_process_that_leaves_orphans_takes_them_along(container):
    c = container()
    c.run("sh", "-c", "(sleep 1000 &) ; exit 0")
    c.assert_gone()


# --- descriptors


def test_a_program_gets_three_descriptors(container):
    names = [line.split()[0] for line in container().run("probe", "descriptors").splitlines()]
    assert names == ["0", "1", "2"]


def test_descriptors_of_the_caller_are_preserved_when_asked(container, tmp_path):
    (tmp_path / "file").write_text("text")
    fds = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(3)]

    def arrange() -> None:
        for number, fd in zip((103, 104, 105), fds, strict=True):
            os.dup2(fd, number)
        for number in (3, 4, 5):
            os.dup2(number + 100, number)
            os.set_inheritable(number, True)

    try:
        out = container().run(
            "probe", "descriptors", flags=("--preserve-fds", "2"), preexec_fn=arrange, close_fds=False
        )
    finally:
        for fd in fds:
            os.close(fd)
    assert [line.split()[0] for line in out.splitlines()] == ["0", "1", "2", "3", "4"]


def test_a_descriptor_that_is_not_there_can_not_be_preserved(container):
    assert "preserv" in container().refused("true", flags=("--preserve-fds", "1"))


def test_sockets_of_activation_are_handed_on(container, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)

    def arrange() -> None:
        os.dup2(fd, 103)
        os.dup2(103, 3)
        os.set_inheritable(3, True)

    try:
        out = container().run(
            "sh",
            "-c",
            "echo $LISTEN_FDS $LISTEN_PID; probe descriptors",
            preexec_fn=arrange,
            close_fds=False,
            env={**os.environ, "LISTEN_FDS": "1"},
        )
    finally:
        os.close(fd)
    first, *rest = out.splitlines()
    assert first == "1 1"
    assert [line.split()[0] for line in rest] == ["0", "1", "2", "3"]


def test_sockets_that_were_meant_for_another_process_are_not_handed_on(container):
    out = container().run(
        "sh", "-c", "echo $LISTEN_FDS $LISTEN_PID", env={**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    )
    assert out.strip() == ""

"""A CRIU that hangs, dies, or says what makes no sense. Of a container that runs nothing may be lost."""

import os
import subprocess
import sys
import time

import pytest

from integration.support.runtime import wait_until

PROGRAM = """#!{python} -I
import os, socket, sys, time
line = socket.socket(fileno=int(sys.argv[2]))

def number(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

def field(n, value):
    if isinstance(value, int):
        return number(n << 3) + number(value)
    return number(n << 3 | 2) + number(len(value)) + value

def answer(kind, *more, success=True):
    return field(1, kind) + field(2, success) + b"".join(more)

VERSION = answer(9 + 1, field(10, field(1, 4) + field(2, 1)))
NOTE = lambda what, pid: answer(6, field(5, field(1, what) + field(2, pid)))
while True:
    asked = line.recv(1 << 16)
    if not asked:
        break
    if asked[:2] == bytes([8, 10]):
        line.send(VERSION)
        continue
    if asked[:2] != bytes([8, 6]):
        kind = asked[1]
    {what}
"""


@pytest.fixture
def with_criu(saved, tmp_path):
    """One whose answer to what it is asked for, of number `kind`, is a statement."""

    def make(what, **changes):
        s = saved(**changes)
        folder = tmp_path / "programs"
        folder.mkdir()
        (folder / "criu").write_text(PROGRAM.format(python=sys.executable, what=what))
        (folder / "criu").chmod(0o755)
        s.real, s.environment["PATH"] = s.environment["PATH"], f"{folder}:{os.environ['PATH']}"
        return s

    return make


NONSENSE = {
    "nothing": "line.send(b'')",
    "garbage": "line.send(os.urandom(100))",
    "huge": "line.setsockopt(1, 7, 1 << 22); line.send(bytes(100000))",
    "another answer": "line.send(VERSION)",
    "success without files": "line.send(answer(kind))",
    "no success": "line.send(answer(kind, field(7, 13), field(9, b'\\\\x1b[31m\\\\xff'), success=False))",
    "a pid that is none": "line.send(NOTE(b'setup-namespaces', -5)); os._exit(3)",
    "the pid of another": "line.send(NOTE(b'setup-namespaces', os.getppid())); os._exit(3)",
    "many descriptors": "socket.send_fds(line, [NOTE(b'x', 0)], [0] * 10); line.recv(1000); os._exit(3)",
    "death": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_checkpoint_by_one_that_talks_nonsense(with_criu, what):
    s = with_criu(NONSENSE[what]).counting()
    result = s.checkpoint(check=False)
    assert result.code == 1, result
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err
    s.assert_goes_on(wait_until)


@pytest.mark.parametrize("what", NONSENSE)
def test_a_restore_by_one_that_talks_nonsense(with_criu, what):
    s = with_criu(NONSENSE[what])
    s.container.config["process"]["args"] = ["true"]
    s.container.bundle.write()
    s.images.mkdir()
    (s.images / "inventory.img").write_bytes(b"x")
    words = s.refused()
    assert words.startswith("pyrunc: ")
    if " pid " in f"{what} ":
        assert "is none that it has made" in words


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_one_that_hangs_is_ended_by_delete(with_criu, verb):
    s = with_criu("time.sleep(1000)")
    if verb == "checkpoint":
        s.counting()
        where = ()
    else:
        s.container.bundle.write()
        s.images.mkdir()
        (s.images / "inventory.img").write_bytes(b"x")
        where = ("--detach", "--bundle", s.container.bundle.path)
    process = s.runtime.spawn(
        verb, "--image-path", s.images, "--work-path", s.work, *where, s.container.id,
        env=s.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(0.5)
    s.container.delete("--force")
    assert process.end(30) != 0
    s.container.assert_gone()

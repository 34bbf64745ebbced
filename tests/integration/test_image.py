"""The image: one file in which everything is, and that starts where its builder stood.

Only where the program under test is one (docs/image.md says how to make it); the ordinary program skips all of this.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from integration import harness

SHIM = "containerd-shim-pyrunc-v2"


pytestmark = pytest.mark.skipif(not harness.is_image(harness.program()), reason="the program is no image")


@pytest.fixture
def empty(tmp_path):
    """A root file system with the program, a bundle, and what the kernel gives."""
    root = tmp_path / "empty"
    for name in ("proc", "sys", "dev", "run", "bundle/rootfs/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(harness.program(), root / "pyrunc")
    (root / SHIM).symlink_to("pyrunc")
    shutil.copy("/bin/busybox", root / "bundle/rootfs/bin/busybox")
    script = f"""
        mount --bind {root} {root} && cd {root} && mount --rbind /proc proc && mount --rbind /sys sys &&
        mount --rbind /dev dev && exec chroot . "$@"
    """

    def run(*words: str, code: int = 0) -> str:
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
        command = ["unshare", "-m", "--uts", *clean, "/bin/sh", "-c", script, "sh", *words]
        with open(tmp_path / "said", "w+") as said:  # not a pipe, which a container would hold open
            result = subprocess.run(command, stdout=said, stderr=said, timeout=120, stdin=subprocess.DEVNULL)
            said.seek(0)
            text = said.read()
        assert result.returncode == code, text
        return text

    run.root = root
    return run


def test_every_verb_works_where_there_is_nothing_else(empty):
    bundle = empty.root / "bundle"
    empty("/pyrunc", "spec", "--bundle", "/bundle")
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/busybox", "echo", "hello"]}
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
    }
    (bundle / "config.json").write_text(json.dumps(config))
    id = f"{harness.MARK}-empty"
    pyrunc = ("/pyrunc", "--root", "/run/pyrunc")
    assert "hello" in empty(*pyrunc, "run", "--bundle", "/bundle", id)
    config["process"]["args"] = ["/bin/busybox", "sleep", "1000"]
    (bundle / "config.json").write_text(json.dumps(config))
    try:
        empty(*pyrunc, "create", "--bundle", "/bundle", id)
        empty(*pyrunc, "start", id)
        assert json.loads(empty(*pyrunc, "state", id))["status"] == "running"
        assert "Seccomp:\t2" in empty(*pyrunc, "exec", id, "/bin/busybox", "cat", "/proc/self/status")
        assert id in empty(*pyrunc, "list")
        empty(*pyrunc, "pause", id)
        empty(*pyrunc, "resume", id)
        empty(*pyrunc, "update", "--pids-limit", "100", id)
        assert json.loads(empty(*pyrunc, "events", "--stats", id))["type"] == "stats"
    finally:
        empty(*pyrunc, "delete", "--force", id)


def test_what_explains_works_where_there_is_nothing_else(empty):
    features = json.loads(empty("/pyrunc", "features"))
    assert features["annotations"]["io.github.seccomp.libseccomp.version"]
    for word in ("python: 3.", "libc: glibc ", "libseccomp: "):
        assert word in empty("/pyrunc", "--version")
    assert "create" in empty("/pyrunc", "--help")
    assert "complete" in empty("/pyrunc", "completion", "bash")
    (empty.root / "bundle/config.json").write_text('{"ociVersion": "1.0.2", "process": {"cwd": 3, "args": ["x"]}}')
    assert "/process/cwd: expected a string" in empty("/pyrunc", "validate", "--bundle", "/bundle", code=1)
    assert "Version" in empty(f"/{SHIM}", "-v")


def test_the_file_that_runs_is_read_only_and_attached_nowhere(container):
    c = container()
    c.create("true")
    exe = f"/proc/{c.pid}/exe"
    assert os.readlink(exe) == "/"
    handle = os.open(exe, os.O_PATH)
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    c.delete("--force")
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    os.close(handle)


def test_addresses_that_the_kernel_gives_are_others_in_each_process(container):
    """The image's own place is fixed: 16 bits of it are chosen when it is built."""
    found = []
    for _ in range(2):
        c = container()
        c.create("true")
        lines = Path(f"/proc/{c.pid}/maps").read_text().splitlines()
        found.append([line.partition("-")[0] for line in lines if line.endswith(("[stack]", "[vdso]", "[heap]"))])
        c.delete("--force")
    assert len(found[0]) == 3
    assert not {*found[0]} & {*found[1]}


def test_nothing_of_its_builder_is_in_it():
    image = Path(harness.program()).read_bytes()
    for variable in (b"\0HOME=/", b"\0PATH=/usr", b"\0LANG=", b"\0PWD="):
        assert variable not in image


def test_a_process_that_waits_for_start_has_little_memory_of_its_own(container):
    c = container()
    c.create("true")
    smaps = Path(f"/proc/{c.pid}/smaps_rollup").read_text()
    own = int(re.search(r"Anonymous:\s+(\d+) kB", smaps).group(1))  # a file that was just written is dirty itself
    assert own <= 1500, smaps


def test_state_takes_few_instructions(container):
    """Counted one by one: ptrace(2), PTRACE_SINGLESTEP. 14.8 M are a bare interpreter's alone."""
    c = container().up()
    assert instructions(c.runtime.command("state", c.id)) < 1_200_000


PTRACE_TRACEME, PTRACE_SINGLESTEP = 0, 9


def instructions(command: list[str]) -> int:
    """From execve to exit, of the process itself, in user mode."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    pid = os.fork()
    if pid == 0:
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        ptrace(PTRACE_TRACEME, 0, None, None)
        os.execv(command[0], command)
    count = 0
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0
            return count
        stopped = os.WSTOPSIG(status)
        count += 1
        ptrace(PTRACE_SINGLESTEP, pid, None, ctypes.c_void_p(0 if stopped == signal.SIGTRAP else stopped))

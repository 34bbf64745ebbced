"""Killed before any of its system calls, a verb leaves what delete --force removes: the command itself, or one of the
processes that it has made.

Every few calls one is chosen. With PYRUNC_FULL=1 every call of every process; PYRUNC_KILL="create 1 77" chooses the
77th call of the second process of create, and no other; 70-90 is one after the other.
"""

import ctypes
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

from integration.support.everything import EVERYTHING
from integration.support.host import processes_of
from integration.support.runtime import wait_until
from sizes import FULL, size

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if FULL else 300)]
SOURCE = Path(__file__).with_name("inject.c")
KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
CLONE_NEWNET = 0x40000000
DEVICE = "pyrunckill0"


@pytest.fixture(scope="module")
def inject(tmp_path_factory):
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("NOT TESTED: inject.c is for x86_64 and aarch64")
    program = tmp_path_factory.mktemp("inject") / "inject"
    subprocess.run(["cc", "-O1", "-Wall", "-o", program, SOURCE], check=True, timeout=60)
    return program


@pytest.fixture
def network():
    """One of the test's own, which a device can leave."""
    libc, own = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    yield
    assert libc.setns(own, CLONE_NEWNET) == 0
    os.close(own)


class Trial:
    """The verbs: each makes what it needs, is called, and says what must be true after it was killed."""

    def __init__(self, container, tmp_path):
        self.container = container
        self.source = tmp_path / "source"
        self.source.mkdir()

    def make(self):
        c = self.last = self.container(**EVERYTHING).file("/etc/secret", "secret").reachable()
        script = f": {c.bundle.path}"  # by this its processes are known
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}
        c.change(hooks={kind: [hook] for kind in KINDS})
        return c

    def create(self, **how):
        subprocess.run(["ip", "link", "add", DEVICE, "type", "veth", "peer", f"{DEVICE}p"], check=False, timeout=60,
                       capture_output=True)  # fmt: skip
        c = self.make().change(netDevices={DEVICE: {"name": "eth7"}})
        return c.create("sleep", "1000", check=False, **how)

    def run(self, **how):
        return self.make().attempt("true", **how)

    def start(self, **how):
        self.make().create("sleep", "1000")
        return self.last.start(check=False, **how)

    def exec(self, **how):
        result = self.make().up().attempt_exec("true", **how)
        wait_until(lambda: "true" not in self.last.exec("ps", "-o", "comm"), "the program to end")
        return result

    def update(self, **how):
        """Devices and limits."""
        c = self.make().up()
        words = ("update", "--pids-limit", "77", "--device-add", "/dev/zero:/dev/more/zero", c.id)
        result = c.runtime(*words, check=False, **how)
        c.runtime("update", "--device-rm", "/dev/more/zero", c.id, check=False)
        c.runtime(*words)  # it can be done all the same
        assert c.exec("dd", "if=/dev/more/zero", "bs=1", "count=1") == "\0"
        c.runtime("update", "--device-rm", "/dev/more/zero", c.id)
        assert c.exec("ls", "/dev/more") == ""
        return result

    def mounts(self, **how):
        c = self.make().change(root={"path": "rootfs"}).up()
        entries = [{"destination": f"/given{n}", "type": "bind", "source": str(self.source), "options": ["bind"]}
                   for n in range(2)]  # fmt: skip
        file = c.bundle.path / "mounts.json"
        file.write_text(json.dumps(entries))
        result = c.runtime("mounts", "add", c.id, file, check=False, **how)
        c.runtime("mounts", "remove", c.id, file, check=False)
        assert "/given" not in c.exec("cat", "/proc/mounts")
        c.runtime("mounts", "add", c.id, file)
        c.runtime("mounts", "remove", c.id, file)
        return result

    def delete(self, **how):
        c = self.make().up()
        return c.runtime("delete", "--force", c.id, check=False, **how)

    def kill(self, **how):
        c = self.make().up()
        return c.runtime("kill", c.id, "KILL", check=False, **how)


def counted(log):
    """process -> how many calls it makes."""
    found: dict[int, int] = {}
    for line in log.read_text().splitlines():
        process, nth = map(int, line.split()[:2])
        found[process] = nth
    return found


def chosen(counts, verb):
    if one := os.environ.get("PYRUNC_KILL"):
        which, process, nth = one.split()
        first, _, last = nth.partition("-")
        return [(int(process), n) for n in range(int(first), int(last or first) + 1) if which == verb]
    every = [(process, nth) for process, most in counts.items() for nth in range(1, most + 1)]
    apart = 1 if FULL else max(1, len(every) // size(0, 5))
    return every[apart // 2 :: apart]


@pytest.mark.parametrize("verb", ["create", "run", "start", "exec", "update", "mounts", "delete", "kill"])
def test_a_verb_that_is_killed(verb, container, inject, tmp_path, network):
    trial = Trial(container, tmp_path)
    act, log = getattr(trial, verb), tmp_path / "calls"
    act()  # what is cached is the same for all that follow
    trial.last.delete("--force")
    result = act(wrapper=tuple(map(str, (inject, log, -1, 0, 0))))
    assert result.code == 0, repr(result)
    trial.last.delete("--force")
    tries = chosen(counted(log), verb)
    wrong, killed = [], 0
    for process, nth in tries:
        problem = ""
        try:
            result = act(wrapper=tuple(map(str, (inject, log, process, nth, 0))))
            killed += log.read_text() != ""
            if "Traceback" in result.err or "internal error" in result.err:
                problem = "that is no message"
            trial.last.delete("--force")
            wait_until(lambda: not trial.last.leftovers(), "what is left to go", 10)
            trial.last.delete("--force")
        except AssertionError as failure:
            problem = f"{failure} {trial.last.leftovers()}"[-1000:]
        if problem:
            wrong.append(f'PYRUNC_KILL="{verb} {process} {nth}": {problem}; exit {result.code}: {result.err[-500:]!r}')
            trial.last.delete("--force", check=False)
    print(f"{verb}: {len(tries)} moments, {killed} killed")
    assert not wrong, f"{len(wrong)} of {len(tries)}\n" + "\n".join(wrong)
    assert killed >= len(tries) * 0.9
    assert not processes_of(str(tmp_path))

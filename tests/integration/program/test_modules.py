"""Start-up is a feature: what each verb loads, by name. What is heavy is loaded where it is used, off the path."""

import subprocess
import sys
from pathlib import Path

import pytest

from integration.support.faulty import PACKAGES
from integration.support.modules import ALLOWED, FORBIDDEN

RUN = """
import posix, sys
before = set(sys.modules)
sys.path.append(sys.argv[1])
from pyrunc.cli.main import main
code = main(sys.argv[3:])
with open(sys.argv[2], "w") as file:
    file.write("\\n".join(sorted(set(sys.modules) - before)))
posix._exit(code)
"""


@pytest.fixture
def loaded(container, tmp_path):
    """The modules of our own and the others that a verb has loaded when it is done."""

    class Recorder:
        c = container(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}],
            },
            hooks={"createRuntime": [{"path": "/bin/true"}]},
            hostname="x",
            maskedPaths=["/proc/kcore"],
            readonlyPaths=["/proc/sys"],
        )

        def __call__(self, *words, code=0):
            out = tmp_path / "modules"
            command = [
                sys.executable,
                "-I",
                "-S",
                "-c",
                RUN,
                str(PACKAGES),
                str(out),
                "--root",
                str(self.c.runtime.root),
                *map(str, words),
            ]
            with open(tmp_path / "printed", "wb") as output:
                process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=30)
            assert process.returncode == code, (tmp_path / "printed").read_text()
            return set(out.read_text().split())

    recorder = Recorder()
    container(seccomp=recorder.c.config["linux"]["seccomp"]).run("true")  # the filter is in the cache from here on
    recorder.c._prepare(("sleep", "1000"))
    return recorder


def check(modules):
    ours = {name for name in modules if name == "pyrunc" or name.startswith("pyrunc.")}
    others = modules - ours
    assert not others & FORBIDDEN, sorted(others & FORBIDDEN)
    assert others <= ALLOWED, f"not on the list: {sorted(others - ALLOWED)}"
    return ours


def test_create_start_state_kill_delete(loaded):
    c = loaded.c
    check(loaded("create", "--bundle", c.bundle.path, c.id))
    for words in (("start", c.id), ("state", c.id), ("kill", c.id, "KILL")):
        ours = check(loaded(*words))
        assert "pyrunc.container.foreground" not in ours
    c.wait_for("stopped")
    check(loaded("delete", c.id))


ASKED_FOR = {
    "pyrunc.cli.timeline",
    "pyrunc.container.annotations",
    "pyrunc.container.ended",
    "pyrunc.container.late_devices",
    "pyrunc.container.late_mounts",
    "pyrunc.init.confine",
    "pyrunc.linux.exits",
    "pyrunc.linux.landlock",
}


def test_what_is_not_asked_for_is_not_loaded(loaded):
    c = loaded.c
    for words in (("run", "-d", "--bundle", c.bundle.path, c.id), ("state", c.id), ("exec", c.id, "true")):
        ours = loaded(*words)
        assert not ours & ASKED_FOR
        assert not {name for name in ours if name.startswith(("pyrunc.explain", "pyrunc.doctor", "pyrunc.learn"))}
    loaded("delete", "--force", c.id)


def test_exec(loaded):
    c = loaded.c
    c.up()
    check(loaded("exec", c.id, "true"))
    check(loaded("exec", "-d", c.id, "true"))


def test_run(loaded):
    c = loaded.c
    c._prepare(("true",))
    check(loaded("run", "--bundle", c.bundle.path, c.id))
    check(loaded("run", "-d", "--bundle", c.bundle.path, f"{c.id}-d"))


@pytest.mark.parametrize("words", [("list", "-q"), ("--version",)])
def test_verbs_that_need_little(loaded, words):
    check(loaded(*words))


def test_an_error_on_the_path_loads_nothing_more(loaded):
    check(loaded("state", "nobody", code=1))
    check(loaded("delete", "--force", "nobody"))


def test_simple_verbs_load_no_steps(loaded):
    """state and kill have nothing to do with what happens between clone and execve."""
    c = loaded.c.up()
    for words in (("state", c.id), ("kill", c.id, "0")):
        ours = check(loaded(*words))
        heavy = {"pyrunc.spec._checker", "pyrunc.spec.load", "pyrunc.spec.rules"} & ours
        assert not heavy, heavy


def test_the_package_is_the_one_that_is_tested():
    assert (Path(PACKAGES) / "pyrunc/cli/main.py").exists()

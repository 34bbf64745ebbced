"""The interpreter is sealed: a container that reaches /proc/PID/exe of the runtime can't write to it. CVE-2019-5736"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration import harness
from integration.harness import full, namespaces, wait_until

INTERPRETER = Path(os.path.realpath(sys._base_executable))
ALL = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_MKNOD",
]  # fmt: skip


@pytest.fixture(autouse=True)
def launcher(binary):
    if Path(binary).read_bytes()[:4] != b"\x7fELF":
        pytest.skip(f"{binary} is not the launcher that pip installs")


@pytest.fixture(autouse=True)
def unchanged_interpreter():
    before = hashlib.sha256(INTERPRETER.read_bytes()).digest(), INTERPRETER.stat().st_mtime_ns
    yield
    assert (hashlib.sha256(INTERPRETER.read_bytes()).digest(), INTERPRETER.stat().st_mtime_ns) == before


def attacker(container):
    """It sees all processes of the host, and may look into each."""
    c = container(namespaces=namespaces("mount"), capabilities=full(*ALL))
    c.up("sh", "-c", f"probe overwrite-exe {INTERPRETER.stat().st_ino} 60 > /tmp/out")
    wait_until(lambda: "ready" in (c.bundle.rootfs / "tmp/out").read_text(), "the attack")
    return c


def outcome(c):
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    text = (c.bundle.rootfs / "tmp/out").read_text()
    seen, written, errors = re.search(r"seen (\d+) written (\d+) outcomes (.*)", text).groups()
    return int(seen), int(written), set(errors.split())


def test_the_attack_finds_an_interpreter_that_is_not_sealed(container):
    """Else the other tests would prove nothing: Python itself, by its path."""
    c = attacker(container)
    for _ in range(3):
        subprocess.run([INTERPRETER, "-I", "-S", "-c", "import time; time.sleep(0.1)"], check=True, timeout=30)
    seen, written, errors = outcome(c)
    assert seen
    assert written or errors == {"ETXTBSY"}  # the kernel's own lock, while it runs


@pytest.mark.parametrize("verb", ["exec", "create", "run", "state"])
def test_a_running_verb(container, verb):
    c = attacker(container)
    for _ in range(8):
        if verb == "exec":
            c.exec("true")
        elif verb == "state":
            c.state()
        elif verb == "run":
            container(namespaces=namespaces("mount")).run("true")
        else:
            other = container()
            other.create("true")
            other.delete("--force")
    seen, written, errors = outcome(c)
    assert written == 0
    assert errors <= {"EROFS", "ETXTBSY", "EACCES", "EPERM"}
    assert "EROFS" in errors or not seen


def test_a_process_that_waits_for_start(container):
    other = container()
    other.create("true")
    exe = f"/proc/{other.pid}/exe"
    assert os.stat(exe).st_ino == INTERPRETER.stat().st_ino
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(exe, os.O_WRONLY)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loader is written for x86_64")
@pytest.mark.parametrize("how", ["script", "path", "exec"])
def test_a_program_that_is_the_runtime_itself(container, tmp_path, how):
    """The image's dynamic loader runs in the runtime's process, with its file as /proc/self/exe."""
    loader = tmp_path / "loader"
    source = Path(harness.__file__).with_name("loader.c")
    subprocess.run(["cc", "-nostdlib", "-static-pie", "-fPIE", "-O1", "-fno-stack-protector", "-o", loader, source], check=True, timeout=60)
    c = container(capabilities=full(*ALL))
    for place in ("lib64", "lib"):
        (c.bundle.rootfs / place).mkdir()
    place = c.bundle.rootfs / "lib64/ld-linux-x86-64.so.2"
    place.write_bytes(loader.read_bytes())
    place.chmod(0o755)
    c.file("/script", "#!/proc/self/exe\n", 0o755)
    if how == "exec":
        c.up()
        result = c.attempt_exec("/script")
    else:
        result = c.attempt("/script" if how == "script" else "/proc/self/exe")
    assert result.code in (30, 1, 255), repr(result)  # EROFS; or it could not be executed at all
    assert result.code == 30 or "exec" in result.err


def test_the_launcher_is_not_what_runs(container):
    """Once it has started the interpreter nothing of it is left to write to."""
    other = container()
    other.create("true")
    assert os.readlink(f"/proc/{other.pid}/exe") != os.path.realpath(harness.program())

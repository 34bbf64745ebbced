"""The interpreter is sealed: a container that reaches /proc/PID/exe of the runtime can't write to it. CVE-2019-5736"""

import errno
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import _cffi_backend
import pytest

from integration.support.bundle import full, namespaces
from integration.support.faulty import PACKAGES
from integration.support.runtime import is_image, program, wait_until

LOADER = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}[platform.machine()]
INTERPRETER = Path(os.path.realpath(sys._base_executable))
ALL = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETUID",
    "CAP_SYS_PTRACE",
    "CAP_SYS_ADMIN",
    "CAP_MKNOD",
]


class Sealed:
    """An installation of copies: nobody else runs this interpreter, so that what keeps it from being written to is the
    seal and not the kernel's lock on a file that runs (ETXTBSY)."""

    def __init__(self, prefix: Path, binary: str) -> None:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.program = prefix / "bin/pyrunc"
        self.interpreter = prefix / "bin" / python
        self.program.parent.mkdir(parents=True)
        shutil.copy(binary, self.program)
        shutil.copy(INTERPRETER, self.interpreter)
        (prefix / "pyvenv.cfg").write_text(f"home = {INTERPRETER.parent}\n")
        packages = prefix / "lib" / python / "site-packages"
        packages.mkdir(parents=True)
        shutil.copytree(PACKAGES / "pyrunc", packages / "pyrunc")
        for backend in Path(_cffi_backend.__file__).parent.glob("_cffi_backend*"):
            shutil.copy(backend, packages)

    @property
    def state(self) -> dict[str, tuple[bytes, int, int, int]]:
        """Of every file that a runtime process runs or reads: the program, the interpreter, the modules, libraries."""
        found = {}
        for file in sorted(self.program.parents[1].rglob("*")):
            if file.is_file():
                status = file.stat()
                digest = hashlib.sha256(file.read_bytes()).digest()
                found[str(file)] = digest, status.st_mtime_ns, status.st_mode, status.st_uid
        return found


IMAGE = is_image(program())
of_an_installation = pytest.mark.skipif(IMAGE, reason="an image has no interpreter and no launcher beside it")


class SealedImage:
    """One file. Who may trace the host's processes may write to it as to any of theirs: attacks are a container's."""

    def __init__(self, prefix: Path, binary: str) -> None:
        self.program = self.interpreter = prefix / "bin/pyrunc"
        self.program.parent.mkdir(parents=True)
        shutil.copy(binary, self.program)

    state = property(lambda self: {str(self.program): hashlib.sha256(self.program.read_bytes()).digest()})


@pytest.fixture(autouse=True)
def sealed(runtime, tmp_path):
    if IMAGE:
        installation = SealedImage(tmp_path / "prefix", runtime.binary)
        runtime.binary = str(installation.program)
        before = installation.state
        yield installation
        assert installation.state == before
        return
    if Path(runtime.binary).read_bytes()[:4] != b"\x7fELF":
        pytest.skip(f"{runtime.binary} is not the launcher that pip installs")
    installation = Sealed(tmp_path / "prefix", runtime.binary)
    runtime.binary = str(installation.program)
    before = installation.state
    assert {"pyrunc", "modules.marshal"} <= {Path(file).name for file in before}
    assert [file for file in before if "_kernel" in file]
    yield installation
    assert installation.state == before


def attacker(container, sealed):
    """The container sees all processes of the host, and may look into each."""
    c = container(namespaces=namespaces("mount", *(["pid"] if IMAGE else [])), capabilities=full(*ALL))
    c.up("sh", "-c", f"probe overwrite-exe {sealed.interpreter.stat().st_ino} 60 > /tmp/out")
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), "the attack")
    return c


def outcome(c):
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    text = (c.bundle.rootfs / "tmp/out").read_text()
    seen, written, errors = re.search(r"seen (\d+) written (\d+) outcomes (.*)", text).groups()
    return int(seen), int(written), set(errors.split())


@of_an_installation
def test_cve_2019_5736_the_attack_finds_an_interpreter_that_is_not_sealed(container, sealed):
    """The same file, run by its path, can be written to. Else the other tests would prove nothing."""
    c = attacker(container, sealed)
    for _ in range(3):
        subprocess.run([sealed.interpreter, "-I", "-S", "-c", "import time; time.sleep(0.1)"], check=True, timeout=30)
    seen, written, _ = outcome(c)
    assert seen
    assert written


@pytest.mark.parametrize("verb", ["exec"] if IMAGE else ["exec", "create", "run", "state"])
def test_cve_2019_5736_a_running_verb(container, sealed, verb):
    c = attacker(container, sealed)
    for _ in range(8):
        if verb == "exec":
            c.exec("sh", "-c", "sleep 0.02")
        elif verb == "state":
            c.state()
        elif verb == "run":
            container(namespaces=namespaces("mount")).run("sleep", "0.02")
        else:
            other = container()
            other.create("true")
            other.delete("--force")
    seen, written, errors = outcome(c)
    assert written == 0
    assert seen
    assert "EROFS" in errors
    assert errors <= {"EROFS", "ETXTBSY", "EACCES", "EPERM"}


def test_cve_2019_5736_a_process_that_waits_for_start(container, sealed):
    other = container()
    other.create("true")
    handle = os.open(f"/proc/{other.pid}/exe", os.O_PATH)
    assert os.fstat(handle).st_ino == sealed.interpreter.stat().st_ino
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    other.delete("--force")
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    os.close(handle)


@pytest.mark.parametrize("how", ["script", "path", "exec"])
def test_cve_2019_5736_an_image_that_is_executed_in_the_container_is_the_sealed_one(container, how):
    """It has no loader that could be another's: it is the container's program, and its file is read-only."""
    if not IMAGE:
        pytest.skip("the program is no image")
    c = container(capabilities=full(*ALL))
    c.file("/script", "#!/proc/self/exe\n", 0o755)
    if how == "exec":
        c.up()
        result = c.attempt_exec("/script")
    else:
        result = c.attempt("/script" if how == "script" else "/proc/self/exe", *(["sh"] if how == "path" else []))
    assert "is no verb of pyrunc" in result.err, repr(result)


@of_an_installation
@pytest.mark.parametrize("how", ["script", "path", "exec"])
def test_cve_2019_5736_a_program_that_is_the_runtime_itself(container, tmp_path, how):
    """The image's dynamic loader runs in the runtime's process, with its file as /proc/self/exe."""
    loader = tmp_path / "loader"
    source = Path(__file__).with_name("loader.c")
    subprocess.run(
        ["cc", "-nostdlib", "-static-pie", "-fPIE", "-O1", "-fno-stack-protector", "-o", loader, source],
        check=True,
        timeout=60,
    )
    c = container(capabilities=full(*ALL))
    for place in ("lib64", "lib"):
        (c.bundle.rootfs / place).mkdir()
    place = c.bundle.rootfs / LOADER
    place.write_bytes(loader.read_bytes())
    place.chmod(0o755)
    c.file("/script", "#!/proc/self/exe\n", 0o755)
    if how == "exec":
        c.up()
        result = c.attempt_exec("/script")
    else:
        result = c.attempt("/script" if how == "script" else "/proc/self/exe")
    assert result.code == errno.ETXTBSY, repr(result)  # it runs, so the kernel's lock comes before EROFS: see above


@of_an_installation
def test_cve_2019_5736_the_launcher_is_not_what_runs(container):
    """Once it has started the interpreter nothing of it is left to write to."""
    other = container()
    other.create("true")
    assert os.readlink(f"/proc/{other.pid}/exe") != os.path.realpath(program())

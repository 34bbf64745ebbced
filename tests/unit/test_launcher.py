"""The launcher: which interpreter and package it starts, sealed, and what of the caller reaches them.

The program is copied beside a package of the same name that tells what it sees: nothing else is involved.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile import HARMLESS, HOSTILE

PYRUNC = Path(sys.prefix, "bin/pyrunc")  # the launcher, whatever program else is tested
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
INTERPRETER = Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]
NOBODY = 65534
MS_REMOUNT, MS_BIND = 32, 4096

PACKAGE = """
import posix
import sys

def encoded(word):
    return word.encode("utf-8", "surrogateescape")

def main(words):
    if words[:1] == ["exit"]:
        return int(words[1])
    if words[:1] == ["wait"]:
        posix.write(1, b"ready")
        posix.read(0, 1)
        return 0
    import json
    descriptors = []
    for name in posix.listdir("/proc/self/fd"):
        try:
            descriptors.append([int(name), posix.readlink(f"/proc/self/fd/{name}")])
        except FileNotFoundError:
            pass   # the one that listed them
    sees = {
        "words": [encoded(word).hex() for word in words],
        "environment": {name.decode(): value.decode() for name, value in posix.environ.items()},
        "path": sys.path,
        "exe": posix.readlink("/proc/self/exe"),
        "executable": sys.executable,
        "descriptors": sorted(descriptors),
        "modules": sorted(sys.modules),
        "flags": [sys.flags.isolated, sys.flags.no_site, sys.flags.dont_write_bytecode, sys.flags.utf8_mode],
    }
    posix.write(1, json.dumps(sees).encode())
    return 0
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
public = all(folder.stat().st_mode & 0o001 for folder in INTERPRETER.parents)
as_nobody = pytest.mark.skipif(os.geteuid() != 0 or not public, reason="needs root and a public Python")
needs_launcher = pytest.mark.skipif(not PYRUNC.exists(), reason=f"{PYRUNC} is not there: pip install .")
pytestmark = needs_launcher


class Installation:
    """A prefix with the launcher and a package in it."""

    def __init__(self, prefix: Path, home: str = f"lib/{PYTHON}/site-packages") -> None:
        self.prefix = prefix
        self.home = prefix / home
        self.program = prefix / "bin/pyrunc"
        self.program.parent.mkdir()
        shutil.copy(PYRUNC, self.program)
        package = self.home / "pyrunc/cli"
        package.mkdir(parents=True)
        (package / "main.py").write_text(PACKAGE)

    def make_venv(self, interpreter: Path = INTERPRETER) -> None:
        (self.prefix / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n")
        (self.prefix / "bin" / PYTHON).symlink_to(interpreter)

    def run(
        self,
        *words: str | bytes,
        program: Path | None = None,
        environment: dict[str, str] | None = None,
        **more: Any,
    ) -> "subprocess.CompletedProcess[bytes]":
        more = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 30, "cwd": "/", **more}
        return subprocess.run([program or self.program, *words], env=environment or {}, **more)

    def sees(self, *words: str | bytes, **more: Any) -> Any:
        result = self.run(*words, **more)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def prefix() -> Iterator[Path]:
    """A directory that every user may read; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="pyrunc-launcher-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def installed(prefix: Path) -> Installation:
    return Installation(prefix)


@pytest.fixture
def own_interpreter(installed: Installation) -> Path:
    """A copy that only this installation runs: what others execute is busy (ETXTBSY), sealed or not."""
    (installed.prefix / "pyvenv.cfg").write_text(f"home = {INTERPRETER.parent}\n")
    return Path(shutil.copy(INTERPRETER, installed.prefix / "bin" / PYTHON))


def open_error(path: str, flags: int) -> str:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "opened"


def digest(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Waiting:
    """A launched interpreter that stays until it is left."""

    def __init__(self, installed: Installation, *before: str, **more: Any) -> None:
        self.process = subprocess.Popen(
            [*before, installed.program, "wait"],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **more,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.read(5) == b"ready"
        self.exe = f"/proc/{self.process.pid}/exe"

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(b".", timeout=30)


# The seal (CVE-2019-5736)

WRITING = [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND]


@as_root
def test_nobody_writes_to_a_running_interpreter(own_interpreter: Path, installed: Installation) -> None:
    before = digest(own_interpreter)
    with Waiting(installed) as waiting:
        assert {open_error(waiting.exe, flags) for flags in WRITING} <= {"EROFS", "ETXTBSY"}
        assert digest(waiting.exe) == before
    assert digest(own_interpreter) == before


@as_root
def test_who_keeps_it_open_cannot_write_to_it_once_it_has_ended(own_interpreter: Path, installed: Installation) -> None:
    """The exploit's way: a running program is busy; wait for its end, open it again by the descriptor."""
    before = digest(own_interpreter)
    with Waiting(installed) as waiting:
        kept = os.open(waiting.exe, os.O_PATH)
    assert [open_error(f"/proc/self/fd/{kept}", flags) for flags in WRITING] == ["EROFS"] * len(WRITING)
    os.close(kept)
    assert digest(own_interpreter) == before


@as_root
def test_unsealed_the_same_interpreter_could_be_written(own_interpreter: Path) -> None:
    assert open_error(str(own_interpreter), os.O_WRONLY) == "opened"


@as_root
@pytest.mark.parametrize("flags", [MS_REMOUNT | MS_BIND, MS_BIND])
def test_mount_cannot_reach_the_read_only_mount(installed: Installation, flags: int, tmp_path: Path) -> None:
    """The mount can't be made writable or mounted elsewhere: it belongs to no mount namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = tmp_path / "target"
    target.touch()
    with Waiting(installed) as waiting:
        exe = waiting.exe.encode()
        source, target_path = (b"none", exe) if flags & MS_REMOUNT else (exe, os.fsencode(target))
        assert libc.mount(source, target_path, None, flags, None) == -1
        assert ctypes.get_errno() == errno.EINVAL


@as_root
def test_the_seal_leaves_no_mount_behind(installed: Installation) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with Waiting(installed):
        assert Path("/proc/self/mountinfo").read_text() == before


@as_root
def test_root_without_the_right_to_mount_gets_a_sealed_copy(installed: Installation) -> None:
    with Waiting(installed, "/usr/bin/setpriv", "--bounding-set=-sys_admin") as waiting:
        assert os.readlink(waiting.exe).startswith("/memfd:pyrunc")
        assert open_error(waiting.exe, os.O_WRONLY) == "ETXTBSY"
        assert digest(waiting.exe) == digest(INTERPRETER)


@as_root
def test_a_copy_that_is_left_cannot_be_written(installed: Installation) -> None:
    """An attacker keeps /proc/PID/exe open and writes once nothing executes it."""
    with Waiting(installed, "/usr/bin/setpriv", "--bounding-set=-sys_admin") as waiting:
        kept = os.open(waiting.exe, os.O_RDONLY)
    try:
        descriptor = os.open(f"/proc/self/fd/{kept}", os.O_WRONLY)
        with pytest.raises(PermissionError):
            os.write(descriptor, b"#!")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)
    finally:
        os.close(kept)


@as_nobody
def test_a_user_who_owns_the_interpreter_gets_a_sealed_copy(own_interpreter: Path, installed: Installation) -> None:
    os.chown(own_interpreter, NOBODY, NOBODY)
    own_interpreter.chmod(0o555)  # he may allow himself to write at any time
    with Waiting(installed, user=NOBODY, group=NOBODY, extra_groups=[]) as waiting:
        assert os.readlink(waiting.exe).startswith("/memfd:pyrunc")


@as_nobody
def test_a_user_who_could_never_write_the_interpreter_runs_it_as_it_is(installed: Installation) -> None:
    with Waiting(installed, user=NOBODY, group=NOBODY, extra_groups=[]) as waiting:
        assert os.readlink(waiting.exe) == str(INTERPRETER)


# Which package, which interpreter


def test_the_interpreter_is_isolated_and_has_no_site(installed: Installation) -> None:
    sees = installed.sees()
    assert sees["flags"] == [1, 1, 1, 1]
    assert "site" not in sees["modules"]


def test_a_package_cannot_stand_in_for_one_of_the_standard_library(installed: Installation) -> None:
    (installed.home / "json.py").write_text("raise SystemExit('json of the packages')")
    assert installed.sees()["path"][-1] != str(installed.home)
    assert installed.sees()["path"].index(str(installed.home)) > 0


@pytest.mark.parametrize(
    "home", [f"lib/{PYTHON}/dist-packages", f"lib64/{PYTHON}/site-packages", "lib/python3/dist-packages"]
)
def test_the_package_is_found_where_distributions_put_it(prefix: Path, home: str) -> None:
    assert str(prefix / home) in Installation(prefix, home).sees()["path"]


def test_in_a_venv_the_packages_of_the_system_are_not_seen(installed: Installation) -> None:
    installed.make_venv()
    assert installed.sees()["path"][-1] == str(installed.home)


def test_outside_of_a_venv_debians_packages_come_last(installed: Installation) -> None:
    assert installed.sees()["path"][-1] == "/usr/lib/python3/dist-packages"


def test_the_current_directory_is_no_place_for_packages(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / "pyrunc").mkdir()
    (tmp_path / "pyrunc/__init__.py").write_text("raise SystemExit('pyrunc of the current directory')")
    sees = installed.sees(cwd=tmp_path)
    assert "" not in sees["path"]
    assert "." not in sees["path"]


@pytest.mark.parametrize("chain", [1, 2])
def test_started_through_symlinks(installed: Installation, tmp_path: Path, chain: int) -> None:
    link = installed.program
    for number in range(chain):
        following = tmp_path / f"runc{number}"
        following.symlink_to(link)
        link = following
    assert installed.sees("a", program=link)["words"] == [b"a".hex()]


def test_found_in_the_search_path(installed: Installation) -> None:
    path = {"PATH": str(installed.program.parent)}
    command = ["/bin/sh", "-c", "pyrunc exit 7"]
    result = subprocess.run(command, env=path, stdin=subprocess.DEVNULL, timeout=30)
    assert result.returncode == 7


@as_nobody
def test_another_user_may_run_it(installed: Installation) -> None:
    sees = installed.sees("state", user=NOBODY, group=NOBODY, extra_groups=[])
    assert sees["words"] == [b"state".hex()]


def test_without_its_package_it_says_so(installed: Installation) -> None:
    shutil.rmtree(installed.home)
    result = installed.run("state")
    assert result.returncode == 127
    assert result.stderr.startswith(f"pyrunc: finding {installed.prefix}/lib".encode())
    assert result.stderr.count(b"\n") == 1


def test_an_interpreter_that_cannot_be_executed_is_an_error_of_one_line(installed: Installation) -> None:
    (installed.prefix / "bin" / PYTHON).write_text("this is no program")
    (installed.prefix / "bin" / PYTHON).chmod(0o755)
    result = installed.run("state")
    assert result.returncode == 126
    assert result.stderr.startswith(f"pyrunc: executing {installed.prefix}/bin/{PYTHON}: ".encode())


# What reaches the package


def test_words_are_passed_as_they_are(installed: Installation) -> None:
    words: list[str | bytes] = ["--", "-c", "", "--log", "a b\n", b"\xff\xfe/\x80", "ü", "-I", "$HOME"]
    expected = [(word if isinstance(word, bytes) else word.encode()).hex() for word in words]
    assert installed.sees(*words)["words"] == expected


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"LANG": "no_SUCH.ISO"}])
def test_words_do_not_depend_on_the_locale(installed: Installation, locale: dict[str, str]) -> None:
    assert installed.sees("ü", b"\xfc", environment=locale)["words"] == ["c3bc", "fc"]


def test_thousands_of_words(installed: Installation) -> None:
    words = [str(number) for number in range(20000)]
    assert len(installed.sees(*words)["words"]) == len(words)


def test_started_without_any_word_not_even_its_name(installed: Installation) -> None:
    """execve(2) with an empty list, as in CVE-2021-4034. Linux makes it one empty word since 5.18."""
    script = (
        "import ctypes, sys; libc = ctypes.CDLL(None); none = (ctypes.c_char_p * 1)(None);"
        "libc.execve(sys.argv[1].encode(), none, none)"
    )
    command = [sys.executable, "-c", script, installed.program]
    result = subprocess.run(command, capture_output=True, timeout=30)
    assert json.loads(result.stdout)["words"] == []


@pytest.mark.parametrize("status", [0, 1, 42, 125, 137, 255])
def test_the_exit_status_is_what_main_returns(installed: Installation, status: int) -> None:
    assert installed.run("exit", str(status)).returncode == status


def test_variables_that_load_code_or_data_are_removed_and_the_rest_stay(installed: Installation) -> None:
    assert installed.sees(environment=HOSTILE | HARMLESS)["environment"] == HARMLESS


def test_inherited_descriptors_pass_and_none_is_added(installed: Installation, tmp_path: Path) -> None:
    with (tmp_path / "passed").open("w") as file:
        passed = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, 57)
        try:
            descriptors = dict(installed.sees(pass_fds=[passed])["descriptors"])
        finally:
            os.close(passed)
    assert descriptors.pop(passed) == str(tmp_path / "passed")
    assert sorted(descriptors) == [0, 1, 2]


def test_closed_standard_streams_are_open_on_dev_null(installed: Installation) -> None:
    command = ["/bin/sh", "-c", 'exec "$0" "$@" <&- 2>&-', installed.program]
    result = subprocess.run(command, stdout=subprocess.PIPE, timeout=30)
    descriptors = dict(json.loads(result.stdout)["descriptors"])
    assert (descriptors[0], descriptors[2]) == ("/dev/null", "/dev/null")
    assert sorted(descriptors) == [0, 1, 2]


# The installed program itself


def test_the_version_is_that_of_the_package() -> None:
    import pyrunc

    result = subprocess.run([PYRUNC, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    assert pyrunc.__version__.encode() in result.stdout

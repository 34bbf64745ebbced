"""Nothing of ours is looked up inside the container: whatever Python an image brings, none of it runs or is opened."""

import os
import platform
import pty
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hostile import CODE, MODULES
from integration.support.bundle import NAMESPACES, namespaces

TRIPLET = f"{platform.machine()}-linux-gnu"
LIBRARIES = (
    "libc.so.6",
    "libseccomp.so.2",
    "libgcc_s.so.1",
    "libnss_files.so.2",
    "libm.so.6",
    "libz.so.1",
    "libexpat.so.1",
    "libffi.so.8",
)
LOOKUPS = re.compile(
    r"\.py[co]?$|\.so(\.|$)|/python3|site-packages|dist-packages|lib-dynload|/locale/|gconv|nsswitch|ld\.so|\.pth$|pyvenv|/etc/(localtime|resolv|hosts|host\.conf)"
    r"|zoneinfo|\._pth$"
)
pytestmark = pytest.mark.skipif(
    not shutil.which("strace"), reason="strace, which sees what is opened, is not installed"
)


def folders():
    """The folders of the host's Python and of the installed runtime."""
    code = "import sys, pyrunc, cffi; print(*sys.path, pyrunc.__path__[0], sep='\\n')"
    path = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30, cwd="/"
    ).stdout.split("\n")
    return sorted(
        {
            os.path.realpath(folder)
            for folder in (*path, sysconfig.get_path("stdlib"), "/usr/local/lib/python3/dist-packages")
            if folder
        }
    )


@pytest.fixture
def hostile(container):
    """An image with a Python of its own, which leaves a file when any of it runs."""

    def make(**changes):
        c = container(**changes)
        root = c.bundle.rootfs
        for folder in (*folders(), "/", "/tmp"):
            for module in MODULES:
                plain = root / folder.lstrip("/") / f"{module}.py"
                plain.parent.mkdir(parents=True, exist_ok=True)
                if plain.parent == root and module in ("os", "io"):
                    continue
                plain.write_text(CODE)
                package = plain.with_suffix("") / "__init__.py"
                package.parent.mkdir(exist_ok=True)
                package.write_text(CODE)
                plain.with_suffix(
                    f".cpython-{sys.version_info.major}{sys.version_info.minor}-{TRIPLET}.so"
                ).write_bytes(b"\x7fELF")
                plain.with_suffix(".abi3.so").write_bytes(b"\x7fELF")
            for name in ("hostile.pth", "python3._pth", "python._pth", "pyvenv.cfg", "python311.zip", "python313.zip"):
                (root / folder.lstrip("/") / name).write_text("import hostile\n")
        for folder in ("lib", "lib64", "usr/lib", f"lib/{TRIPLET}", f"usr/lib/{TRIPLET}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for library in LIBRARIES:
                (root / folder / library).write_bytes(b"\x7fELF")
        c.file("/etc/ld.so.preload", "/lib/libc.so.6\n").file("/etc/nsswitch.conf", "passwd: hostile\n")
        for file in ("/usr/lib/locale/locale-archive", f"/usr/lib/{TRIPLET}/gconv/gconv-modules", "/etc/localtime"):
            c.file(file, "x")
        return c

    return make


def lookups(trace: Path):
    """What every process but the first opened on its way to execve, if it is something of Python's or the loader's."""
    found = []
    logs = sorted(trace.parent.glob(f"{trace.name}.*"), key=lambda path: int(path.suffix[1:]))
    assert len(logs) >= 2, "there was no child"
    children = 0
    for log in logs:
        lines = log.read_text(errors="replace").splitlines()
        if any("execveat(" in line or "execve(" in line for line in lines[:3]):
            continue  # the runtime's own process: its start is before clone
        children += 1
        for line in lines:
            if line.startswith("execve("):
                break  # the program
            match = re.match(r'\w+\(.*?"([^"]*)"', line)
            if match and LOOKUPS.search(match[1]):
                found.append(f"{log.name}: {line}")
    assert children
    return found


CASES = {
    "plain": {},
    "everything": {
        "namespaces": namespaces(*NAMESPACES, "cgroup", "time"),
        "hostname": "x",
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "noNewPrivileges": True,
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "maskedPaths": ["/proc/kcore", "/etc"],
        "readonlyPaths": ["/proc/sys"],
        "user": {"uid": 1000, "gid": 1000},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}],
        "root": {"path": "rootfs", "readonly": True},
        "hooks": {"createContainer": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/true"}]},
        "mounts": [{"destination": "/m", "type": "tmpfs", "source": "t", "options": ["ro", "tmpcopyup"]}],
        "timeOffsets": {"boottime": {"secs": 10}},
    },
    "warnings": {"capabilities": {"bounding": ["CAP_NONSENSE"]}},
    "user namespace": {
        "namespaces": namespaces(*NAMESPACES, "user"),
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    },
    "a missing program": {"args": ["/no/such/prögram"]},
    "a wrong working directory": {"cwd": "/etc/passwd"},
    "a mount that fails": {
        "mounts": [{"destination": "/m", "type": "tmpfs", "source": "t", "options": ["nonsense=1"]}]
    },
    "a masked procfs": {"mounts": [{"destination": "/proc/self", "type": "tmpfs", "source": "t"}]},
    "letters of another script": {"cwd": "/ünï/код", "args": ["printf", "%s", "код"]},
}


@pytest.mark.parametrize(("case", "flags"), [*((case, ()) for case in CASES), ("plain", ("--no-pivot",))])
def test_create_opens_nothing_of_the_images_python(hostile, tmp_path, case, flags):
    c = hostile(**CASES[case]).reachable()
    c._prepare(tuple(CASES[case].get("args", ("true",))))
    trace = tmp_path / "trace"
    wrapper = ("strace", "-ff", "-qq", "-s", "4096", "-e", "trace=%file,execve,execveat", "-o", str(trace))
    result = c.runtime("run", *flags, "--bundle", c.bundle.path, c.id, check=False, wrapper=wrapper)
    assert lookups(trace) == []
    assert not (c.bundle.rootfs / "hostile-ran").exists()
    assert "Traceback" not in result.err
    assert "LookupError" not in result.err
    assert "No module" not in result.err
    assert result.code != 86


@pytest.mark.parametrize("command", [("true",), ("/no/such/program",)])
def test_exec_opens_nothing_of_the_images_python(hostile, tmp_path, command):
    c = hostile(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}).up()
    trace = tmp_path / "trace"
    wrapper = ("strace", "-ff", "-qq", "-s", "4096", "-e", "trace=%file,execve,execveat", "-o", str(trace))
    result = c.runtime("exec", "-u", "1000", "-e", "A=b", "--cwd", "/tmp", c.id, *command, check=False, wrapper=wrapper)
    assert lookups(trace) == []
    assert not (c.bundle.rootfs / "hostile-ran").exists()
    assert result.code == (0 if command == ("true",) else 255)
    assert "Traceback" not in result.err


def test_a_terminal_opens_nothing_of_the_images_python(hostile, tmp_path):
    c = hostile(terminal=True)
    c._prepare(("true",))
    trace = tmp_path / "trace"
    wrapper = ("strace", "-ff", "-qq", "-s", "4096", "-e", "trace=%file,execve,execveat", "-o", str(trace))
    master, slave = pty.openpty()
    c.runtime("run", "--bundle", c.bundle.path, c.id, wrapper=wrapper, stdin=slave)
    os.close(master)
    os.close(slave)
    assert lookups(trace) == []
    assert not (c.bundle.rootfs / "hostile-ran").exists()


# --- all that is looked up at all, once the file system is the container's

ALWAYS = {"/", ".", "/dev/null", "self/fd/N"}
ASKED = {  # beside the program: what config.json names, and the passwd of HOME
    "plain": {"/etc/passwd"},
    "everything": {"/etc/passwd", "sys/net/ipv4/ip_forward", "/sys", "/kcore", "/etc"},
    "user namespace": {"/etc/passwd"},
    "letters of another script": {"/etc/passwd", "/ünï/код", "."} | {"ünï", "ünï/код", "код"},
    "exec": {"/etc/passwd", "/tmp"},
    "terminal": {"/etc/passwd", "/dev", "/dev/pts/ptmx", "console"},
}
PROGRAMS = re.compile(r"/bin/(true|printf)$")


def looked_up(trace: Path):
    """Every path that a process names after the file system has become the container's, to execve."""
    found = set()
    entered = 0
    for log in trace.parent.glob(f"{trace.name}.*"):
        lines = log.read_text().splitlines()
        if any(line.startswith(("execve(", "execveat(")) for line in lines[:3]):
            continue  # the runtime's own process, or one of the host's hooks
        starts = [n for n, line in enumerate(lines) if line.startswith(("pivot_root(", "setns("))]
        if not starts:
            continue
        entered += 1
        for line in lines[starts[-1] + 1 :]:
            call = line.partition("(")[0]
            if call == "execve":
                break
            match = re.search(r'"((?:[^"\\]|\\.)*)"', line)
            if match and match[1] and call not in ("fsconfig", "getcwd", "mount", "umount2", "fsopen"):
                path = match[1].encode().decode("unicode_escape").encode("latin-1").decode()
                found.add(re.sub(r"\d+$", "N", path) if path.startswith("self/") else path)
    assert entered == 1
    assert found
    return {path for path in found if not PROGRAMS.search(path)}


def traced(trace):
    return ("strace", "-ff", "-qq", "-s", "4096", "-e", "trace=%file,execve,execveat,setns", "-o", str(trace))


@pytest.mark.parametrize("case", ["plain", "everything", "user namespace", "letters of another script"])
def test_create_looks_up_what_the_configuration_names_and_nothing_else(hostile, tmp_path, case):
    c = hostile(**CASES[case]).reachable()
    c._prepare(tuple(CASES[case].get("args", ("true",))))
    c.runtime("run", "--bundle", c.bundle.path, c.id, check=False, wrapper=traced(tmp_path / "trace"))
    assert looked_up(tmp_path / "trace") <= ALWAYS | ASKED[case]


def test_exec_looks_up_what_it_was_given_and_nothing_else(hostile, tmp_path):
    c = hostile().up()
    c.runtime("exec", "-u", "1000", "--cwd", "/tmp", c.id, "true", wrapper=traced(tmp_path / "trace"))
    assert looked_up(tmp_path / "trace") <= ALWAYS | ASKED["exec"]


def test_a_terminal_is_looked_up_in_the_containers_dev(hostile, tmp_path):
    c = hostile(terminal=True)
    c._prepare(("true",))
    master, slave = pty.openpty()
    c.runtime("run", "--bundle", c.bundle.path, c.id, wrapper=traced(tmp_path / "trace"), stdin=slave)
    os.close(master)
    os.close(slave)
    assert looked_up(tmp_path / "trace") <= ALWAYS | ASKED["terminal"]

"""The image: one file in which everything is, and that starts where its builder stood.

Only where the program under test is one (docs/image.md says how to make it); the ordinary program skips all of this.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hostile import HARMLESS, HOSTILE
from integration.support.container import MARK
from integration.support.runtime import is_image, program, wait_until

SHIM = "containerd-shim-pyrunc-v2"


pytestmark = pytest.mark.skipif(not is_image(program()), reason="the program is no image")


@pytest.fixture
def empty(tmp_path):
    """A root file system with the program, a bundle, and what the kernel gives."""
    root = tmp_path / "empty"
    for name in ("proc", "sys", "dev", "run", "bundle/rootfs/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(program(), root / "pyrunc")
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
    id = f"{MARK}-empty"
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


DEBIAN = Path(os.environ.get("PYRUNC_VM_CACHE") or Path.home() / ".cache/pyrunc-vm", "root")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="tests/vm/build has not made a Debian")
def test_it_runs_a_container_in_a_debian_without_python(tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs/bin/busybox")
    shutil.copy(program(), bundle / "pyrunc")
    subprocess.run([program(), "spec", "--bundle", bundle], check=True, timeout=60)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/busybox", "echo", "hello"]}
    (bundle / "config.json").write_text(json.dumps(config))
    script = f"""
        mount --bind {DEBIAN} {DEBIAN} && cd {DEBIAN} || exit 1
        for each in usr/bin/python3*; do [ -L $each ] || mount --bind /dev/null $each || exit 1; done
        for each in usr/lib/python3* usr/local/lib/python3* run mnt; do mount -t tmpfs none $each || exit 1; done
        for each in proc sys dev; do mount --rbind /$each $each || exit 1; done
        mount --bind {bundle} mnt || exit 1
        ! chroot . python3 -c 0 2>/dev/null || exit 2
        exec chroot . /mnt/pyrunc run --bundle /mnt {MARK}-debian
    """
    command = ["unshare", "-m", "--uts", "/bin/sh", "-c", script]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")


# --- The seal, and what of the caller passes it: tests/unit/test_launcher.py has the same for the launcher

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin")
MOUNT, COPY, AS_IT_IS = "a mount", "a copy", "the file"


@contextlib.contextmanager
def held(*before, file=None, variables=None, **more):
    """A process of the image's that waits where nothing is left to be set up: in write(2), for room in a pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    os.set_blocking(writer, True)
    command = [*before, file or program(), "features"]
    process = subprocess.Popen(command, stdout=writer, env=variables or {"PATH": os.environ["PATH"]}, **more)
    os.close(writer)

    def waits():
        assert process.poll() is None
        try:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state == "S" and os.path.basename(os.readlink(f"/proc/{process.pid}/exe")) not in before
        except FileNotFoundError:
            return False

    try:
        wait_until(waits, "a process of the image's to fill its pipe")
        yield f"/proc/{process.pid}"
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def descriptors(process):
    return {int(number): os.readlink(f"{process}/fd/{number}") for number in os.listdir(f"{process}/fd")}


def error_of_opening(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"


@pytest.fixture
def public():
    """The image where every user may execute it."""
    folder = Path("/tmp", f"{MARK}-public")
    folder.mkdir(0o755)
    yield Path(shutil.copy(program(), folder / "pyrunc"))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("caller", "what"),
    [
        ((), MOUNT),
        (NO_MOUNTS, COPY),
        (("unshare", "--user"), COPY),
        (("unshare", "--user", "--map-root-user", "--mount"), MOUNT),
        ((*NOBODY, "unshare", "--user", "--map-root-user", "--mount"), MOUNT),  # access(2): EACCES
        (NOBODY, AS_IT_IS),
    ],
)
def test_nobody_writes_to_what_runs(public, caller, what):
    with held(*caller, file=public) as process:
        exe = os.readlink(f"{process}/exe")
        assert exe == {MOUNT: "/", COPY: "/memfd:pyrunc (deleted)", AS_IT_IS: str(public)}[what]
        for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            assert error_of_opening(f"{process}/exe", flags) in ("EROFS", "ETXTBSY")
        assert sorted(descriptors(process)) == [0, 1, 2]
        kept = os.open(f"{process}/exe", os.O_PATH)
    try:
        if what == MOUNT:
            assert error_of_opening(f"/proc/self/fd/{kept}", os.O_WRONLY) == "EROFS"
        elif what == COPY:
            writable = os.open(f"/proc/self/fd/{kept}", os.O_WRONLY)
            with pytest.raises(PermissionError):
                os.write(writable, b"#!")
            os.close(writable)
    finally:
        os.close(kept)


def test_a_user_who_owns_the_file_runs_a_copy(public):
    os.chown(public, 65534, 65534)
    public.chmod(0o555)  # he may allow himself to write at any time
    with held(*NOBODY, file=public) as process:
        assert os.readlink(f"{process}/exe").startswith("/memfd:pyrunc")


def test_a_file_that_is_deleted_runs_as_a_copy(public):
    descriptor = os.open(public, os.O_RDONLY)
    public.unlink()
    with held(file=f"/proc/self/fd/{descriptor}", pass_fds=[descriptor]) as process:
        assert os.readlink(f"{process}/exe").startswith("/memfd:pyrunc")
    os.close(descriptor)


def test_a_new_file_may_take_its_place_while_it_runs(public):
    with held(file=public) as process:
        before = os.stat(f"{process}/exe").st_ino
        new = public.with_name("new")
        shutil.copy("/bin/true", new)
        new.rename(public)
        assert os.stat(f"{process}/exe").st_ino == before != public.stat().st_ino


def test_variables_that_load_code_or_data_are_removed_and_the_rest_stay():
    with held(variables=HOSTILE | HARMLESS) as process:
        found = Path(f"{process}/environ").read_text().rstrip("\0").split("\0")
    assert dict(each.split("=", 1) for each in found) == HARMLESS


def test_closed_standard_streams_are_open_on_dev_null():
    with held("sh", "-c", 'exec "$0" "$@" <&- 2>&-') as process:
        found = descriptors(process)
    assert found.pop(1).startswith("pipe:")
    assert found == {0: "/dev/null", 2: "/dev/null"}


def test_its_code_and_tables_can_not_be_written_and_its_data_not_executed():
    with held() as process:
        lines = [line.split() for line in Path(f"{process}/maps").read_text().splitlines()]
    assert not [line for line in lines if {*"wx"} <= {*line[1]}]
    assert [line[1] for line in lines if line[-1] == "/"] == ["r-xp", "r--p", "rw-p"]  # text; RELRO, the GOT; data


def test_without_proc_it_says_so(empty):
    result = subprocess.run(["chroot", empty.root, "/pyrunc", "--version"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 126
    assert result.stderr == "pyrunc: opening /proc/self/exe: No such file or directory (is /proc mounted?)\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], b"verb"),
        ([b"\xff\xfe/\x80"], b"\\udcff\\udcfe/"),
        (["x" * 100_000], b"is no verb"),
        (["none", *map(str, range(10_000))], b'"none": is no verb'),
        (["state", *map(str, range(10_000))], b"state"),
        ([""], b"verb"),
    ],
)
def test_words_of_every_kind(words, said):
    result = subprocess.run([program(), *words], capture_output=True, timeout=60, env={"LONG": "x" * 100_000})
    assert said in result.stdout + result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("words", [(None,), (b"", None), (b"\xff", b"--version", None)])
def test_without_a_name_of_its_own(words):
    """execve(2) with an empty list, as in CVE-2021-4034. Linux makes it one empty word since 5.18."""
    pid = os.fork()
    if pid == 0:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        array = (ctypes.c_char_p * len(words))(*words)
        ctypes.CDLL(None).execve(program().encode(), array, (ctypes.c_char_p * 1)(None))
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)


@pytest.mark.parametrize(
    "before",
    [
        ("prlimit", "--stack=65536"),
        ("prlimit", "--nproc=1"),
        ("prlimit", "--as=200000000"),
        ("prlimit", "--data=20000000"),
        ("setarch", "--addr-no-randomize", "--read-implies-exec"),
        ("setpriv", "--no-new-privs"),
        ("nohup",),
        ("strace", "-o", "/dev/null"),
    ],
)
def test_what_a_process_inherits(before):
    command = [*before, program(), "--version"]
    assert "image: " in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def test_without_descriptors_to_be_had_it_says_so():
    command = ["prlimit", "--nofile=4", program(), "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 126
    assert result.stderr.startswith("pyrunc: sealing /proc/self/exe, ")
    assert result.stderr.endswith(": Too many open files\n")


def test_killed_in_its_first_instructions_it_leaves_nothing():
    before = Path("/proc/self/mountinfo").read_text()
    for microseconds in range(0, 3000, 100):
        process = subprocess.Popen([program(), "list"], stdout=subprocess.DEVNULL)
        time.sleep(microseconds / 1e6)
        process.kill()
        process.wait()
    assert Path("/proc/self/mountinfo").read_text() == before


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
    """The image's addresses are fixed. 16 bits of them are chosen when it is built."""
    found = []
    for _ in range(2):
        c = container()
        c.create("true")
        lines = Path(f"/proc/{c.pid}/maps").read_text().splitlines()
        found.append([line.partition("-")[0] for line in lines if line.endswith(("[stack]", "[vdso]", "[heap]"))])
        c.delete("--force")
    assert len(found[0]) == 3
    assert not {*found[0]} & {*found[1]}


def test_it_is_as_small_as_promised():
    assert os.stat(program()).st_size <= 20_000_000


def test_nothing_of_its_builder_is_in_it():
    image = Path(program()).read_bytes()
    for variable in (b"\0HOME=/", b"\0PATH=/usr/bin", b"\0LANG=", b"\0PWD="):
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

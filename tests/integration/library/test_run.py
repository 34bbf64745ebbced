"""pyrunc.run: what it gives, what it keeps in, and that it is on time."""

import os
import pickle
import random
import re
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

import pyrunc
from integration.support.bundle import BUSYBOX
from integration.support.host import controllers, unified
from pyrunc.library import client
from sizes import size

PYTHON = "/usr/bin/python3"


def test_output_and_exit_status_are_as_of_subprocess(state):
    done = pyrunc.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", state_root=state)
    assert (done.stdout, done.stderr, done.returncode, done.oom) == (b"in", b"err\n", 3, False)
    assert 0 < done.duration < 60
    assert done.cpu > 0
    assert done.peak_memory > 0
    assert pyrunc.run([PYTHON, "-c", "import ctypes; ctypes.string_at(0)"], state_root=state).returncode == -11
    assert pyrunc.run(["cat"], input="hä\r\n", text=True, state_root=state).stdout == "hä\n"
    assert pyrunc.run(["true"], stdout=None, stderr=pyrunc.DEVNULL, state_root=state).stdout is None


def test_streams_can_be_files_and_each_other(state, tmp_path):
    with open(tmp_path / "out", "wb") as out:
        pyrunc.run(["sh", "-c", "echo a; echo b >&2"], stdout=out, stderr=subprocess.STDOUT, state_root=state)
    assert (tmp_path / "out").read_bytes() == b"a\nb\n"
    with open(tmp_path / "out", "rb") as given:
        assert pyrunc.run(["cat"], stdin=given, state_root=state).stdout == b"a\nb\n"


def test_a_megabyte_in_and_out(state):
    data = os.urandom(1 << 20)
    assert pyrunc.run(["cat"], input=data, state_root=state).stdout == data
    assert pyrunc.run(["true"], input=data, state_root=state).returncode == 0  # it reads none of it


def test_check_raises_with_all_that_is_known(state):
    with pytest.raises(pyrunc.ProcessFailed, match=r"^sh: its exit status is 4$") as caught:
        pyrunc.run(["sh", "-c", "echo why; exit 4"], check=True, state_root=state)
    assert (caught.value.returncode, caught.value.stdout) == (4, b"why\n")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.result) == (str(caught.value), caught.value.result)


@pytest.mark.parametrize(
    "program",
    [
        "sleep 1000",
        "trap '' TERM INT HUP; while :; do :; done",
        "f() { f | f & }; f; sleep 1000",
        "while :; do mkdir -p /tmp/$i; i=x$i; done",
    ],
)
def test_a_program_that_goes_on_is_ended_on_time(state, program):
    began = time.monotonic()
    with pytest.raises(pyrunc.TimeoutExpired, match="it has not ended within 1 s") as caught:
        pyrunc.run(["sh", "-c", f"echo begun; {program}"], timeout=1, pids=50, output_limit=None, state_root=state)
    assert caught.value.stdout.startswith(b"begun\n")
    assert 1 <= time.monotonic() - began < 30


def test_a_program_that_takes_too_much_memory_is_ended(state):
    done = pyrunc.run([PYTHON, "-c", "x = bytearray(10**9)"], memory="64m", state_root=state)
    assert (done.returncode, done.oom) == (-9, True)
    assert 60 << 20 <= done.peak_memory <= 64 << 20
    with pytest.raises(pyrunc.ProcessFailed, match="it ran out of memory"):
        done.check_returncode()


def test_a_program_that_writes_too_much_is_ended(state):
    with pytest.raises(pyrunc.OutputLimitExceeded, match="it has written more than 100000 bytes") as caught:
        pyrunc.run(["yes"], output_limit=100_000, text=True, timeout=60, state_root=state)
    assert len(caught.value.stdout) == 100_000


def test_a_program_fills_no_more_than_its_tmp(state):
    done = pyrunc.run(["sh", "-c", "head -c 100m /dev/zero > /tmp/x"], tmp="1m", text=True, state_root=state)
    assert "No space left on device" in done.stderr


def test_what_it_sees_of_the_host(state, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    script = "id -u; ps -e | wc -l; ls /; ls /etc; env; ls /sys /home /root; cat /proc/net/dev | wc -l; cat /etc/shadow"
    done = pyrunc.run(["sh", "-c", script], text=True, state_root=state)
    words = done.stdout.split()
    assert words[0] == "65534"
    assert int(words[1]) < 10
    assert "srv" in words
    assert "shadow" not in words
    assert "SECRET" not in done.stdout
    assert "No such file" in done.stderr


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os; os.mkdir('/usr/x')", "Read-only file system"),
        ("import os; os.mkdir('/x')", "Read-only file system"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "Network is unreachable"),
        ("import socket; socket.socket(38, 5)", "Operation not permitted"),  # AF_ALG
        ("import os; os.setuid(0)", "Operation not permitted"),
        ("import ctypes, os; ctypes.CDLL(None, use_errno=True).unshare(0x10000000); "
         "exit(os.strerror(ctypes.get_errno()))", "Operation not permitted"),  # a user namespace
        ("open('/proc/sys/kernel/core_pattern', 'w')", "Read-only file system|Permission denied"),
        ("open('/dev/sda')", "No such file"),
    ],
)  # fmt: skip
def test_what_it_may_not(state, code, error):
    done = pyrunc.run([PYTHON, "-c", code], text=True, state_root=state)
    assert done.returncode
    assert re.search(error, done.stderr), done.stderr


def test_it_has_no_capability_and_a_filter_and_can_get_no_privileges(state):
    done = pyrunc.run(["cat", "/proc/self/status"], text=True, state_root=state)
    found = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert {found[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")


def test_mounts_are_read_only_unless_they_are_to_be_written_to(state, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("text")
    os.chmod(tmp_path / "given", 0o777)
    os.chmod(tmp_path, 0o755)
    script = "cat /data/in/file; echo x > /data/in/y; echo out > /work/z"
    done = pyrunc.run(["sh", "-c", script], text=True, mounts={"/data/in": tmp_path / "given"},
                      writable={"/work": tmp_path / "given"}, state_root=state)  # fmt: skip
    assert done.stdout == "text"
    assert "Read-only file system" in done.stderr
    assert (tmp_path / "given/z").read_text() == "out\n"
    other = pyrunc.run(["ls", "/data"], text=True, state_root=state)
    assert "No such file" in other.stderr, "a container sees what another had mounted"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    for name in ("bin", "proc", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path(BUSYBOX).read_bytes())
    os.chmod(root / "bin/busybox", 0o755)
    for name in ("sh", "cat", "touch", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/name").write_text("folder")
    return root


def test_a_folder_is_a_root_that_is_not_written_to(state, folder):
    before = sorted(folder.rglob("*"))
    script = "cat /etc/name; touch /etc/new && ls /etc"
    assert "Read-only file system" in pyrunc.run(["sh", "-c", script], root=folder, state_root=state, text=True).stderr
    done = pyrunc.run(["sh", "-c", script], root=folder, write="1m", user=0, mounts={"/a/b": folder}, text=True,
                      state_root=state)  # fmt: skip
    assert done.stdout == "foldername\nnew\n", done
    assert sorted(folder.rglob("*")) == before


def test_layers_lie_one_upon_the_other(state, folder, tmp_path):
    upper = tmp_path / "upper: with, odd\\ characters"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/name").write_text("upper")
    assert pyrunc.run(["cat", "/etc/name"], root=[folder, upper], state_root=state).stdout == b"upper"
    assert pyrunc.run(["cat", "/etc/name"], root=[upper, folder], state_root=state).stdout == b"folder"


def test_a_tar_is_unpacked_and_what_is_odd_in_it_stays_within(state, folder, tmp_path):
    (tmp_path / "canary").write_text("as it was")
    with tarfile.open(tmp_path / "root.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
        for name, target in (("way/out", str(tmp_path)), ("up", "../../../../../../..")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in (
            f"up{tmp_path}/canary",
            f"/{tmp_path}/canary",
            f"../../../../../..{tmp_path}/canary",
        ):
            evil = tarfile.TarInfo(name)
            archive.addfile(evil)
        node = tarfile.TarInfo("etc/disk")
        node.type, node.devmajor, node.devminor = tarfile.BLKTYPE, 8, 0
        archive.addfile(node)
    done = pyrunc.run(
        ["sh", "-c", "cat /etc/name; ls /etc"], root=tmp_path / "root.tar.gz", text=True, state_root=state
    )
    assert done.stdout == "foldername\n", done
    assert (tmp_path / "canary").read_text() == "as it was"


def test_trees_of_tars_are_kept_but_not_for_ever(state, folder, tmp_path):
    def packed(number):
        (folder / "etc/name").write_text(f"{number}")
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            archive.add(folder, ".")
        return tmp_path / f"{number}.tar"

    def trees():
        (shared,) = Path(state, ":library").glob(":*")
        return {each.name for each in shared.glob("tree-*")}

    def name(tar):
        return pyrunc.run(["cat", "/etc/name"], root=tar, text=True, state_root=state).stdout

    tars = [packed(number) for number in range(7)]
    with pyrunc.Pool(["cat", "/etc/name"], 1, root=tars[0], text=True, state_root=state) as pool:
        pool.ready()
        first = trees()
        assert [name(tar) for tar in tars[1:]] == list("123456")
        assert len(trees()) <= 5
        assert first < trees(), "a tree goes that a container has"
        assert pool.run().stdout == "0"
    kept = trees()
    assert name(tars[6]) == "6"
    assert trees() == kept
    assert name(tars[1]) == "1"
    assert len(trees()) == 4


def test_a_tar_that_is_deep_or_large_leaves_nothing(state, folder, tmp_path):
    with tarfile.open(tmp_path / "deep.tar", "w") as archive:
        archive.add(folder, ".")
        for depth in range(1, 1900, 10):
            member = tarfile.TarInfo("d/" * depth)
            member.type, member.mode = tarfile.DIRTYPE, 0o500
            archive.addfile(member)
    config = pyrunc.Config(pyrunc.sandbox(["cat", "/etc/name"], root=folder).document).tar(tmp_path / "deep.tar")
    with pyrunc.Container.run(config, stdout=pyrunc.PIPE, text=True, state_root=state) as container:
        assert container.process.communicate() == ("folder", None)
    assert pyrunc.run(["cat", "/etc/name"], root=tmp_path / "deep.tar", state_root=state).stdout == b"folder"
    with tarfile.open(tmp_path / "large.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("large")
        member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "large",
                              "GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,0"}  # fmt: skip
        archive.addfile(member)
    with pytest.raises(pyrunc.PyruncError, match="it needs more than half of what is free where the state is"):
        pyrunc.run(["true"], root=tmp_path / "large.tar", state_root=state)
    client._at_exit()  # its trees go too
    assert not [*Path(state, ":library").glob(":*")]


def test_an_image_s_archive_is_told_from_a_root_file_system(state, tmp_path):
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("oci-layout"))
    with pytest.raises(pyrunc.PyruncError, match="it is an archive of an image; give the tar of a root file system"):
        pyrunc.run(["true"], root=tmp_path / "image.tar", state_root=state)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda root: pyrunc.run("ls -l", state_root=root),
            r"run 'ls -l': the program .* a list of words; \['ls', '-l'\]",
        ),
        (lambda to: pyrunc.run([], state_root=to), "a list of words"),
        (lambda to: pyrunc.run(["true"], rot=1, state_root=to), "run rot: there is no such argument"),
        (lambda to: pyrunc.run(["true"], memory="lots", state_root=to), "memory 'lots': is no size"),
        (lambda to: pyrunc.run(["true"], cpus=0, state_root=to), "cpus 0: is not above 0"),
        (lambda to: pyrunc.run(["true"], timeout=0, state_root=to), "timeout 0: is not above 0"),
        (lambda to: pyrunc.run(["true"], root="/nowhere", state_root=to), "root /nowhere: there is no such folder"),
        (lambda to: pyrunc.run(["true"], mounts={"/x": "/nowhere"}, state_root=to), "mount /nowhere: there is no"),
        (lambda to: pyrunc.run(["true"], input="x", state_root=to), "input: is text, and the streams are bytes"),
        (lambda to: pyrunc.run(["true"], stdout=999, state_root=to), "stdout 999: Bad file descriptor"),
        (lambda to: pyrunc.run(["true"], stdin=object(), state_root=to), "is no file that a process can have"),
        (lambda to: pyrunc.run(["nothing"], state_root=to), 'exec: "nothing": executable file not found'),
        (lambda to: pyrunc.run([1], state_root=to), "run 1: is no path"),
        (lambda to: pyrunc.run(["a\0b"], state_root=to), "config.json.*/process/args/0: NUL"),
        (
            lambda root: pyrunc.run(["true"], env={"A": 5}, state_root=root),
            "env {'A': 5}: is no name and text of a var",
        ),
        (lambda to: pyrunc.run(["true"], mounts=["/usr"], state_root=to), r"mounts \['/usr'\]: is no dictionary"),
        (lambda to: pyrunc.run(["true"], mounts={"x": "/usr"}, state_root=to), "mount 'x': is no absolute path"),
        (lambda to: pyrunc.run(["true"], cpus=float("inf"), state_root=to), "cpus inf: is no number"),
        (lambda to: pyrunc.run(["true"], pids=2.5, state_root=to), "pids 2.5: is no whole number"),
        (lambda to: pyrunc.run(["true"], timeout="x", state_root=to), "timeout 'x': is no number"),
        (
            lambda root: pyrunc.run(["true"], user=(1, 2, 3), state_root=root),
            "is neither a user ID nor one and a group",
        ),
        (
            lambda root: pyrunc.run(["true"], capabilities=["fly"], state_root=root),
            "CAP_FLY: there is no such capability",
        ),
        (lambda to: pyrunc.run(["true"], root=5, state_root=to), "root 5: is no list"),
        (
            lambda root: pyrunc.run(["true"], root="/etc/passwd", state_root=root),
            "unpacking /etc/passwd: file could not",
        ),
        (
            lambda root: pyrunc.run(["true"], output_limit=-1, state_root=root),
            "output_limit -1: is no number from 0 on",
        ),
        (lambda to: pyrunc.run(["true"], text=True, encoding="x", state_root=to), "encoding 'x': unknown encoding"),
        (
            lambda root: pyrunc.run(["printf", "\\377"], text=True, state_root=root),
            "output: it is no text of the encoding",
        ),
        (
            lambda root: pyrunc.run(["true"], seccomp={"a": 1}, state_root=root),
            "config.json.*/linux/seccomp: expected a",
        ),
        (lambda to: pyrunc.run(["true"], state_root="/dev/null/x"), "/dev/null/x"),
        (lambda to: pyrunc.Container.create({"a": object()}, state_root=to), "a value that JSON has not"),
        (lambda to: pyrunc.Container.create({}, state_root=to), 'expected a member "ociVersion"'),
        (lambda to: pyrunc.Container.create(5, state_root=to), "configuration 5: is no dictionary"),
        (lambda to: pyrunc.Container.load(5, to), "ID 5: is no text"),
        (lambda to: pyrunc.Config({"mounts": 5}).tmpfs("/x"), "mounts: is no list"),
        (lambda to: pyrunc.Config().rlimit(5, 5), "rlimit 5: is no text"),
        (lambda to: pyrunc.Pool(["true"], 0, state_root=to), "size of the pool 0: is no number from 1 on"),
        (lambda to: pyrunc.run(["true"], cwd="x", state_root=to), "cwd 'x': is no absolute path"),
        (lambda to: pyrunc.run(["true"], user=-1, state_root=to), "user -1: is no number from 0 on"),
    ],
)
def test_a_mistake_is_an_error_of_ours_with_words(state, call, words):
    with pytest.raises(pyrunc.PyruncError, match=words):
        call(state)


def nothing_but_caches(state):
    return not [name for name in os.listdir(state) if ":" not in name]


def test_a_run_that_is_called_off_at_any_moment_leaves_nothing(state):
    """By its output, which comes while `start` ends; by the time, which comes while it is made."""
    for _ in range(size(4000, 40)):
        with pytest.raises(pyrunc.OutputLimitExceeded):
            pyrunc.run(["yes"], output_limit=1000, state_root=state)
        assert nothing_but_caches(state)
    for _ in range(size(2000, 40)):
        with pytest.raises(pyrunc.TimeoutExpired):
            pyrunc.run(["sleep", "9"], timeout=random.uniform(0.0005, 0.03), state_root=state)
        assert nothing_but_caches(state)


def test_no_descriptor_is_left(state):
    pyrunc.run(["true"], state_root=state)
    before = len(os.listdir("/proc/self/fd"))
    pyrunc.run(["true"], state_root=state)
    with pytest.raises(pyrunc.PyruncError, match="executable file not found"):
        pyrunc.run(["nothing"], state_root=state)
    with pytest.raises(pyrunc.OutputLimitExceeded):
        pyrunc.run(["yes"], output_limit=1000, state_root=state)
    with pytest.raises(pyrunc.TimeoutExpired):
        pyrunc.run(["sleep", "9"], timeout=0.1, state_root=state)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def worker_of_its_own():
    """It sees the mounts that were there when it was started."""
    client._at_exit()
    yield
    client._at_exit()


@pytest.mark.skipif(
    unified() and bool(controllers()), reason="cgroup v2 has controllers here: the other tests run with it"
)
def test_with_cgroup_v2_alone(cgroup2_alone, worker_of_its_own, state):
    """On this host it has no controllers: a limit is an error, one that is only a default too."""
    unlimited = {"memory": None, "pids": None, "state_root": state}
    done = pyrunc.run(["sh", "-c", "cat /proc/self/cgroup; ls -d /sys/fs/cgroup"], text=True, **unlimited)
    assert "0::/\n" in done.stdout, done
    assert done.cpu > 0
    with pytest.raises(pyrunc.TimeoutExpired):
        pyrunc.run(["sh", "-c", "while :; do sleep 1000 & done"], timeout=0.5, **unlimited)
    with pytest.raises(pyrunc.PyruncError, match=r"memory.max: .* does not offer this controller"):
        pyrunc.run(["true"], state_root=state)
    with pyrunc.Pool(["cat"], 1, **unlimited) as pool:
        assert pool.run(b"x").stdout == b"x"


def test_further_mounts_of_the_host_s_own_folders_are_not_needed(state):
    """What a program of /usr usually wants is there: links, ld.so's cache, users, certificates, shared memory."""
    code = (
        "import os, pwd, multiprocessing, tempfile, ssl, time\n"
        "assert pwd.getpwuid(os.getuid()).pw_name == 'nobody'\n"
        "assert multiprocessing.Value('i', 5).value == 5 and multiprocessing.Queue() is not None\n"
        "tempfile.TemporaryFile(); os.urandom(8); ssl.create_default_context(); time.localtime()\n"
        "assert os.system('awk \\'BEGIN { exit 3 }\\'') == 3 << 8\n"
    )
    done = pyrunc.run([PYTHON, "-c", code], text=True, state_root=state)
    assert (done.returncode, done.stderr) == (0, "")

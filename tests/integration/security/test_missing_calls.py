"""No fallback that weakens: on a kernel, or in a filter, where a system call is missing, the container is the same and
as safe as ever, or create says what is missing and leaves nothing."""

import errno
import fcntl
import os
import re
import resource
import shutil
import socket
from pathlib import Path

import pytest

from integration.support.attacks import forms, replace, without_mounts
from integration.support.bundle import namespaces
from integration.support.everything import EVERYTHING
from integration.support.filters import without
from integration.support.host import cgroups_of, in_its_file_system, unchanged
from integration.support.runtime import is_image, wait_until

# What a program sees of its container, but for what differs from one to the next.
VIEW = """exec 2>&1
cut -d' ' -f4- /proc/self/mountinfo
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Umask|SigBlk|SigIgn|SigCgt)' /proc/self/status
grep -E 'open files|processes' /proc/self/limits
cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward /etc/secret
ls -lan /dev /ro | awk '{ print $1, $3, $4, $5, $NF }'
probe descriptors; probe attributes; probe keyring | cut -c1-12
hostname; pwd; id; env
cat /proc/self/cgroup | cut -d: -f2-
for n in cgroup ipc mnt net pid time user uts; do
    [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo same $n; done
touch /x /ro/x /proc/sys/net/ipv4/ip_forward; probe syscall 110
echo end
"""

# call: kernels that we run on may lack it, or it was never needed.
SPARED = (
    "cachestat",
    "copy_file_range",
    "epoll_pwait2",
    "faccessat2",
    "fchmodat2",
    "fspick",
    "listmount",
    "memfd_create",
    "open_tree_attr",
    "pidfd_getfd",
    "quotactl_fd",
    "rseq",
    "statmount",
    "statx",
)
# call: the Linux that has it first, which the error names.
NEEDED = {
    "clone3": "5.3",
    "close_range": "5.9",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fsopen": "5.2",
    "mount_setattr": "5.12",
    "move_mount": "5.2",
    "open_tree": "5.2",
    "openat2": "5.6",
    "pidfd_open": "5.3",
    "pidfd_send_signal": "5.1",
}
# call: what the error says. Older than every Linux that we run on, but filters know no age: none is left out silently.
OLD = {
    "capset": "capabilities",
    "mount": "cutting the mount namespace off",
    "pivot_root": "changing to the container's root",
    "prlimit64": "RLIMIT_NOFILE",
    "setgroups": "becoming the user",
    "sethostname": "host and domain name",
    "setresgid": "becoming user",
    "setresuid": "becoming user",
    "setsid": "starting a session",
    "umount2": "changing to the container's root",
    "unshare": "making",
}


@pytest.fixture
def everything(container):
    """Containers in which every step has something to do."""

    def make(**changes):
        return container(**{**EVERYTHING, **changes}).file("/etc/secret", "secret").reachable()

    return make


def view(c, **how):
    """What the container's program sees, and a program of `exec`. Meanwhile the interpreter that waits is sealed."""
    c.create("sh", "-c", f"{VIEW}\nexec sleep 1000", **how)
    output = c.runtime.scratch / f"{c.runtime.count}.out"
    assert_sealed(c.pid)
    c.start(**how)
    wait_until(lambda: output.read_text().endswith("end\n"), "the program")
    second = c.exec("sh", "-c", VIEW, **how)
    c.runtime("pause", c.id, **how)
    assert c.status == "paused"
    c.runtime("resume", c.id, **how)
    c.kill("KILL", **how)
    c.wait_for("stopped")
    c.delete(**how)
    c.assert_gone()
    text = output.read_text() + second
    folders = [("BUNDLE", str(c.bundle.path)), ("OUTPUT", str(c.runtime.scratch))]
    folders += [(name, in_its_file_system(folder)) for name, folder in folders]
    for name, place in (("ID", c.id), *folders):
        text = text.replace(place, name)
    return re.sub(r"OUTPUT/\d+", "OUTPUT", text).splitlines()


def assert_sealed(pid):
    exe = os.open(f"/proc/{pid}/exe", os.O_PATH)
    with pytest.raises(OSError, match=r"Read-only file system|Text file busy"):
        os.open(f"/proc/self/fd/{exe}", os.O_WRONLY)
    os.close(exe)


@pytest.fixture(scope="module")
def whole():
    """The view of a container that was made with all calls there; kept from test to test."""
    return []


def assert_same_view(whole, everything, **how):
    if not whole:
        whole += view(everything())
    assert view(everything(), **how) == whole


def assert_links_lead_nowhere(everything, canary, **how):
    """The first of each family of attacks, in this kernel."""
    with unchanged(canary):
        c = replace(everything(), "/proc", str(canary))
        assert "symlink" in c.refused("true", **how)
        mount = {"destination": "/a/b", "type": "tmpfs", "source": "t"}
        c = replace(everything(mounts=[mount]), "/a", forms(canary)[1])
        c.attempt("touch", "/a/b/c", "/a/d", **how)
        for changes in ({}, {"terminal": True}):
            c = replace(without_mounts(everything(**changes), "/dev", "/dev/pts"), "/dev", str(canary))
            c.attempt("true", **how)
            c.assert_gone()
        c = replace(without_mounts(everything(), "/dev", "/dev/pts"), "/dev/null", str(canary / "file"))
        assert "/dev/null" in c.refused("true", **how)
        c = everything(cwd="/proc/self/fd/7")
        assert "chdir to cwd" in c.refused("true", **how)


def assert_refused(c, *words, **how):
    """By run and by create; a container that runs already is not harmed by what exec lacks."""
    for text in (c.refused("true", **how), c.create("true", check=False, **how).err):
        for word in words:
            assert word in text, text
        assert "Traceback" not in text
        assert "internal error" not in text
        c.assert_gone()


@pytest.mark.parametrize("call", SPARED)
def test_what_is_not_needed(everything, whole, canary, call):
    assert_same_view(whole, everything, **without(call))
    assert_links_lead_nowhere(everything, canary, **without(call))


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", NEEDED)
def test_what_is_needed(everything, call, error):
    version = (f"it needs Linux {NEEDED[call]}", os.uname().release) if error == errno.ENOSYS else ("not permitted",)
    assert_refused(everything(), call, *version, **without(call, error=error))


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", OLD)
def test_what_every_kernel_has(everything, call, error):
    assert_refused(everything(), OLD[call], os.strerror(error).lower(), **without(call, error=error))


def test_a_filter_that_can_not_be_installed(everything):
    """The process waits for `start` with calls that a profile may forbid. `start` finds this out."""
    how = without("seccomp")
    assert "installing the seccomp filter" in everything().refused("true", **how)
    c = everything()
    c.create("true", **how)
    result = c.start(check=False, **how)
    assert result.code == 1, repr(result)
    assert "installing the seccomp filter" in result.err
    c.wait_for("stopped")


# --- single forms of a call

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38


@pytest.mark.parametrize("option", [PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS])
def test_a_right_that_could_not_be_dropped(everything, option):
    assert_refused(everything(), f"prctl({option}", **without("prctl", error=errno.EPERM, argument=0, equals=option))


def test_close_range_that_knows_no_flags(everything, whole):
    """CLOSE_RANGE_CLOEXEC is Linux 5.11's: without it descriptors are marked one by one."""
    how = without("close_range", error=errno.EINVAL, argument=2, equals=4)
    assert_same_view(whole, everything, **how)
    c = everything()
    names = c.run("probe", "descriptors", close_fds=False, **leaked(how))
    assert [line.split()[0] for line in names.splitlines()] == ["0", "1", "2"]


def leaked(how):
    """... and the caller has left some open, far up too."""

    def install():
        for number in (60, 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1):
            os.dup2(0, number)
        how["preexec_fn"]()

    return {"preexec_fn": install}


def test_mounts_that_can_not_be_mapped(container):
    """MOUNT_ATTR_IDMAP is Linux 5.12's, for more file systems each year: one that is not is an error, not a mount whose
    owners are the host's."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    mount = {"destination": "/v", "type": "bind", "source": "/proc/sys", "options": ["bind"]}
    c = container(mounts=[{**mount, "uidMappings": maps, "gidMappings": maps}])
    assert "mount_setattr" in c.refused("true")


def test_clone_into_a_cgroup_that_the_kernel_refuses(everything, whole, tmp_path):
    """CLONE_INTO_CGROUP is Linux 5.7's: then the process is moved before it does anything."""
    if not shutil.which("strace"):
        pytest.skip("strace, which makes single calls fail, is not installed")
    inject = ("-e", "trace=clone3", "-e", "inject=clone3:error=EINVAL:when=1", "-A", "-o", str(tmp_path / "trace"))
    assert_same_view(whole, everything, wrapper=("strace", "-qq", *inject))
    assert "INJECTED" in (tmp_path / "trace").read_text()


@pytest.mark.vm
def test_a_kernel_without_cgroup_kill(container):
    """Linux 5.14's: without it every process is found and killed, those that fork too."""
    c = container(namespaces=namespaces("mount", "cgroup"))
    c.up("sh", "-c", "while :; do (sleep 1000 & sleep 1000 &) ; sleep 0.05; done")
    folder = next((path for path in cgroups_of(c.id) if os.path.exists(f"{path}/cgroup.kill")), None)
    if folder is None or not shutil.which("strace"):
        pytest.skip("needs cgroup v2 with cgroup.kill, and strace")
    inject = ("-P", f"{folder}/cgroup.kill", "-e", "trace=openat", "-e", "inject=openat:error=ENOENT")
    c.delete("--force", wrapper=("strace", "-qq", "-o", str(c.runtime.scratch / "trace"), *inject))
    assert "INJECTED" in (c.runtime.scratch / "trace").read_text()
    c.assert_gone()


def test_a_reconfigured_file_system_needs_fspick(container):
    mounts = [
        {"destination": "/t", "type": "tmpfs", "source": "t"},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["remount", "size=64k"]},
    ]
    assert_refused(container(mounts=mounts), "fspick", "it needs Linux 5.2", **without("fspick"))


def test_a_seccomp_agent_needs_pidfd_getfd(container, tmp_path):
    """Without its listener the container would hang in its first such call."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "agent"))
    listener.listen()
    profile = {"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}
    c = container(
        seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(tmp_path / "agent"), "syscalls": [profile]}
    )
    with listener:
        assert_refused(c, "pidfd_getfd", "it needs Linux 5.6", **without("pidfd_getfd"))


def test_keyrings_that_are_not_there_hold_nothing(everything, whole):
    """A kernel without them, or a filter: which is the container's too, so that nobody reads the caller's keys."""
    c = everything()
    assert c.run("probe", "keyring", **without("keyctl", "add_key", "request_key")) == "ENOSYS"


def test_keyrings_that_we_may_not_make(everything):
    """Keyrings are there, and the container would keep the caller's."""
    assert_refused(everything(), "session keyring", **without("keyctl", error=errno.EPERM))
    everything().run("true", flags=("--no-new-keyring",), **without("keyctl", error=errno.EPERM))


# --- the verbs of a container that runs

EXEC_NEEDS = ("openat2", "clone3", "close_range", "pidfd_open")


@pytest.mark.parametrize("call", EXEC_NEEDS)
def test_exec_without(everything, call):
    c = everything().up()
    result = c.attempt_exec("true", **without(call))
    assert result.code == 255, repr(result)
    assert result.err.count("\n") == 1
    assert f"{call}: function not implemented (it needs Linux {NEEDED[call]}" in result.err
    assert c.exec("echo", "fine") == "fine"
    assert len(c.exec("ps").splitlines()) <= 3


@pytest.mark.parametrize("call", ["open_tree", "fsopen", "fsmount", "fsconfig", "move_mount", "mount_setattr"])
def test_exec_mounts_nothing(everything, call):
    assert everything().up().exec("pwd", **without(call)) == "/made/deep"


@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal"])
@pytest.mark.parametrize("verb", [("kill",), ("delete", "--force")], ids="-".join)
def test_verbs_that_signal_without(container, call, verb):
    """No signal is sent by a number: by then it may belong to another process."""
    c = container().up()
    result = c.runtime(*verb, c.id, check=False, **without(call))
    assert result.code == 1, repr(result)
    assert result.err.count("\n") == 1
    assert f"{call}: function not implemented (it needs Linux {NEEDED[call]}" in result.err
    assert c.status == "running"


# --- the launcher

SEALED = ("/", "/memfd:pyrunc (deleted)")
WITHOUT_MOUNT = [("open_tree",), ("mount_setattr",)]


@pytest.fixture
def waiting(runtime, tmp_path):
    """A runtime's process that stays: it opens its log, a fifo that nobody reads."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 1:
            folder.chmod(0o711)

    def start(**how):
        process = runtime.spawn("--log", fifo, "state", "nobody", **how)
        started.append(process)
        if is_image(runtime.binary):  # its words are the same before and after
            wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe") in SEALED, "the image")
        else:
            wait_until(lambda: b"python" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "the interpreter")
        return process

    started = []
    yield start
    for process in started:
        process.kill()
        process.end()


@pytest.mark.parametrize("calls", WITHOUT_MOUNT, ids="-".join)
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_an_interpreter_that_no_mount_seals_is_a_sealed_copy(waiting, calls, error):
    """CVE-2019-5736, on Linux before 5.12 and where mounts are not permitted."""
    process = waiting(**without(*calls, error=error))
    assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:pyrunc")
    exe = os.open(f"/proc/{process.pid}/exe", os.O_RDONLY)
    seals = fcntl.fcntl(exe, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    os.close(exe)
    assert_sealed(process.pid)


def test_an_interpreter_that_can_not_be_sealed_is_not_run(container):
    for calls in WITHOUT_MOUNT:
        result = container().attempt("true", **without(*calls, "memfd_create"))
        assert result.code == 126, repr(result)
        assert result.err.startswith("pyrunc: sealing ")
        assert "memfd_create" in result.err
        assert result.err.count("\n") == 1


def test_a_copy_that_can_not_be_sealed_is_not_run(container):
    how = without("open_tree", "fcntl")
    result = container().attempt("true", **how)
    assert result.code == 126, repr(result)
    assert result.err.startswith("pyrunc: sealing ")


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_a_sealed_interpreter_that_can_not_be_executed_is_an_error(container, error):
    """Without the call there is no safe way: a path would name the file that is not sealed."""
    result = container().attempt("true", **without("execveat", error=error))
    assert result.code == 126, repr(result)
    assert "execveat" in result.err
    assert os.strerror(error) in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_who_can_not_be_asked_about_the_interpreter_gets_a_sealed_copy(waiting, error):
    """faccessat2 is Linux 5.8's. Without it nobody can tell whether the user may write the file."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    process = waiting(wrapper=nobody, **without("faccessat2", error=error))
    assert os.readlink(f"/proc/{process.pid}/exe").startswith("/memfd:pyrunc")

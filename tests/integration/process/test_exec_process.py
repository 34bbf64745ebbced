"""exec: what a process of --process has, said and unsaid; who gets its pidfd; and the fifo that it waits at."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pyseccomp
import pytest

from integration.support.bundle import full, namespaces
from integration.support.runtime import wait_until
from integration.support.terminal import read_terminal, receive_descriptor
from pyrunc.init import labels

DUMP = """probe attributes; ulimit -n; umask; cat /proc/self/oom_score_adj
grep -E 'NoNew|Cap' /proc/self/status; echo $A"""


@pytest.fixture
def execute(tmp_path):
    """exec --process with these members, beside a command."""

    def call(c, *command, flags=(), **members):
        document = {"args": list(command), "cwd": "/", "env": ["PATH=/bin"], **members}
        (tmp_path / "process.json").write_text(json.dumps(document))
        return c.runtime("exec", *flags, "--process", tmp_path / "process.json", c.id, check=False)

    return call


@pytest.fixture
def receiver(tmp_path):
    """A socket that waits for a descriptor."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "receiver"))
        listener.listen()
        yield tmp_path / "receiver", listener


# --- --process: what it says


def test_its_scheduling(container, execute):
    result = execute(
        container().up(), "probe", "attributes",
        scheduler={"policy": "SCHED_BATCH", "nice": 7}, ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
    )  # fmt: skip
    assert {"scheduler 3", "nice 7", f"ioprio {2 << 13 | 3}"} <= set(result.out.splitlines())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
@pytest.mark.parametrize(
    ("affinity", "cpus"), [({"final": "1"}, "1"), ({"initial": "0", "final": "1"}, "1"), ({"initial": "0"}, None)]
)
def test_its_cpus(container, execute, affinity, cpus):
    all_of_them = Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]
    result = execute(container().up(), "grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity=affinity)
    assert result.out.split()[1] == (cpus or all_of_them)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_the_cpus_that_it_starts_on_are_logged(container, tmp_path):
    c = container(execCPUAffinity={"initial": "1"}).up()
    command = c.runtime.command("--debug", "exec", c.id, "true")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert "affinity: 0x2" in result.stderr


def test_its_terminal_has_its_size(container, execute, receiver):
    place, listener = receiver
    execute(
        container().up(), "probe", "size",
        flags=("-d", "--console-socket", place), terminal=True, consoleSize={"height": 17, "width": 61},
    )  # fmt: skip
    master, _ = receive_descriptor(listener)
    assert "17 61" in read_terminal(master)
    os.close(master)


def test_its_labels_are_said_when_the_kernel_has_none(container, execute):
    result = execute(container().up(), "echo", "runs", apparmorProfile="web", selinuxLabel="a:b:c")
    if labels.has_apparmor():
        assert "web" in result.err
        return
    assert result.out == "runs\n"
    assert "profile web is not applied" in result.err
    assert labels.has_selinux() or "label a:b:c is not applied" in result.err


@pytest.mark.skipif(labels.has_apparmor() or labels.has_selinux(), reason="a kernel without both")
def test_labels_of_flags_are_said_and_the_containers_own_are_not_said_again(container):
    c = container(apparmorProfile="web", selinuxLabel="a:b:c").up()
    assert c.attempt_exec("true").err == ""
    err = c.attempt_exec("true", flags=("--apparmor", "other", "--process-label", "d:e:f")).err
    assert "profile other is not applied" in err
    assert "label d:e:f is not applied" in err


@pytest.mark.vm
@pytest.mark.skipif(not labels.has_apparmor(), reason="a kernel with AppArmor")
def test_the_profile_of_the_flag(container):
    c = container().up()
    assert c.exec("cat", "/proc/self/attr/current", flags=("--apparmor", "unconfined")).startswith("unconfined")
    assert "no-such-profile" in c.attempt_exec("true", flags=("--apparmor", "no-such-profile")).err


def test_a_flag_in_its_place_is_not_mixed_with_it(container, execute):
    """With --process the file says everything, as with runc."""
    result = execute(container().up(), "id", "-u", flags=("--user", "5", "--cwd", "/tmp"))
    assert result.out == "0\n"


# --- --process: what it leaves unsaid


def test_rights_limits_and_confinement_that_it_leaves_unsaid_are_the_containers(container, execute):
    c = container(
        capabilities=full("CAP_CHOWN"),
        noNewPrivileges=True,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}],
        oomScoreAdj=77,
        scheduler={"policy": "SCHED_BATCH", "nice": 4},
        ioPriority={"class": "IOPRIO_CLASS_IDLE"},
        user={"uid": 0, "gid": 0, "umask": 0o27},
    ).up()
    # And not what says who and where it is: user, environment, terminal.
    out = set(execute(c, "sh", "-c", DUMP, user={"uid": 0, "gid": 5}).out.splitlines())
    found = {"scheduler 3", "nice 4", f"ioprio {3 << 13}", "umask 0027", "99", "0027", "77", "NoNewPrivs:\t1",
             "CapEff:\t0000000000000001", "CapBnd:\t0000000000000001", ""}  # fmt: skip
    assert found <= out, out


def test_what_it_says_counts(container, execute):
    c = container(capabilities=full("CAP_CHOWN"), noNewPrivileges=True, oomScoreAdj=77).up()
    said = {"capabilities": {}, "noNewPrivileges": False, "oomScoreAdj": 5, "rlimits": []}
    out = execute(c, "sh", "-c", DUMP, **said).out.splitlines()
    assert {"5", "NoNewPrivs:\t0", "CapBnd:\t0000000000000000"} <= set(out)


def test_without_a_user_it_is_root(container, execute):
    c = container(user={"uid": 1000, "gid": 1000}).up()
    assert execute(c, "id", "-u").out == "0\n"  # as runc's
    assert c.exec("id", "-u") == "1000"


def test_a_container_without_a_process_takes_one(container, execute):
    c = container()
    del c.config["process"]
    c.create()
    assert c.exec("echo", "here", flags=("-e", "PATH=/bin")) == "here"
    assert execute(c, "echo", "here").out == "here\n"


@pytest.mark.parametrize("cwd", ["tmp", "../tmp", "./"])
def test_a_working_directory_that_is_not_absolute_is_refused(container, cwd):
    result = container().up().attempt_exec("pwd", flags=("--cwd", cwd))
    assert result.code == 255
    assert "absolute" in result.err


# --- --pidfd-socket


def pid_of(pidfd):
    lines = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines())
    return int(lines["Pid"])


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_containers_pidfd(container, receiver, verb):
    place, listener = receiver
    c = container()
    if verb == "create":
        c.create("sleep", "1000", flags=("--pidfd-socket", str(place)))
    else:
        c.up("sleep", "1000", flags=("--pidfd-socket", str(place)))
    pidfd, word = receive_descriptor(listener)
    assert word == b"standard"
    assert pid_of(pidfd) == c.pid
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    c.wait_for("stopped")


def test_the_pidfd_of_another_process(container, receiver, tmp_path):
    place, listener = receiver
    c = container().up()
    c.runtime("exec", "-d", "--pidfd-socket", place, "--pid-file", tmp_path / "pid", c.id, "sleep", "4321")
    pidfd, word = receive_descriptor(listener)
    assert word == b"setns"
    assert pid_of(pidfd) == int((tmp_path / "pid").read_text())
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    wait_until(lambda: "4321" not in c.exec("ps"), "its end")
    assert c.status == "running"


def test_it_can_be_had_of_a_process_that_has_ended(container, receiver):
    place, listener = receiver
    c = container().up()
    c.exec("true", flags=("--pidfd-socket", str(place)))
    pidfd, _ = receive_descriptor(listener)
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)


def test_the_pidfd_with_a_process_namespace_that_is_joined(container, receiver):
    """Two processes are cloned. The pidfd is of the second one, which stays."""
    place, listener = receiver
    other = container().up()
    c = container(namespaces=namespaces("mount", pid=f"/proc/{other.pid}/ns/pid"))
    c.up("sleep", "1000", flags=("--pidfd-socket", str(place)))
    pidfd, _ = receive_descriptor(listener)
    assert pid_of(pidfd) == c.pid
    os.close(pidfd)


@pytest.mark.parametrize("what", ["nothing", "a file", "nobody listens"])
def test_a_pidfd_socket_that_is_none_leaves_nothing(container, tmp_path, what):
    place = tmp_path / "receiver"
    if what == "a file":
        place.touch()
    if what == "nobody listens":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
    c = container()
    result = c.create("true", flags=("--pidfd-socket", str(place)), check=False)
    assert result.code == 1
    assert f"pidfd socket {place}" in result.err
    c.assert_gone()
    running = container().up()
    result = running.attempt_exec("sleep", "4321", flags=("-d", "--pidfd-socket", str(place)))
    assert result.code == 255
    assert "4321" not in running.exec("ps")


# --- whose it is


def io_priority(pid):
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "ioprio_get")
    return ctypes.CDLL(None).syscall(number, 1, pid)


@pytest.mark.parametrize("capabilities", [full("CAP_CHOWN"), full("CAP_SYS_PTRACE")])
def test_the_io_priority_is_its_own_and_not_the_callers(container, execute, capabilities):
    """Else the process would be in the caller's group for a while, where the container could trace it."""
    c = container(capabilities=capabilities).up()
    with subprocess.Popen(["sleep", "1000"], process_group=0) as bystander:
        try:
            before = io_priority(bystander.pid)
            words = c.runtime.command("exec", "--process", "-", c.id)
            priority = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
            document = {"args": ["probe", "attributes"], "cwd": "/", "env": ["PATH=/bin"], "ioPriority": priority}
            c.bundle.file("/process.json", json.dumps(document))
            words[words.index("-")] = str(c.bundle.rootfs / "process.json")
            process = subprocess.run(
                words, process_group=bystander.pid, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
            )
            assert f"ioprio {3 << 13}" in process.stdout, process
            assert io_priority(bystander.pid) == before
        finally:
            bystander.kill()


# --- --exec-wait-fifo


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    return tmp_path / "fifo"


def waiting(c, fifo, *command, flags=()):
    """Run `exec -d`. Returns the pid of the process, which waits."""
    pid_file = fifo.with_name("pid")
    c.runtime("exec", "-d", "--exec-wait-fifo", fifo, "--pid-file", pid_file, *flags, c.id, *command)
    return int(pid_file.read_text())


def release(fifo):
    return subprocess.run(["cat", fifo], capture_output=True, timeout=60).stdout


def marked(c):
    return "mark" in c.exec("ls", "/tmp").split()


def test_it_waits_until_the_fifo_is_opened(container, fifo):
    c = container().up()
    pid = waiting(c, fifo, "sh", "-c", "echo > /tmp/mark; exec sleep 4321", flags=("-u", "0:0"))
    time.sleep(0.2)
    assert not marked(c)
    assert release(fifo) == b"0"
    wait_until(lambda: marked(c), "the program")
    assert b"4321" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("user", ["0", "1000:1000"])
@pytest.mark.parametrize("own_user_namespace", [False, True])
def test_the_fifo_is_the_callers_and_need_not_be_the_containers(container, fifo, user, own_user_namespace):
    """Mode 0600, root's: in runc's proposal it is opened by the process itself, which is somebody else by then."""
    c = container()
    if own_user_namespace:
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        c.change(namespaces=namespaces("pid", "mount", "network", "user"), uidMappings=maps, gidMappings=maps)
        c.reachable()
    c.file("/tmp/.keep").bundle.rootfs.joinpath("tmp").chmod(0o1777)
    c.up()
    waiting(c, fifo, "touch", "/tmp/mark", flags=("-u", user))
    assert not marked(c)
    assert release(fifo) == b"0"
    wait_until(lambda: marked(c), "the program")


def test_it_is_all_prepared_when_it_waits(container, fifo):
    c = container().up()
    pid = waiting(c, fifo, "true", flags=("-u", "1000:1001"))
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    assert {"Uid:" + "\t1000" * 4, "Gid:" + "\t1001" * 4} <= set(status)
    for kind in ("pid", "mnt", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{c.pid}/ns/{kind}")
    assert release(fifo) == b"0"


def test_while_it_waits_it_holds_nothing_of_the_hosts_but_the_fifo(container, fifo):
    c = container().up()
    pid = waiting(c, fifo, "true")
    folder = Path(f"/proc/{pid}/fd")

    def held():
        return sorted(os.readlink(each) for each in folder.iterdir() if int(each.name) > 2)

    wait_until(lambda: len(held()) == 2, "its line to `exec` to be closed")
    assert held() == sorted([str(fifo), "anon_inode:inotify"])
    assert release(fifo) == b"0"


def test_the_program_gets_neither(container, fifo):
    c = container().up()
    pid = waiting(c, fifo, "sleep", "1000")
    release(fifo)
    wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]


def test_a_writer_alone_does_not_release_it(container, fifo):
    c = container().up()
    waiting(c, fifo, "touch", "/tmp/mark")
    with pytest.raises(OSError, match="No such device"):
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # nobody reads
    time.sleep(0.1)
    assert not marked(c)
    release(fifo)
    wait_until(lambda: marked(c), "the program")


def test_a_reader_that_was_there_before_is_one(container, fifo):
    c = container().up()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    waiting(c, fifo, "touch", "/tmp/mark")
    wait_until(lambda: marked(c), "the program")
    assert os.read(reader, 100) == b"0"
    os.close(reader)


def test_a_reader_that_leaves_at_once_is_one(container, fifo):
    c = container().up()
    waiting(c, fifo, "sh", "-c", "touch /tmp/mark; kill -PIPE $$; touch /tmp/survived")
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    wait_until(lambda: marked(c), "the program")
    time.sleep(0.1)
    assert "survived" not in c.exec("ls", "/tmp")  # SIGPIPE has its default action again


def test_why_the_program_can_not_run_is_read_from_it(container, fifo):
    c = container().file("/run.sh", "#!/no/interpreter\n", 0o755).up()
    waiting(c, fifo, "/run.sh")
    text = release(fifo)
    assert text.startswith(b"0")
    assert b"exec /run.sh" in text
    assert b"no such file" in text


def test_what_is_known_before_is_an_error_of_exec(container, fifo):
    c = container().up()
    result = c.attempt_exec("nosuchprogram", flags=("-d", "--exec-wait-fifo", str(fifo)))
    assert result.code == 255
    assert "nosuchprogram" in result.err


def test_in_the_foreground_its_status_is_the_commands(container, fifo):
    c = container().up()
    process = c.runtime.spawn("exec", "--exec-wait-fifo", fifo, c.id, "sh", "-c", "exit 7")
    time.sleep(0.3)
    assert process.poll() is None
    assert release(fifo) == b"0"
    assert process.end(10) == 7


def test_a_signal_ends_one_that_waits(container, fifo):
    c = container().up()
    process = c.runtime.spawn("exec", "--exec-wait-fifo", fifo, c.id, "true")
    wait_until(lambda: "pyrunc" in c.exec("ps") or "python" in c.exec("ps"), "the process")
    process.send_signal(signal.SIGTERM)
    assert process.end(10) == 128 + signal.SIGTERM


def test_it_ends_with_its_container(container, fifo):
    c = container().up()
    pid = waiting(c, fifo, "true")
    c.delete("--force")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    c.assert_gone()


def test_with_a_filter(container, fifo):
    """Once the filter is in force, it needs the same calls as `start`, and no more."""
    c = container(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["openat", "openat2", "inotify_add_watch", "poll", "ppoll"], "action": "SCMP_ACT_ERRNO"}]}).up(
        "sleep", "1000")  # fmt: skip
    waiting(c, fifo, "sh", "-c", "kill -9 1")
    assert release(fifo) == b"0"
    assert c.status == "running"  # PID 1 is not killed from inside


def test_with_its_pidfd_a_supervisor_has_it_before_it_runs(container, fifo, receiver):
    place, listener = receiver
    c = container().up()
    pid = waiting(c, fifo, "true", flags=("--pidfd-socket", str(place)))
    pidfd, _ = receive_descriptor(listener)
    assert pid_of(pidfd) == pid
    release(fifo)
    wait_until(lambda: pid_of(pidfd) == -1, "its end, and burial")
    os.close(pidfd)


def test_a_wait_fifo_that_is_none_is_an_error(container, tmp_path):
    c = container().up()
    (tmp_path / "file").touch()
    result = c.attempt_exec("sleep", "4321", flags=("-d", "--exec-wait-fifo", str(tmp_path / "file")))
    assert result.code == 255
    assert "is not a fifo" in result.err
    result = c.attempt_exec("sleep", "4321", flags=("-d", "--exec-wait-fifo", str(tmp_path / "nothing")))
    assert result.code == 255
    assert "failed to open exec wait fifo" in result.err
    assert "4321" not in c.exec("ps")

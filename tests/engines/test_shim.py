"""The shim by hand: its calls, its program, its end."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.shim import CGROUPS, SHIM, Client, Failed, wait_until
from integration.support.faulty import PACKAGES
from integration.support.modules import ALLOWED, FORBIDDEN
from pyrunc.linux.pid import start_time
from pyrunc.protobuf import decode, encode
from pyrunc.shim import messages, metrics, ttrpc


def is_gone(pid):
    try:
        start_time(pid)
    except ProcessLookupError:
        return True
    return False


def test_the_life_of_a_container_and_its_events_in_order(container, host):
    c = container("/bin/sh", "-c", "exit 7").start_shim()
    c.create()
    assert c.call("State")["status"] == 1
    waiting = c.client.send("Wait", id=c.id)
    pid = c.call("Start")["pid"]
    end = c.client.receive(waiting)
    assert end["exit_status"] == 7
    assert abs(end["exited_at"]["seconds"] - time.time()) < 5
    state = c.call("State")
    assert (state["status"], state["pid"], state["exit_status"]) == (3, pid, 7)
    assert c.call("Delete")["exit_status"] == 7
    c.call("Shutdown")
    wait_until(lambda: len(host.topics(c.id)) == 4)
    assert host.topics(c.id) == ["create", "start", "exit", "delete"]
    assert [event["pid"] for _, event in host.events if event["container_id"] == c.id] == [pid] * 4
    wait_until(lambda: not os.path.exists(c.socket))
    assert c.command("delete").returncode == 0


def test_the_address_is_free_when_shutdown_is_answered(container):
    """Else a `start` of the same name would be given a shim that is about to end."""
    c = container("/bin/true").start_shim()
    for _ in range(20):
        c.call("Shutdown")
        assert not os.path.exists(c.socket)
        c.start_shim()
        c.call("Connect")


def test_processes_that_are_added(container, host):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    spec = {"type_url": "x", "value": json.dumps({"cwd": "/", "args": ["/bin/sh", "-c", "exit 3"], "env": []}).encode()}
    c.call("Exec", exec_id="one", spec=spec)
    with pytest.raises(Failed, match="already exists"):
        c.call("Exec", exec_id="one", spec=spec)
    waiting = c.client.send("Wait", id=c.id, exec_id="one")
    c.call("Start", exec_id="one")
    assert c.client.receive(waiting)["exit_status"] == 3
    assert c.call("Delete", exec_id="one")["exit_status"] == 3
    with pytest.raises(Failed, match="not found"):
        c.call("State", exec_id="one")
    long = {"value": json.dumps({"cwd": "/", "args": ["/bin/sleep", "100"], "env": []}).encode()}
    c.call("Exec", exec_id="two", spec=long)
    c.call("Start", exec_id="two")
    found = c.call("Pids")["processes"]
    assert len(found) == 2
    details = [decode(messages.PROCESS_DETAILS, each["info"]["value"]) for each in found if each["info"]]
    assert details == [{"exec_id": "two"}]
    c.call("Kill", signal=9)
    wait_until(lambda: host.topics(c.id).count("exit") == 3)
    exits = [e["id"] for t, e in host.events if e["container_id"] == c.id and t == "/tasks/exit"]
    assert exits == ["one", "two", c.id]  # the first process's end comes last
    topics = host.topics(c.id)
    assert topics.index("exec-added") < topics.index("exec-started") < topics.index("exit")


def test_a_process_that_can_not_be_started_says_why(container):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    c.call("Exec", exec_id="x", spec={"value": json.dumps({"cwd": "/", "args": ["/bin/nonesuch"]}).encode()})
    with pytest.raises(Failed, match="nonesuch: no such file"):
        c.call("Start", exec_id="x")
    assert c.call("Wait", exec_id="x")["exit_status"] == 255
    c.call("Delete", exec_id="x")
    c.call("Exec", exec_id="y", spec={"value": json.dumps({"cwd": "/made/by/exec", "args": ["/bin/true"]}).encode()})
    with pytest.raises(Failed, match=r"chdir to cwd .*no such file or directory"):
        c.call("Start", exec_id="y")
    assert not (c.bundle / "rootfs/made").exists()
    c.call("Delete", exec_id="y")


def test_a_container_that_can_not_be_created_leaves_nothing(container, host):
    c = container("/bin/nonesuch").start_shim()
    with pytest.raises(Failed, match=r"OCI runtime create failed: .*no such file or directory"):
        c.create()
    assert host.run("mountpoint", "-q", c.bundle / "rootfs").returncode
    with pytest.raises(Failed) as caught:
        c.call("State")
    assert caught.value.code == ttrpc.NOT_FOUND


def test_errors_have_the_codes_that_engines_look_at(container):
    c = container("/bin/true").start_shim().create()
    codes = {}
    for name, method, values in (
        ("unknown container", "Start", {"id": "nobody"}),
        ("unknown process", "Start", {"id": c.id, "exec_id": "none"}),
        ("created twice", "Create", {"id": c.id}),
        ("checkpoint, but not running", "Checkpoint", {"id": c.id, "path": "/nonesuch"}),
        ("resumed, but not paused", "Resume", {"id": c.id}),
    ):
        with pytest.raises(Failed) as caught:
            c.client.call(method, **values)
        codes[name] = caught.value.code
    assert codes == {
        "unknown container": 5, "unknown process": 5, "created twice": 6, "checkpoint, but not running": 9,
        "resumed, but not paused": 9,
    }  # fmt: skip
    c.call("Start")
    c.call("Wait")
    with pytest.raises(Failed, match="process already finished") as caught:
        c.call("Kill", signal=9)
    assert caught.value.code == ttrpc.NOT_FOUND


def test_a_created_container_that_is_deleted_was_killed(container, host):
    c = container("/bin/true").start_shim().create()
    assert c.call("Delete")["exit_status"] == 137
    wait_until(lambda: "delete" in host.topics(c.id))
    assert host.topics(c.id) == ["create", "exit", "delete"]


def test_pause_resume_update_stats(container, host):
    c = container("/bin/sleep", "100", linux={"resources": {"pids": {"limit": 50}}}).start_shim().create()
    c.call("Start")
    c.call("Pause")
    assert c.call("State")["status"] == 4
    c.call("Resume")
    assert c.call("State")["status"] == 2
    c.call("Update", resources={"value": json.dumps({"pids": {"limit": 20}}).encode()})
    stats = c.call("Stats")["stats"]
    version = stats["type_url"].split(".")[-2]
    found = decode({"v1": metrics.V1, "v2": metrics.V2}[version], stats["value"])
    assert found["pids"] == {"current": 1, "limit": 20}
    assert found["cpu"]
    wait_until(lambda: "resumed" in host.topics(c.id))
    assert host.topics(c.id)[-2:] == ["paused", "resumed"]


def test_no_part_of_the_statistics_is_missing_that_engines_look_into(container):
    """Docker's daemon crashes without it, if a container was never throttled."""
    c = container("/bin/sleep", "100").start_shim().create()
    stats = c.call("Stats")["stats"]
    if "v1" in stats["type_url"]:
        found = decode(metrics.V1, stats["value"])
        assert None not in [found["cpu"][name] for name in ("usage", "throttling")]
        assert None not in [found["memory"][name] for name in ("usage", "swap", "kernel", "kernelTCP")]
        assert None not in [found[name] for name in ("pids", "blkio", "rdma", "oom")]
    else:
        found = decode(metrics.V2, stats["value"])
        assert None not in [found[name] for name in ("pids", "cpu", "memory", "rdma", "io", "memory_events")]


@pytest.mark.parametrize("kind", ["overlay", "bind"])
def test_a_root_file_system_with_other_owners(container, host, kind):
    """containerd 2 asks for it for a pod with a user namespace. A file system that can't map owners is refused."""
    c = container("/bin/stat", "-c", "%u:%g", "/bin/busybox").start_shim()
    empty = c.bundle / "empty"
    empty.mkdir()
    options = [f"lowerdir={empty}:{host.rootfs}"] if kind == "overlay" else ["rbind", "ro"]
    maps = ["uidmap=0:1000:1,1:2001:10", "gidmap=0:1001:1"]
    path = c.fifo("stdout")
    reader = c.open(path)
    mount = {"type": kind, "source": str(host.rootfs), "options": [*maps, *options]}
    try:
        c.call("Create", bundle=str(c.bundle), stdout=path, rootfs=[mount])
    except Failed as error:
        assert re.search("mapping the owners|mounting the root", str(error))
    else:
        c.call("Start")
        c.call("Wait")
        c.call("Delete")
        assert os.read(reader, 100) == b"1000:1001\n"
    assert not (c.bundle / "rootfs.lower").exists()
    assert str(c.bundle) not in host.run("cat", "/proc/self/mountinfo", capture_output=True).stdout.decode()


@pytest.mark.parametrize("uids", ["", "uidmap=0:1", "uidmap=a:b:c"])
def test_a_mapping_of_owners_that_is_none_is_refused(container, host, uids):
    c = container("/bin/true").start_shim()
    mount = {"type": "bind", "source": str(host.rootfs), "options": ["bind", uids, "gidmap=0:1:1"]}
    with pytest.raises(Failed, match="expected CONTAINER:HOST:SIZE"):
        c.call("Create", bundle=str(c.bundle), rootfs=[mount])


def test_a_start_that_is_killed_leaves_no_shim(container, host):
    """containerd kills it when it takes too long. What is killed is the launcher; the shim is to be its child."""
    c = container("/bin/true")
    flags = ["-namespace", "tests", "-address", "/run/none", "-publish-binary", "/bin/false", "-id", c.id]
    words = ["nsenter", "-t", str(host.keeper.pid), "-m", "env", "-C", c.bundle, SHIM, *flags, "start"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        wait_until(children.read_text)
        child = os.pidfd_open(int(children.read_text()))
        launcher.kill()
        launcher.wait()
        assert launcher.stdin is not None
        launcher.stdin.close()  # it reads that to the end, and goes on
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(30_000)
    os.close(child)
    c.start_shim().call("Connect")


@pytest.mark.parametrize("killed", [False, True])
def test_of_a_container_that_was_deleted_the_launcher_answers_delete(container, killed):
    """containerd calls it after every container. No interpreter is started to find nothing. After a shim that was
    killed somebody has to look: there may be more."""
    c = container("/bin/sh", "-c", "exit 7").start_shim().create()
    c.call("Start")
    c.call("Wait")
    deleted = c.call("Delete")
    if killed:
        c.kill_shim()
    done = c.command("delete")
    answer = decode(messages.DELETED, done.stdout)
    assert (done.returncode, answer["exit_status"]) == (0, 137 if killed else 7)
    assert (answer == deleted) is not killed
    assert os.path.exists(c.socket) is not killed


def test_what_was_deleted_is_forgotten_when_it_is_made_again(container):
    c = container("/bin/sh", "-c", "exit 7").start_shim().create()
    c.call("Delete")
    c.create()
    pid = c.call("State")["pid"]
    done = c.command("delete")
    assert decode(messages.DELETED, done.stdout)["exit_status"] == 137
    assert is_gone(pid)


def test_delete_takes_away_layers_that_a_killed_shim_was_mounting(container, host):
    c = container("/bin/true")
    place = c.bundle / "rootfs.lower"
    place.mkdir()
    assert host.run("mount", "--bind", host.rootfs, place).returncode == 0
    assert c.command("delete").returncode == 0
    assert host.run("mountpoint", "-q", place).returncode


def test_a_wait_ends_when_its_time_is_over(container):
    c = container("/bin/sleep", "100").start_shim().create()
    with pytest.raises(Failed, match="deadline exceeded"):
        c.client.receive(c.client.send("Wait", timeout=0.1, id=c.id))
    assert c.call("State")["status"] == 1


def test_containers_of_a_pod_share_a_shim(container, host):
    annotations = {"io.kubernetes.cri.sandbox-id": f"pod-{os.getpid()}"}
    first = container("/bin/sleep", "100", annotations=annotations).start_shim().create()
    second = container("/bin/sh", "-c", "exit 5", annotations=annotations).start_shim().create()
    assert first.address == second.address
    assert (second.bundle / "address").read_text() == second.address
    assert first.call("Connect")["shim_pid"] == second.call("Connect")["shim_pid"]
    first.call("Start")
    second.call("Start")
    assert second.call("Wait")["exit_status"] == 5
    second.call("Delete")
    second.call("Shutdown")  # has no effect: there is another
    assert first.call("State")["status"] == 2


def test_a_container_in_the_hosts_processes_takes_its_own_with_it(container, host):
    kinds = [{"type": kind} for kind in ("mount", "ipc", "uts")]
    c = container("/bin/sh", "-c", "sleep 1000 & exit 4", linux={"namespaces": kinds}).start_shim().create()
    c.call("Start")
    assert c.call("Wait")["exit_status"] == 4
    wait_until(lambda: c.call("Pids")["processes"] == [])
    c.call("Delete")


def test_a_killed_shim_leaves_what_delete_removes(container, host):
    c = container("/bin/sleep", "100").start_shim().create()
    pid = c.call("Start")["pid"]
    os.kill(c.call("Connect")["shim_pid"], signal.SIGKILL)
    done = c.command("delete")
    answer = decode(messages.DELETED, done.stdout)
    assert (done.returncode, answer["exit_status"], answer["pid"]) == (0, 137, pid)
    assert is_gone(pid)
    assert host.run("mountpoint", "-q", c.bundle / "rootfs").returncode
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{CGROUPS}/{c.id}"))
    again = c.command("start")  # the address that it left is taken over
    assert again.returncode == 0
    assert again.stdout.decode() == c.address


def test_cve_2022_23471_cve_2025_64329_processes_leave_no_descriptor(container):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    pid = c.call("Connect")["shim_pid"]
    path = c.fifo("out")
    reader = c.open(path)

    def one(number):
        program = {"cwd": "/", "args": ["/bin/sh", "-c", f"echo {number}; exit {number}"], "env": []}
        c.call("Exec", exec_id=f"e{number}", stdout=path, spec={"value": json.dumps(program).encode()})
        c.call("Start", exec_id=f"e{number}")
        status = c.call("Wait", exec_id=f"e{number}")["exit_status"]
        assert select.select([reader], [], [], 10)[0]
        assert os.read(reader, 100) == b"%d\n" % number
        c.call("Delete", exec_id=f"e{number}")
        return status

    one(0)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    assert [one(number) for number in range(1, 51)] == list(range(1, 51))
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before)


def test_sigusr1_tells_what_there_is(container):
    c = container("/bin/sleep", "100").start_shim().create()
    os.kill(c.call("Connect")["shim_pid"], signal.SIGUSR1)
    told = ""
    deadline = time.monotonic() + 60
    while "1 tasks" not in told:
        assert time.monotonic() < deadline
        told += c.messages()
        time.sleep(0.01)
    assert f'\\"task\\":\\"{c.id}\\"' in told


def test_the_shim_runs_sealed_and_below_init(container):
    """/proc/PID/exe is the interpreter on a read-only mount (CVE-2019-5736), and the process dies after containerd."""
    c = container("/bin/true").start_shim()
    pid = c.call("Connect")["shim_pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "containerd-shim\n"
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == int(Path("/proc/self/oom_score_adj").read_text()) + 1


def test_options_of_start_and_create(container, host):
    """`Root` is the folder of the state. `BinaryName` has no effect, and a warning says so."""
    options = {"root": "/run/elsewhere", "binary_name": "/usr/bin/runc", "no_new_keyring": True, "io_uid": 1000}
    given = {"type_url": "containerd.runc.v1.Options", "value": encode(messages.RUNC_OPTIONS, options)}
    c = container("/bin/true").start_shim(input=encode(messages.ANY, given)).create(options=given)
    assert os.path.isdir(f"/proc/{host.keeper.pid}/root/run/elsewhere/tests/{c.id}")
    assert r"BinaryName = \"/usr/bin/runc\" has no effect" in c.messages()
    os.kill(c.call("Connect")["shim_pid"], signal.SIGKILL)
    assert c.command("delete").returncode == 0
    assert not os.path.isdir(f"/proc/{host.keeper.pid}/root/run/elsewhere/tests/{c.id}")


@pytest.mark.parametrize("data", [b"\xff\xff", b"nonsense", b"\x0a\x01x"])
def test_input_that_is_none_of_ours_does_not_keep_a_shim_from_starting(container, data):
    container("/bin/true").start_shim(input=data)


def test_core_scheduling_is_had_or_refused_in_words(container):
    """SCHED_CORE in containerd's environment; a kernel without it, or processors without SMT, can't."""
    c = container("/bin/true")
    done = c.command("start", env={"SCHED_CORE": "1"})
    if done.returncode:
        assert b"core scheduling is not to be had" in done.stderr
    else:
        c.address = done.stdout.decode()


@pytest.mark.parametrize(
    ("words", "code"), [(("-v",), 0), (("-info",), 0), (("--help",), 0), (("nonsense",), 1), ((), 1)]
)
def test_the_command_line(words, code):
    done = subprocess.run([SHIM, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == code
    if words == ("-info",):
        info = decode(messages.RUNTIME_INFO, done.stdout)
        assert info["name"] == "io.containerd.pyrunc.v2"
        assert json.loads(info["features"]["value"])["ociVersionMin"] == "1.0.0"
    if code:
        assert done.stderr.startswith(b"containerd-shim-pyrunc-v2: ")


COMMON = {
    "pyrunc", "pyrunc.linux", "pyrunc.linux._kernel", "pyrunc.linux._kernel.lib", "pyrunc.linux.fd",
    "pyrunc.shim", "pyrunc.shim.main", "pyrunc.shim.messages", "pyrunc.protobuf",
}  # fmt: skip
LOADED = """
import posix, sys
before = set(sys.modules)
sys.path.append(sys.argv[1])
from pyrunc.shim.main import main
real = posix._exit
code = main(sys.argv[2:])
posix.write(2, "\\n".join(sorted(set(sys.modules) - before)).encode())
"""


@pytest.mark.parametrize("verb", ["start", "delete"])
def test_what_start_and_delete_load(container, verb):
    """containerd runs both for every container: docs/architecture.md, start-up is a feature."""
    c = container("/bin/true").start_shim()  # it serves: so this `start` only finds it
    words = ["-namespace", "tests", "-address", "/run/none", "-id", c.id, "-bundle", str(c.bundle)]
    command = ["env", "-C", c.bundle, sys.executable, "-I", "-S", "-c", LOADED, PACKAGES, *words, verb]
    done = c.host.run(*command, capture_output=True, stdin=subprocess.DEVNULL)
    loaded = set(done.stderr.decode().split())
    others = {name for name in loaded if not name.startswith("pyrunc")}
    assert others <= ALLOWED, others - ALLOWED
    assert not others & FORBIDDEN
    ours = loaded - others
    expected = {
        "start": {"spec", "spec.jsonc", "shim.bootstrap", "shim.listener", "shim.start"},
        "delete": {"errors", "linux.mount", "shim.delete", "shim.listener", "shim.unmount"},
    }[verb]
    assert ours == COMMON | {f"pyrunc.{name}" for name in expected}


def test_info_gives_the_options_back():
    options = {"type_url": "containerd.runc.v1.Options", "value": encode(messages.RUNC_OPTIONS, {"root": "/x"})}
    done = subprocess.run([SHIM, "-info"], input=encode(messages.ANY, options), capture_output=True, check=True)
    info = decode(messages.RUNTIME_INFO, done.stdout)
    assert info["options"] == options
    assert info["features"]["type_url"].endswith("/features/Features")
    features = json.loads(info["features"]["value"])
    # what containerd and Docker look for before they offer a pod a user namespace, or a mount recursive read-only
    assert "rro" in features["mountOptions"]
    assert "user" in features["linux"]["namespaces"]
    assert features["linux"]["mountExtensions"]["idmap"] == {"enabled": True}


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_pod_leaves_when_its_shim_is_killed_goes_with_its_first_container(container, host, killed):
    """containerd 2 calls `start` and `delete` for that one alone, and removes the others' bundles by then."""
    first, second = (container("/bin/sleep", "1000") for _ in range(2))
    first.start_shim().create()
    second.client = Client(first.socket)
    (second.bundle / "sandbox").write_text(first.id)
    second.create()
    for c in (first, second):
        c.call("Start")
    pid = second.call("State")["pid"]
    if killed:
        first.kill_shim()
        (second.bundle / "sandbox").unlink()
    first.command("delete")
    assert is_gone(pid) is killed
    assert (host.run("mountpoint", "-q", second.bundle / "rootfs").returncode == 0) is not killed
    assert host.run("ls", "/run/containerd/pyrunc/tests", capture_output=True).stdout.decode().split().count(
        second.id
    ) == (0 if killed else 1)
    if killed:
        assert not os.path.exists(first.socket)
    else:
        second.call("Kill", signal=9)
        second.call("Wait")
        second.call("Delete")
    second.client.socket.close()


@pytest.mark.parametrize(
    ("module", "version"),
    [("containerd/v2", 3), ("containerd", 2), ("containerd/api", 2)],
)
def test_version_3_is_for_a_containerd_2(container, tmp_path, module, version):
    """Before 2.3 only the program of containerd tells its version. Here it is a shell script that does."""
    if shutil.which("objcopy") is None:
        pytest.skip("NOT TESTED: there is no objcopy (Debian: apt-get install binutils)")
    name = f"github.com/containerd/{module}"
    (tmp_path / "said").write_text(f"path\t{name}/cmd/x\ndep\t{name}\tv1\n")
    program = tmp_path / "busybox"
    section = f".go.buildinfo={tmp_path}/said"
    subprocess.run(["objcopy", "--add-section", section, shutil.which("busybox"), program], check=True)
    c = container("/bin/true")
    words = [SHIM, "-namespace", "tests", "-address", "/run/none", "-id", c.id, "start"]
    script = f"cd {c.bundle} && {' '.join(map(str, words))}; exit $?"
    done = c.host.run(program, "sh", "-c", script, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    c.address = json.loads(text)["address"] if version == 3 else text
    assert c.address.startswith("unix:///run/containerd/s/")
    assert (c.bundle / "address").read_text() == c.address

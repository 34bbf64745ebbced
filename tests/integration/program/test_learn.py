"""pyrunc learn: what is written is what the program needs, and it runs with that."""

import json
import os
import platform
import signal
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import full
from integration.support.runtime import wait_until

UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]

CHOWN = "touch /tmp/x && chown 1000 /tmp/x && cat /proc/sys/kernel/ostype && stat -c %u /tmp/x"


def learn(container, *flags, check=True):
    c = container
    c.bundle.write()
    output = c.bundle.path / "learned.json"
    result = c.runtime("learn", "--bundle", c.bundle.path, "--output", output, *flags, c.id, check=check)
    return result, json.loads(output.read_text()) if output.exists() else {}


def merged(container, learned):
    """As `jq '.[0] * .[1]'` does it."""
    for name, value in learned.items():
        container.config[name] = {**container.config[name], **value}
    return container


@pytest.fixture
def writer(container):
    c = container(capabilities=full("CAP_CHOWN", "CAP_FOWNER", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN"))
    return c.change(args=["sh", "-c", CHOWN])


def test_a_learned_profile_runs_the_same_program(writer):
    result, learned = learn(writer)
    assert result.out == "Linux\n1000\n"
    assert "system calls" in result.err
    writer.assert_gone()
    rule = learned["linux"]["seccomp"]["syscalls"][0]
    assert {"fchownat", "chown"} & {*rule["names"]}
    assert not {"socket", "mount", "unshare", "ptrace"} & {*rule["names"]}
    assert 20 < len(rule["names"]) < 80
    assert learned["root"]["readonly"] is False
    (writer.bundle.rootfs / "tmp/x").unlink()
    assert merged(writer, learned).run(*writer.config["process"]["args"]) == "Linux\n1000"


def test_what_it_did_not_do_it_may_not_do(writer):
    _, learned = learn(writer)
    c = merged(writer, learned)
    assert c.attempt("sh", "-c", "mkdir /tmp/folder").code != 0
    assert c.attempt("unshare", "-U", "true").code != 0


def test_capabilities(writer):
    """By the kernel's own word, or, where that is not to be had, by the system calls."""
    result, learned = learn(writer)
    kept = {*learned["process"]["capabilities"]["bounding"]}
    assert "CAP_CHOWN" in kept
    assert "CAP_NET_RAW" not in kept  # no socket was made
    if "which capabilities the kernel asked for" not in result.err:
        assert not {"CAP_SYS_ADMIN", "CAP_KILL"} & kept  # asked for by every mmap, and not needed


def test_paths(container):
    c = container(args=["cat", "/proc/timer_list"])
    _, learned = learn(c)
    assert "/proc/timer_list" not in learned["linux"]["maskedPaths"]
    assert {"/proc/kcore", "/sys/firmware"} <= {*learned["linux"]["maskedPaths"]}
    assert learned["root"]["readonly"] is True
    c = container(args=["sh", "-c", "cd /proc/sys/net/core; echo 100 >somaxconn"])
    _, learned = learn(c)
    assert "/proc/sys" not in learned["linux"]["readonlyPaths"]
    assert "/proc/irq" in learned["linux"]["readonlyPaths"]


def test_several_runs_are_joined(container):
    one, other = container(args=["hostname"]), container(args=["mkdir", "/tmp/a"])
    _, first = learn(one)
    _, both = learn(other, "--add", one.bundle.path / "learned.json")
    calls = {*both["linux"]["seccomp"]["syscalls"][0]["names"]}
    assert calls >= {*first["linux"]["seccomp"]["syscalls"][0]["names"]} | {"mkdir"}
    assert both["root"]["readonly"] is False
    assert merged(one, both).run("hostname")
    (one.bundle.path / "other.json").write_text("{}")
    result, _ = learn(other, "--add", one.bundle.path / "other.json", check=False)
    assert "is nothing that pyrunc learn has written" in result.err


def test_the_exit_status_is_the_programs(container):
    result, learned = learn(container(args=["sh", "-c", "exit 9"]), check=False)
    assert result.code == 9
    assert learned


def test_threads_and_children_are_seen(container):
    c = container(args=["sh", "-c", "(sleep 0.1; hostname -F /dev/null) & wait; uname"])
    _, learned = learn(c)
    assert {"uname", "wait4"} & {*learned["linux"]["seccomp"]["syscalls"][0]["names"]}
    assert merged(c, learned).run(*c.config["process"]["args"]) == "Linux"


def test_without_the_tracepoint_calls_say_what_can_not_be_needed():
    from pyrunc.learn.rights import possible

    granted = {"CAP_CHOWN", "CAP_NET_RAW", "CAP_DAC_OVERRIDE", "CAP_SYS_TIME"}
    assert possible({"fchown", "read"}, granted) == {"CAP_CHOWN", "CAP_DAC_OVERRIDE"}


def test_what_the_kernel_asks_for_to_be_generous_does_not_count():
    from pyrunc.learn.rights import was_needed

    assert not was_needed("CAP_SYS_ADMIN", "mmap", set())
    assert not was_needed("CAP_SYS_ADMIN", "read", set())  # the stack has grown
    assert was_needed("CAP_SYS_ADMIN", "sethostname", set())
    assert was_needed("CAP_SYS_ADMIN", "write", {"/proc/sys/kernel/msgmax"})
    assert not was_needed("CAP_SYS_RESOURCE", "fork", set())
    assert was_needed("CAP_SYS_RESOURCE", "prlimit64", set())


def test_an_administrators_right_that_is_used_is_kept(container):
    c = container(args=["sh", "-c", "hostname other && hostname"], capabilities=full("CAP_SYS_ADMIN", "CAP_CHOWN"))
    result, learned = learn(c)
    assert "CAP_SYS_ADMIN" in learned["process"]["capabilities"]["bounding"], result
    assert merged(c, learned).run(*c.config["process"]["args"]) == "other"


def test_processes_are_made_and_namespaces_are_not(container):
    """A program that forks needs clone(2), and with it alone any user namespace could be made."""
    result, learned = learn(container(args=["sh", "-c", "(true); echo done"]))
    assert result.out == "done\n"
    (clone,) = rules(learned, "clone")
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def rules(learned, name):
    return [rule for rule in learned["linux"]["seccomp"]["syscalls"] if name in rule["names"]]


def test_clone3_is_answered_as_there_were_none(container):
    """No filter sees what it is to make. A C library then calls clone, of which one sees it."""
    c = container(args=["probe", "clone3", "0"])
    result, learned = learn(c)
    assert result.out == "ENOSYS\n"
    assert rules(learned, "clone3") == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    assert "args" in rules(learned, "clone")[0]
    c = merged(c, learned)
    assert c.run("probe", "clone3", "0") == "ENOSYS"
    assert c.run("probe", "clone3", "0x10000000") == "ENOSYS"  # a user namespace


@pytest.mark.parametrize(
    ("words", "call"), [(("clone3", "0x10000000"), "clone3"), (("syscall", str(UNSHARE), "0x10000000"), "unshare")]
)
def test_whoever_makes_namespaces_may_go_on_to(container, words, call):
    c = container(args=["probe", *words])
    result, learned = learn(c)
    assert result.out in ("made\n", "0\n")
    assert f"it may make namespaces, those of users too: {call}" in result.err
    assert [rule.get("args") for rule in rules(learned, call)] == [None]
    assert merged(c, learned).run(*c.config["process"]["args"]) in ("made", "0")


def test_unshare_without_namespaces(container):
    c = container(args=["probe", "syscall", str(UNSHARE), "0x200"])  # CLONE_FS
    _, learned = learn(c)
    c = merged(c, learned)
    assert c.run("probe", "syscall", str(UNSHARE), "0x200") == "0"
    assert c.run("probe", "syscall", str(UNSHARE), "0x10000000") == "EPERM"
    assert c.run("probe", "syscall", str(UNSHARE), "0x80") == "EPERM"  # CLONE_NEWTIME


def test_what_several_runs_may_do_is_joined():
    from pyrunc.learn import profile

    common = {"process": {"capabilities": {}}, "root": {"readonly": True}}

    def document(**seen):
        found = profile._seccomp({"architectures": [], "namespaces": [], **seen})
        return {**common, "linux": {"maskedPaths": [], "readonlyPaths": [], "seccomp": found}}

    few, more = document(calls=["clone"]), document(calls=["clone"], namespaces=["clone"])
    third = document(calls=["clone3", "unshare"], namespaces=["clone3"])
    for one, other, made in ((few, more, {"clone"}), (few, few, set()), (few, third, {"clone3"})):
        for found in (profile.union(one, other), profile.union(other, one)):
            assert profile.namespaces_of(found) == made
            assert profile.calls_of(found) == profile.calls_of(one) | profile.calls_of(other)
    both = profile.union(few, third)["linux"]["seccomp"]["syscalls"]
    assert {name: rule.get("args", []) != [] for rule in both for name in rule["names"] if name[:1] in "cu"} == {
        "close": False,
        "clone": True,
        "clone3": False,
        "unshare": True,
    }


def test_what_is_started_in_it_by_exec_is_seen(container):
    """And not what the runtime does on the way there."""
    c = container(args=["probe", "pause"])
    c.bundle.write()
    output = c.bundle.path / "learned.json"
    command = [c.runtime.binary, "--root", str(c.runtime.root), "learn", "-b", str(c.bundle.path), "-o", str(output)]
    with subprocess.Popen([*command, c.id], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: (c.runtime.root / c.id / "state.json").exists() and c.status == "running", "a container")
            assert c.exec("hostname") == c.exec("hostname")
        finally:
            c.kill("KILL")
        assert process.wait(60) == 137
    names = {*json.loads(output.read_text())["linux"]["seccomp"]["syscalls"][0]["names"]}
    assert "uname" in names
    assert not {"capset", "setresuid", "setns", "pivot_root"} & names


def test_a_socket_is_written_to_the_root_file_system(container):
    _, learned = learn(container(args=["probe", "socket", "/tmp/s"]))
    assert learned["root"]["readonly"] is False


def test_what_a_killed_one_has_left(container):
    """The next one removes it; not what belongs to one that lives."""
    c, other = container(args=["probe", "pause"]), container(args=["true"])
    root = c.runtime.root
    c.bundle.write()
    command = [c.runtime.binary, "--root", str(root), "learn", "-b", str(c.bundle.path), "-o", "/dev/null", c.id]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_until(lambda: (root / c.id / "state.json").exists() and c.status == "running", "a container")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (folder,) = folders(root)
            ours = traces(children)
            learn(other)
            assert folders(root) == [folder]
            assert traces(children) == ours
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the watcher, too
    assert folders(root) == [folder]
    learn(other)
    assert folders(root) == []
    assert not traces(children)
    c.delete("--force")


def folders(root):
    return sorted(path.name for path in root.glob(":learn-*"))


def traces(pids):
    """Their instances of tracefs, where there are such: one of the pids is the watcher's."""
    script = "mount -t tracefs tracefs /mnt 2>/dev/null && ls /mnt/instances"
    found = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=30)
    return [name for name in found.stdout.split() if name.startswith(tuple(f"pyrunc-learn-{pid}-" for pid in pids))]

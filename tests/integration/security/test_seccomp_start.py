"""Between the filter and the program nothing of ours happens that a profile could forbid. config-linux.md#seccomp"""

import contextlib
import ctypes
import json
import os
import socket
import struct
import threading

import pyseccomp
import pytest

from integration.support.bundle import full

GETPID, GETPPID = (pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in ("getpid", "getppid"))
OURS = [
    "access", "bind", "capset", "chdir", "clone", "clone3", "close", "close_range", "connect", "dup2", "epoll_wait",
    "fchdir", "fchown", "fcntl", "fork", "futex", "getdents64", "keyctl", "lseek", "mkdirat", "mmap", "mount",
    "move_mount", "mount_setattr", "munmap", "openat2", "open_tree", "pidfd_getfd", "pipe2", "pivot_root", "poll",
    "ppoll", "prctl", "read", "recvfrom", "recvmsg", "rt_sigaction", "rt_sigprocmask", "seccomp", "sendmsg", "sendto",
    "sethostname", "setgid", "setgroups", "setns", "setresgid", "setresuid", "setsid", "setuid", "socket", "umask",
    "umount2", "unshare", "wait4", "waitid",
]  # fmt: skip  # all that set the container up, and is not the test's static program's own
# Not inheritable: as Podman 4.3 writes it for a build.
AMBIENT = {**full("CAP_CHOWN", "CAP_KILL"), "ambient": ["CAP_CHOWN", "CAP_KILL"]}
HOOK = {"path": "/bin/sh", "env": ["PATH=/bin"]}


def deny(*names, action="SCMP_ACT_ERRNO", **members):
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action, **members}]}


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO"])
def test_a_profile_may_forbid_all_that_the_runtime_calls(container, action, no_new_privileges):
    c = container(seccomp=deny(*OURS, action=action), noNewPrivileges=no_new_privileges)
    assert c.run("probe", "syscall", str(GETPID)) == "1"
    assert c.up("probe", "pause").exec("probe", "syscall", str(GETPPID)) == "0"


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_into_a_container_that_may_trace_exec_needs_few_calls(container, no_new_privileges):
    """In such a container the filter is installed before the process can be seen: CVE-2016-9962."""
    names = [name for name in OURS if name not in ("capset", "clone", "read", "setsid")]
    c = container(seccomp=deny(*names), capabilities=full("CAP_SYS_PTRACE"), noNewPrivileges=no_new_privileges)
    c.up("probe", "pause")
    assert c.exec("probe", "syscall", str(GETPPID)) == "0"
    result = c.attempt_exec("/none", flags=("-d",))
    assert (result.code, "/none" in result.err) == (255, True)


def test_what_a_build_of_podman_asks_for(container):
    """An ambient set that can't be had, a profile and no no_new_privs: there is one warning, and the program runs."""
    c = container(seccomp=deny("getppid"), capabilities=AMBIENT)
    assert c.run("probe", "syscall", str(GETPPID)) == "EPERM"
    assert c.last.err.count("\n") == 1
    assert "can't raise ambient capability CAP_CHOWN, CAP_KILL: it is not permitted" in c.last.err
    c.up()
    result = c.attempt_exec("probe", "syscall", str(GETPPID))
    assert (result.code, result.out, result.err) == (0, "EPERM\n", "")  # it was said
    result = c.attempt_exec("true", flags=("--cap", "CAP_SETUID"))
    assert (result.code, result.err.count("can't raise ambient capability")) == (0, 1)


@pytest.mark.parametrize(
    ("flags", "text", "error"),
    [
        ((), "no program", "exec format error; it is for another processor, or"),
        (("-d",), "no program", "exec format error; it is for another processor, or"),
        ((), "#!/missing", "no such file or directory; what it is run by is not"),
    ],
)
def test_a_program_that_can_not_run_is_an_error_of_exec(container, flags, text, error):
    """The error comes out, whatever was said before, although the filter is in force."""
    c = container(seccomp=deny("sendmsg", "sendto"), capabilities=AMBIENT).file("/none", text, 0o755).up()
    result = c.attempt_exec("/none", flags=flags)
    assert result.code == 255, repr(result)
    assert f"exec /none: {error}" in result.err


class Agent(threading.Thread):
    """Answers every call that it is notified of with EPERM."""

    def __init__(self, place, expected):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place))
        self.listener.listen()
        self.expected = expected
        self.states = []
        self.answering = []
        self.start()

    def run(self):
        for _ in range(self.expected):
            connection, _ = self.listener.accept()
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
            self.states.append(json.loads(data))
            answering = threading.Thread(target=self.answer, args=(fds[0],), daemon=True)
            answering.start()
            self.answering.append(answering)
        self.listener.close()
        for answering in self.answering:
            answering.join()

    def answer(self, fd):
        libc = ctypes.CDLL(None, use_errno=True)
        with contextlib.suppress(OSError):
            while True:
                notification = ctypes.create_string_buffer(80)
                if libc.ioctl(fd, ctypes.c_ulong(0xC0502100), notification):
                    break
                (number,) = struct.unpack_from("=Q", notification)
                response = struct.pack("=QqiI", number, 0, -1, 0)
                libc.ioctl(fd, ctypes.c_ulong(0xC0182101), response)
        os.close(fd)


def test_the_receiver_that_cruns_annotation_names_is_an_agent(container, tmp_path):
    agent = Agent(tmp_path / "agent", 1)
    annotations = {"run.oci.seccomp.receiver": str(tmp_path / "agent")}
    c = container(seccomp=deny("getppid", action="SCMP_ACT_NOTIFY"), annotations=annotations)
    assert c.run("probe", "syscall", str(GETPPID)) == "EPERM"
    agent.join(10)
    assert agent.states[0]["fds"] == ["seccompFd"]


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_an_agent_may_refuse_all_that_runc_does_without(container, tmp_path, no_new_privileges):
    """With SCMP_ACT_NOTIFY the filter is there from create on: only read, write and close are left to us."""
    agent = Agent(tmp_path / "agent", 2)
    names = [name for name in OURS if name not in ("close", "read")]
    profile = deny(*names, "getppid", action="SCMP_ACT_NOTIFY")
    c = container(seccomp={**profile, "listenerPath": str(tmp_path / "agent")}, noNewPrivileges=no_new_privileges)
    c.file("/none", "no program", 0o755).up("probe", "pause")
    assert c.exec("probe", "syscall", str(GETPPID)) == "EPERM"
    c.delete("--force")
    agent.join(10)
    assert [state["state"]["status"] for state in agent.states] == ["creating", "running"]


# --- startContainer hooks


@pytest.mark.parametrize("capabilities", [full("CAP_CHOWN"), full("CAP_SYS_PTRACE"), full("CAP_SYS_ADMIN")])
@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_hooks_in_the_container_run_where_clone3_is_refused(container, capabilities, no_new_privileges):
    """Docker's profile does that, as a filter can't see clone3's flags. The hook is filtered, and has no right more."""
    c = container(seccomp=deny("getppid", "clone3"), capabilities=capabilities, noNewPrivileges=no_new_privileges)
    script = f"probe syscall {GETPPID}; grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status"
    c.change(hooks={"startContainer": [{**HOOK, "args": ["sh", "-c", f"({script}) > /out"]}]})
    own = c.sh(script)
    assert (c.bundle.rootfs / "out").read_text() == own + "\n"
    assert own.splitlines()[0] == "EPERM"


@pytest.mark.parametrize("kind", ["createContainer", "startContainer"])
def test_the_pid_that_hooks_of_the_container_read_is_the_one_inside(container, kind):
    c = container()
    place = "" if kind == "startContainer" else str(c.bundle.rootfs)
    c.change(hooks={kind: [{**HOOK, "args": ["sh", "-c", f"cat > {place}/state"]}]})
    c.run("true")
    assert json.loads((c.bundle.rootfs / "state").read_text())["pid"] == 1

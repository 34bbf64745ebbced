"""Each system call of run, create, exec and delete fails once: the container is all that was asked for, or there is a
message and nothing is left.

In each process one call of each kind fails, with one error: the first, the middle or the last, by turns. With
PYRUNC_FULL=1 all of them fail, with three errors each. PYRUNC_FAULT="create 1 77 12" makes the 77th call of the second
process of create fail with errno 12, and no other; 70-90 is one after the other.
"""

import ctypes
import errno
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import pytest

from integration.support.everything import EVERYTHING
from integration.support.host import cgroups_of, hierarchies, unified
from integration.support.runtime import wait_until
from sizes import FULL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if FULL else 900)]
SOURCE = Path(__file__).with_name("inject.c")
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Whose failure is not to be thought of, or the interpreter's own affair: memory, signals, clocks; and what ends.
SPARED = (
    "brk mmap munmap mremap mprotect madvise futex rt_sigreturn rt_sigaction rt_sigprocmask sigaltstack exit exit_group"
    " getpid gettid getppid getuid geteuid getgid getegid umask getrandom clock_gettime clock_nanosleep gettimeofday"
    " set_robust_list set_tid_address rseq arch_prctl personality execve restart_syscall lseek uname capget getcwd"
)
WAITING = "read write poll ppoll epoll_wait wait4 waitid sendmsg recvmsg connect accept4"
OPENING = (
    "openat openat2 pidfd_open socket socketpair pipe2 memfd_create fsopen fsmount open_tree dup fcntl pidfd_getfd"
)
VIEW = """cat /proc/self/status /proc/self/mountinfo /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj
cat /proc/sys/net/ipv4/ip_forward /etc/secret; for n in /proc/self/ns/*; do readlink $n; done
pwd; hostname; touch /x 2>&1; echo end"""
STATUS = r"(Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp|Seccomp_filters|Umask|SigBlk|SigIgn|SigCgt):"


@pytest.fixture(scope="module")
def inject(tmp_path_factory):
    if platform.machine() not in AUDIT_ARCH:
        pytest.skip("NOT TESTED: inject.c is for x86_64 and aarch64")
    program = tmp_path_factory.mktemp("inject") / "inject"
    subprocess.run(["cc", "-O1", "-Wall", "-o", program, SOURCE], check=True, timeout=60)
    return program


@pytest.fixture(scope="module")
def name_of():
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    architecture = AUDIT_ARCH[platform.machine()]
    return lambda number: (library.seccomp_syscall_resolve_num_arch(architecture, number) or b"?").decode()


def errors(name):
    if name in WAITING.split():
        return errno.EINTR, errno.EIO, errno.ENOMEM
    if name in OPENING.split():
        return errno.ENOMEM, errno.EMFILE, errno.EPERM
    if name == "mknodat":  # EPERM: the kernel makes no nodes for us, so that the host's are bound
        return errno.ENOMEM, errno.ENOSPC, errno.EINTR
    return errno.ENOMEM, errno.EPERM, errno.EINTR


class Fault:
    """One call that fails: in which process, which of its calls, and how."""

    def __init__(self, inject, log, process=-1, nth=0, error=0):
        self.wrapper = tuple(map(str, (inject, log, process, nth, error)))
        self.log = log

    def hit(self):
        return self.log.exists() and self.log.read_text() != ""


def calls_of(log, name_of):
    """(process, nth, name) of those that may fail."""
    for line in log.read_text().splitlines():
        process, nth, number, first = map(int, line.split())
        name = name_of(number)
        told = name == "write" and first in (1, 2)  # who can't be told anything is told nothing
        if name not in SPARED.split() and not told:
            yield process, nth, name


def chosen(calls):
    """(process, nth, name, error) of those to try."""
    if FULL:
        return [(*call, error) for call in calls for error in errors(call[2])]
    kinds = {}
    for call in calls:
        kinds.setdefault((call[0], call[2]), []).append(call)
    found = []
    for number, same in enumerate(kinds.values()):
        call = (same[0], same[len(same) // 2], same[-1])[number % 3]
        found.append((*call, errors(call[2])[number // 3 % 3]))
    return found


def seen(text, bundle, outside):
    """What a program sees of its container, but for what differs from one to the next."""
    assert text.endswith("end\n"), text
    found = []
    for line in text.splitlines():
        if " - " in line and line[0].isdigit():
            line = line.split(" ", 3)[3]
        elif re.match(r"\w+:\s", line) and not re.match(STATUS, line):
            continue
        if match := re.fullmatch(r"(\w+):\[\d+\]", line):
            line = f"{match[1]}: {'outside' if line in outside else 'its own'}"
        found.append(re.sub(r"pyrunc-test-\d+-\d+", "ID", line.replace(bundle, "BUNDLE")))
    return found


def limits(c):
    """What the host has of its limits: the rules for devices, and the number of processes."""
    found = {}
    for controller, files in (("devices", ["devices.list"]), ("pids", ["pids.max"]), ("", ["pids.max"])):
        mount = hierarchies().get(controller, "/nowhere")
        for folder in cgroups_of(c.id):
            if folder.startswith(f"{mount}/"):
                found |= {f"{controller} {file}": Path(folder, file).read_text()
                          for file in files if Path(folder, file).exists()}  # fmt: skip
    spared = "/nowhere" if unified() else hierarchies().get("", "/nowhere")  # beside v1 it limits nothing
    folders = [folder for folder in cgroups_of(c.id) if not folder.startswith(f"{spared}/")]
    found["of them with processes"] = len([folder for folder in folders if Path(folder, "cgroup.procs").read_text()])
    return [f"{name}: {value}" for name, value in found.items()]


class Trial:
    """The verbs, each with what makes it ready and what is looked at afterwards."""

    def __init__(self, container):
        self.container = container
        self.outside = {f"{name}:[{os.stat(f'/proc/self/ns/{name}').st_ino}]" for name in os.listdir("/proc/self/ns")}
        self.running = None

    def make(self):
        self.last = self.container(**EVERYTHING).file("/etc/secret", "secret").reachable()
        return self.last

    def run(self, how):
        c = self.make()
        result = c.attempt("sh", "-c", VIEW, **how)
        return c, result, lambda: [seen(result.out, str(c.bundle.path), self.outside)]

    def create(self, how):
        c = self.make()
        result = c.create("sh", "-c", f"{VIEW}\nexec sleep 1000", check=False, **how)

        def look():
            output = c.runtime.scratch / f"{c.runtime.count}.out"
            found = [limits(c)]
            started = c.start(check=False)
            if started.code:  # its process failed when it was to go on
                assert started.err.startswith("pyrunc"), repr(started)
                c.delete("--force")
                return None
            wait_until(lambda: output.read_text().endswith("end\n"), "the program")
            found.append(seen(output.read_text(), str(c.bundle.path), self.outside))
            c.delete("--force")
            return found

        return c, result, look

    def exec(self, how):
        c = self.running = self.running or self.make().up()
        result = c.attempt_exec("sh", "-c", VIEW, **how)
        return c, result, lambda: [seen(result.out, str(c.bundle.path), self.outside)]

    def delete(self, how):
        c = self.make().up()
        return c, c.runtime("delete", "--force", c.id, check=False, **how), list


MESSAGE = re.compile(r"Traceback|internal error|Error\(|\[Errno|<\w+[. ].* at 0x|/pyrunc/\w+/\w+\.py")


def verdict(verb, c, result, look, whole):
    """What is wrong after a call has failed, or ""."""
    text = result.err
    if MESSAGE.search(text):
        return "that is no message"
    if result.code == 0:
        found = look()
        if found is not None and found != whole:
            return f"weaker, or another: {difference(found, whole)}"
    elif not [line for line in text.splitlines() if line.startswith("pyrunc")]:
        return f"exit {result.code} and no message"
    if verb == "exec":
        for _ in range(50):  # of a program that ran already, killed with the rest, the children end by themselves
            states = [line.split() for line in c.exec("ps", "-o", "stat,comm").splitlines()[1:]]
            names = sorted(words[-1] for words in states if words[0][0] != "Z")  # and its PID 1 buries nobody
            if names == ["ps", "sleep"]:
                return ""
            time.sleep(0.05)
        return f"processes are left: {names}"
    if verb == "delete" and result.code:
        c.delete("--force")
    left = c.leftovers()
    if left and verb == "run" and result.code:  # it failed to remove it, and has said so
        c.delete("--force")
        left = c.leftovers()
    return f"something is left: {left}" if left else ""


def difference(found, whole):
    return [f"{sign} {line}" for mine, theirs in zip(found, whole, strict=True)
            for sign, lines, others in (("+", mine, theirs), ("-", theirs, mine))
            for line in lines if line not in others][:10]  # fmt: skip


@pytest.mark.parametrize("verb", ["run", "create", "exec", "delete"])
def test_a_system_call_that_fails(verb, container, inject, name_of, tmp_path):
    trial = Trial(container)
    act = getattr(trial, verb)
    c, result, look = act({})  # what is cached is the same for all that follow
    assert result.code == 0, repr(result)
    look()
    count = Fault(inject, tmp_path / "calls")
    c, result, look = act({"wrapper": count.wrapper})
    assert result.code == 0, repr(result)
    whole = look()
    calls = list(calls_of(count.log, name_of))
    tries = chosen(calls)
    if one := os.environ.get("PYRUNC_FAULT"):
        which, process, nth, error = one.split()
        first, _, last = nth.partition("-")
        numbers = range(int(first), int(last or first) + 1) if which == verb else ()
        tries = [(*call, int(error)) for call in calls if call[0] == int(process) and call[1] in numbers]
    wrong, hits = [], 0
    for process, nth, name, error in tries:
        fault = Fault(inject, tmp_path / "fault", process, nth, error)
        try:
            c, result, look = act({"wrapper": fault.wrapper})
            problem = verdict(verb, c, result, look, whole)
            problem = problem and f"{problem}\n    exit {result.code}: {result.err[-500:]!r}"
        except AssertionError as failure:
            problem = str(failure)[-1000:]  # it hangs, or what follows it fails
        hits += fault.hit()
        if problem:
            wrong.append(f'PYRUNC_FAULT="{verb} {process} {nth} {error}" ({name}: {errno.errorcode[error]}): {problem}')
            trial.last.delete("--force")
            trial.running = None
    print(f"{verb}: {len(tries)} faults in {len(calls)} calls, {hits} hit")
    assert not wrong, f"{len(wrong)} of {len(tries)}\n" + "\n".join(wrong)
    assert hits >= len(tries) * 0.9

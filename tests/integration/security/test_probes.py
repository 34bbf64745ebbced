"""What a hostile program asks first: what of the host and of the runtime it can reach, and which rights are left.

Each question to the container's first program, and to one of `exec`, from a caller who has left a lot lying about.
"""

import fcntl
import os
import pty
import re
import resource
import signal
import termios

import pytest

from integration.support.attacks import leaking
from integration.support.bundle import full
from integration.support.host import in_its_file_system
from integration.support.runtime import wait_until

PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]}
SECRETS = {"SECRET": "of-the-caller", "PYTHONPATH": "/secret", "LD_PRELOAD": "/secret.so", "NOTIFY_SOCKET": ""}


@pytest.fixture(params=["run", "exec"])
def ask(request, container):
    """The answer of a program in a container; `how` is the caller's doing."""

    def ask(*words, how=None, **changes):
        how = {"env": {**os.environ, **SECRETS}, **(how or {})}
        c = container(**changes)
        if request.param == "run":
            return c.run(*words, **how)
        return c.up(**how).exec(*words, **how)

    return ask


def fields(text):
    """/proc/PID/status"""
    return dict(re.split(r":\s*", line, maxsplit=1) for line in text.splitlines() if ":" in line)


def test_three_descriptors_and_none_of_the_hosts(ask, canary):
    links = dict(line.split(" ", 1) for line in ask("probe", "descriptors", how=leaking(canary)).splitlines())
    assert set(links) == {"0", "1", "2"}


def test_the_environment_is_that_of_the_configuration(ask):
    assert sorted(ask("env", env=["PATH=/bin", "A=b"]).splitlines()) == ["A=b", "HOME=/root", "PATH=/bin"]


def test_mounts_name_no_path_of_the_host_but_the_root_itself(ask, tmp_path):
    lines = ask("cat", "/proc/self/mountinfo").splitlines()
    named = [line.split()[4] for line in lines if in_its_file_system(str(tmp_path)) in line]
    assert named == ["/"], lines
    assert not [line for line in lines if str(tmp_path) in line.partition(" - ")[2]]
    assert not [line for line in lines if "shared:" in line]


def test_its_root_is_no_way_to_the_old_one(ask):
    script = """
        for p in / /.. /../../.. /proc/1/root /proc/self/root /proc/self/root/.. /proc/self/cwd/../..
            do [ -e $p/usr/bin/python3 ] || [ -e $p/boot ] && echo $p; done; true"""
    assert ask("sh", "-c", script) == ""


def test_a_session_keyring_of_its_own(ask):
    answer = ask("probe", "keyring")
    assert answer == "ENOSYS" or "_ses." in answer


def test_no_terminal_of_the_callers(ask):
    """TIOCSTI could type into the caller's terminal."""
    master, slave = pty.openpty()
    how = {"preexec_fn": lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0), "pass_fds": [slave]}
    script = "probe open /dev/tty 2; awk '{ print $7 }' /proc/self/stat; tty"
    answer = ask("sh", "-c", f"{script} 2>&1; true", how=how).splitlines()
    os.close(master)
    os.close(slave)
    assert answer == ["ENXIO", "0", "not a tty"]


def test_rights_that_the_configuration_gives_and_no_more(ask):
    answer = fields(ask("cat", "/proc/self/status", capabilities=full("CAP_KILL"), noNewPrivileges=True))
    sets = {name: int(answer[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")}
    assert sets == {"CapBnd": 1 << 5, "CapEff": 1 << 5, "CapPrm": 1 << 5, "CapInh": 0, "CapAmb": 0}
    assert answer["NoNewPrivs"] == "1"


def test_no_rights_without_any_in_the_configuration(ask):
    answer = fields(ask("cat", "/proc/self/status", capabilities={}))
    assert {answer[name] for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}


def test_the_filter(ask):
    script = "grep Seccomp: /proc/self/status; probe syscall 110"
    assert ask("sh", "-c", script, seccomp=PROFILE).split() == ["Seccomp:", "2", "EPERM"]


def test_user_groups_and_umask(ask):
    how = {"extra_groups": [4, 27], "preexec_fn": lambda: os.umask(0o007)}
    user = {"uid": 1000, "gid": 1001, "additionalGids": [7]}
    answer = fields(ask("cat", "/proc/self/status", user=user, how=how))
    assert (answer["Uid"].split(), answer["Gid"].split()) == (["1000"] * 4, ["1001"] * 4)
    assert answer["Groups"].split() == ["7"]
    assert answer["Umask"] == "0022"


def test_signals_that_the_caller_ignores_and_blocks(ask):
    def arrange():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGRTMIN + 3):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2})

    answer = fields(ask("cat", "/proc/self/status", how={"preexec_fn": arrange}))
    assert [int(answer[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")] == [0] * 5


def test_what_prctl_has_changed_on_the_way(ask):
    answer = dict(line.split(" ", 1) for line in ask("probe", "attributes").splitlines())
    expected = {"dumpable": "1", "keepcaps": "0", "securebits": "0", "subreaper": "0", "pdeathsig": "0"}
    assert {name: answer[name] for name in expected} == expected
    assert answer["ids"].split()[1:] == ["1", "1"], "it leads a process group and a session"


def test_nobody_traces_it_and_no_thread_of_ours_is_left(ask):
    answer = fields(ask("cat", "/proc/self/status"))
    assert (answer["TracerPid"], answer["Threads"], answer["Name"]) == ("0", "1", "cat")


def test_its_command_line_is_its_own(ask):
    assert ask("cat", "/proc/self/cmdline") == "cat\0/proc/self/cmdline\0"


def test_processes_of_the_host_are_out_of_sight(ask):
    numbers = [int(name) for name in ask("ls", "/proc").split() if name.isdigit()]
    assert len(numbers) <= 2
    assert max(numbers) < 100
    assert ask("probe", "syscall", "110") == "0", "its parent is nobody that it can see"


def test_the_network_of_the_host_is_out_of_sight(ask):
    assert [line.split()[0] for line in ask("cat", "/proc/net/dev").splitlines()[2:]] == ["lo:"]
    assert len(ask("cat", "/proc/net/unix").splitlines()) == 1, "abstract sockets, the host's"


def test_limits_and_scores_of_the_configuration(ask):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]

    def arrange():
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 2000))

    script = "ulimit -Sn; ulimit -Hn; ulimit -Hc; cat /proc/self/oom_score_adj"
    answer = ask("sh", "-c", script, rlimits=limits, oomScoreAdj=321, how={"preexec_fn": arrange})
    assert answer.split() == ["64", "128", "0", "321"]


def test_its_cgroup_is_its_own(ask):
    """It is in none of the caller's cgroups, in any hierarchy."""
    lines = ask("cat", "/proc/self/cgroup").splitlines()
    own = [line.split(":", 2)[2] for line in lines]
    assert own
    assert len({place.rpartition("/")[2] for place in own if place != "/"}) == 1


def test_what_it_is_before_start_may_not_be_looked_into(container):
    """It runs as the container's user, but is still the runtime: the user's processes may not trace or read it."""
    c = container(user={"uid": 1000, "gid": 1000}, capabilities={})
    c.create("true")
    attempts = f"""
        for f in environ exe cwd root fd maps mem stack syscall; do
            head -c1 /proc/{c.pid}/$f >/dev/null 2>&1 && echo read $f
            ls /proc/{c.pid}/$f/ >/dev/null 2>&1 && echo listed $f
            readlink /proc/{c.pid}/$f >/dev/null 2>&1 && echo followed $f; done; true"""
    other = container(user={"uid": 1000, "gid": 1000}, capabilities={}, namespaces=[{"type": "mount"}])
    assert other.sh(attempts) == ""
    c.start()
    wait_until(lambda: c.status == "stopped", "its end")

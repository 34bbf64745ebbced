"""org.pyrunc.core_scheduling: a cookie for all processes of the container, or an error where the host has none."""

import ctypes
import errno
import json
import re
import shutil

import pyseccomp
import pytest

from integration.support.bundle import NAMESPACES, full, namespaces

NAME = "org.pyrunc.core_scheduling"
PR_SCHED_CORE, GET, CREATE, SHARE_FROM = 62, 0, 1, 3  # linux/prctl.h
libc = ctypes.CDLL(None, use_errno=True)


def cookie(pid):
    """Of a process; 0: it has none. Raises OSError."""
    found = ctypes.c_uint64()
    if libc.prctl(PR_SCHED_CORE, GET, pid, 0, ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "prctl")
    return found.value


def lacking():
    try:
        cookie(0)
    except OSError as error:
        return error.errno
    return 0


@pytest.mark.skipif(lacking() != 0, reason="NOT TESTED: core scheduling: this host has none")
def test_all_processes_of_a_container_have_its_cookie(container):
    c = container(annotations={NAME: "true"}).up("sleep", "1000")
    c.exec_sh("sleep 1000 &")
    cookies = {cookie(pid) for pid in json.loads(c.runtime("ps", "--format", "json", c.id).out)}
    assert len(cookies) == 1
    assert cookies != {0}
    other = container(annotations={NAME: "true"}).up("sleep", "1000")
    assert cookie(other.pid) not in {0, *cookies}


@pytest.mark.skipif(lacking() == 0, reason="this host has core scheduling")
def test_without_it_the_container_is_not_made(container):
    words = {errno.EINVAL: "this kernel has no core scheduling", errno.ENODEV: "SMT is off"}[lacking()]
    assert words in container(annotations={NAME: "true"}).refused("true")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_who_does_not_want_it_gets_none(container, value):
    assert container(annotations={NAME: value}).attempt("true").code == 0


# --- the calls, on a kernel that answers them as one with core scheduling would


def answered():
    """GET finds no place for the cookie, the others are done. Whether they were right, only a trace tells."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.CTL_NNP, False)
    for command, error in ((GET, errno.EFAULT), (CREATE, 0), (SHARE_FROM, 0)):
        ours = (pyseccomp.Arg(0, pyseccomp.EQ, PR_SCHED_CORE), pyseccomp.Arg(1, pyseccomp.EQ, command))
        rules.add_rule(pyseccomp.ERRNO(error), "prctl", *ours)
    rules.load()


def calls(c, tmp_path, *words):
    """The arguments of each prctl(PR_SCHED_CORE), with the process that makes it, in order."""
    trace = tmp_path / "trace"
    wrapper = ("strace", "-f", "-qq", "-X", "raw", "-e", "trace=prctl", "-o", str(trace))
    c.runtime(*words, wrapper=wrapper, preexec_fn=answered)
    found = re.findall(r"^(\d+) +prctl\(0x3e, (.*)\) +=", trace.read_text(), re.MULTILINE)
    return [
        (int(pid), [int(number, 0) for number in numbers.replace("NULL", "0").split(", ")]) for pid, numbers in found
    ]


traced = pytest.mark.skipif(not shutil.which("strace"), reason="strace, which sees the calls, is not installed")


@traced
def test_create_asks_for_a_cookie_of_its_own(container, tmp_path):
    """prctl(PR_SCHED_CORE, command, pid, type, cookie): of the process itself (0), for its thread alone (0)."""
    c = container(annotations={NAME: "true"})
    c._prepare(("true",))
    (runtime, look), (child, take) = calls(c, tmp_path, "run", "--bundle", c.bundle.path, c.id)
    assert (look, take) == ([GET, 0, 0, 0], [CREATE, 0, 0, 0])
    assert runtime != child


@traced
@pytest.mark.parametrize("way", ["joined before clone", "seen last of all", "the host's processes"])
def test_exec_takes_the_containers_by_the_number_that_it_has_there(container, tmp_path, way):
    """The kernel looks for it in the process namespace of who asks."""
    own = way != "the host's processes"
    kinds = [kind for kind in NAMESPACES if own or kind != "pid"]
    c = container(annotations={NAME: "true"}, namespaces=namespaces(*kinds))
    if way == "seen last of all":
        c.change(capabilities=full("CAP_SYS_PTRACE"))
    c.up(preexec_fn=answered)
    ((_, take),) = calls(c, tmp_path, "exec", c.id, "true")
    assert take == [SHARE_FROM, 1 if way == "joined before clone" else c.pid, 0, 0]

"""org.pyrunc.core_scheduling: a cookie for all processes of the container, or an error where the host has none."""

import ctypes
import errno
import json

import pytest

NAME = "org.pyrunc.core_scheduling"
PR_SCHED_CORE, GET = 62, 0
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

"""Capabilities and no_new_privs. config.md#linux-process"""

import re
from pathlib import Path

import pytest

from integration.support.bundle import full
from integration.support.container import status_of

SETS = {
    "CapBnd": "bounding",
    "CapEff": "effective",
    "CapPrm": "permitted",
    "CapInh": "inheritable",
    "CapAmb": "ambient",
}


def capabilities_of(c):
    return dict(zip(SETS, (int(text, 16) for text in status_of(c, *SETS)), strict=True))


def test_each_of_the_five_sets(container):
    c = container(
        user={"uid": 1000, "gid": 1000},
        capabilities={
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL", "CAP_SETUID"],
            "ambient": ["CAP_KILL"],
        },
    )
    # For another user than root execve leaves what is ambient (capabilities(7)).
    assert capabilities_of(c) == {
        "CapBnd": 1 << 0 | 1 << 5 | 1 << 13 | 1 << 7,
        "CapEff": 1 << 5,
        "CapPrm": 1 << 5,
        "CapInh": 1 << 5 | 1 << 7,
        "CapAmb": 1 << 5,
    }


def test_root_has_what_the_bounding_set_lets_it(container):
    assert capabilities_of(container(capabilities=full("CAP_CHOWN"))) == {
        "CapBnd": 1,
        "CapEff": 1,
        "CapPrm": 1,
        "CapInh": 0,
        "CapAmb": 0,
    }


def test_without_capabilities_there_are_none(container):
    c = container()
    del c.config["process"]["capabilities"]
    assert set(capabilities_of(c).values()) == {0}


def test_an_unknown_capability_is_a_warning(container):
    c = container(capabilities=full("CAP_CHOWN", "CAP_NO_SUCH"))
    assert capabilities_of(c)["CapBnd"] == 1
    assert "CAP_NO_SUCH" in c.last.err
    assert c.last.err.count("CAP_NO_SUCH") == 1


def test_a_capability_that_the_runtime_does_not_have_is_a_warning(container):
    ours = int(re.search(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    if ours >> 24 & 1:
        pytest.skip("this host grants CAP_SYS_RESOURCE")
    c = container(capabilities=full("CAP_CHOWN", "CAP_SYS_RESOURCE"))
    assert capabilities_of(c)["CapBnd"] == 1
    assert "CAP_SYS_RESOURCE" in c.last.err


@pytest.mark.parametrize(("value", "expected"), [(True, "1"), (False, "0")])
def test_no_new_privileges(container, value, expected):
    assert status_of(container(noNewPrivileges=value), "NoNewPrivs") == [expected]

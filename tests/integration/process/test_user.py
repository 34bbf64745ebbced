"""User, groups and umask of a process. config.md#user"""

import pytest

from integration.support.container import status_of


def test_user_groups_and_umask(container):
    c = container(user={"uid": 1000, "gid": 1001, "additionalGids": [5, 6, 5], "umask": 0o027})
    out = c.sh("id -u; id -g; id -G; umask")
    assert out.split("\n")[:2] == ["1000", "1001"]
    assert set(out.split("\n")[2].split()) == {"1001", "5", "6"}
    assert out.split("\n")[3] == "0027"


def test_the_largest_ids(container):
    c = container(user={"uid": 4294967294, "gid": 4294967294, "additionalGids": [2147483648]})
    assert status_of(c, "Uid", "Gid") == ["\t".join(["4294967294"] * 4)] * 2


@pytest.mark.parametrize("uid", [-1, 4294967295, 4294967296, 2**63, 2**64, 1.5, "0"])
def test_ids_that_are_none_are_refused(container, uid):
    """containerd CVE-2024-40635: a number that overflows must not become root."""
    assert "uid" in container(user={"uid": uid, "gid": 0}).refused("id")


def test_groups_of_the_caller_are_not_the_containers(container):
    assert status_of(container(), "Groups")[0].split() == []

"""Whether mounts of the container reach the host, and the other way round. config-linux.md#rootfs-mount-propagation"""

import subprocess

import pytest

from integration.support.host import mount_at
from integration.support.runtime import Running


@pytest.mark.parametrize(
    ("option", "expected"),
    [("rprivate", []), ("rshared", ["shared:"]), ("rslave", []), ("runbindable", ["unbindable"])],
)
def test_propagation_of_a_mount(container, tmp_path, option, expected):
    (tmp_path / "source").mkdir()
    c = container(
        mounts=[{"destination": "/m", "type": "bind", "source": str(tmp_path / "source"), "options": ["rbind", option]}]
    )
    fields = mount_at(c.run("cat", "/proc/self/mountinfo"), "/m")[5]
    assert len(fields) == len(expected)
    assert all(found.startswith(start) for found, start in zip(fields, expected, strict=True))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("private", []),
        ("slave", []),
        ("shared", ["shared:"]),
        ("unbindable", ["unbindable"]),
        ("rshared", ["shared:"]),
        ("", []),
    ],
)
def test_propagation_of_the_root(container, value, expected):
    fields = mount_at(container(rootfsPropagation=value).run("cat", "/proc/self/mountinfo"), "/")[5]
    assert [field.rstrip("0123456789") for field in fields] == expected


def where_mounts_are_shared(script, tmp_path):
    """Run it in a mount namespace that shares all mounts, as systemd sets them up."""
    command = ["unshare", "-m", "--propagation", "shared", "sh", "-c", script]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    assert Running(command, str(tmp_path / "x"), **quiet).end() == 0


def test_mounts_of_the_container_do_not_reach_a_host_that_shares_its_mounts(container, tmp_path):
    for value in ("", "shared", "slave", "private"):
        c = container(rootfsPropagation=value)
        c._prepare(("true",))
        command = " ".join(c.runtime.command("run", "--bundle", str(c.bundle.path), c.id))
        script = (
            f"cat /proc/self/mountinfo > {tmp_path}/before; {command} && cat /proc/self/mountinfo > {tmp_path}/after"
        )
        where_mounts_are_shared(script, tmp_path)
        assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_mounts_of_a_host_that_is_a_slave_reach_the_container_and_not_back(container, tmp_path):
    c = container(
        rootfsPropagation="slave",
        mounts=[{"destination": "/m", "type": "bind", "source": str(tmp_path / "v"), "options": ["rbind", "rslave"]}],
    )
    (tmp_path / "v/sub").mkdir(parents=True)
    c._prepare(
        (
            "sh",
            "-c",
            "touch /tmp/up; until [ -e /m/sub/here ]; do sleep 0.02; done; echo seen",
        )
    )
    command = " ".join(c.runtime.command("run", "--bundle", str(c.bundle.path), c.id))
    script = f"""{command} > {tmp_path}/out & until [ -e {c.bundle.rootfs}/tmp/up ]; do sleep 0.02; done
        mount -t tmpfs tmpfs {tmp_path}/v/sub; mkdir {tmp_path}/v/sub/mine; touch {tmp_path}/v/sub/here; wait $!"""
    where_mounts_are_shared(script, tmp_path)
    assert (tmp_path / "out").read_text() == "seen\n"

"""The root file system. config.md#root"""

import pytest

from integration.support.bundle import namespaces


def test_a_read_only_root(container):
    c = container(root={"path": "rootfs", "readonly": True})
    assert "Read-only file system" in c.sh("touch /x 2>&1; touch /dev/shm-is-no-root && echo written")
    assert not (c.bundle.rootfs / "x").exists()


def test_an_absolute_root(container):
    c = container()
    c.change(root={"path": str(c.bundle.rootfs)})
    assert c.run("echo", "x") == "x"


def test_a_root_that_is_a_link_to_a_directory(container):
    c = container(root={"path": "link"})
    (c.bundle.path / "link").symlink_to("rootfs")
    assert c.run("echo", "x") == "x"


def test_no_pivot_gives_the_same_root(container):
    c = container()
    assert c.run("ls", "/", flags=("--no-pivot",)) == container().run("ls", "/")


@pytest.mark.parametrize("kind", ["none", "another's"])
def test_what_takes_a_mount_namespace_of_its_own_is_not_silently_left_out(container, kind):
    other = container().up()
    c = container(root={"path": "rootfs", "readonly": True}, namespaces=namespaces("pid"))
    if kind == "another's":
        paths = {"mount": f"/proc/{other.pid}/ns/mnt"}
        root = {"path": "/", "readonly": True}
        c.change(namespaces=namespaces("pid", **paths), maskedPaths=["/proc/kcore"], root=root)
    result = c.attempt("/bin/true")
    assert result.code == 0, repr(result)
    assert "/mounts, /root/readonly: ignored" in result.err
    assert ("/linux/maskedPaths" in result.err) == (kind == "another's")

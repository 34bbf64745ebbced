"""Masked and read-only paths. config-linux.md#masked-paths"""

import pytest

from integration.support.bundle import namespaces
from integration.support.host import mount_at


def test_a_masked_file_reads_as_empty(container):
    assert container(maskedPaths=["/etc/secret"]).file("/etc/secret", "x").run("cat", "/etc/secret") == ""


def test_a_masked_folder_is_empty_and_stays_so(container):
    c = container(maskedPaths=["/secret"]).file("/secret/file", "x")
    assert "Read-only" in c.sh("ls -A /secret; touch /secret/y 2>&1; true")


def test_a_masked_path_that_is_not_there_is_no_error(container):
    assert (
        container(maskedPaths=["/no/such", "/no"], readonlyPaths=["/no/such"]).sh("ls -d /no 2>&1; true")
        == "ls: /no: No such file or directory"
    )


def test_a_masked_link_masks_what_it_leads_to(container):
    c = container(maskedPaths=["/link"]).file("/etc/secret", "x")
    (c.bundle.rootfs / "link").symlink_to("/etc/secret")
    assert c.run("cat", "/etc/secret") == ""


def test_masking_twice_is_no_error(container):
    paths = ["/etc/secret", "/etc/secret", "/etc", "/proc/kcore", "/proc/kcore"]
    assert container(maskedPaths=paths).file("/etc/secret", "x").run("ls", "/etc") == ""


def test_a_read_only_path(container):
    c = container(readonlyPaths=["/etc", "/proc/sys"]).file("/etc/file", "x")
    out = c.sh("touch /etc/file 2>&1; echo 1 2>&1 > /proc/sys/net/ipv4/ip_forward; cat /etc/file; touch /root/fine")
    assert out.count("Read-only file system") >= 1
    assert out.endswith("x")


def test_a_read_only_path_keeps_other_options(container):
    c = container(
        readonlyPaths=["/m"],
        mounts=[{"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "nodev"]}],
    )
    assert {"ro", "nosuid", "noexec", "nodev"} <= mount_at(c.run("cat", "/proc/self/mountinfo"), "/m")[0]


@pytest.mark.parametrize("member", ["maskedPaths", "readonlyPaths"])
def test_paths_are_not_protected_in_the_runtimes_own_mount_namespace(container, member):
    c = container(namespaces=namespaces("pid", mount="/proc/self/ns/mnt"), **{member: ["/proc/kcore"]})
    assert f"/linux/{member}: it needs a mount namespace" in c.refused("true")

"""What each option of a mount and of a file system means. config.md#mounts"""

import pytest

from integration.support.host import mount_at


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ([], {"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
        (["ro"], {"ro"}, {"rw"}),
        (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}, set()),
        (["noexec", "exec"], set(), {"noexec"}),
        (["ro", "rw"], {"rw"}, {"ro"}),
        (["noatime"], {"noatime"}, {"relatime"}),
        (["strictatime"], set(), {"relatime", "noatime"}),
        (["relatime"], {"relatime"}, set()),
        (["nodiratime"], {"nodiratime"}, set()),
        (["nosymfollow"], {"nosymfollow"}, set()),
        (["rro", "rnosuid"], {"ro", "nosuid"}, set()),
        (["defaults"], {"rw"}, {"nosuid"}),
        (["silent", "nodev"], {"nodev"}, set()),
        (["iversion", "noexec"], {"noexec"}, set()),
        (["noiversion", "loud", "nomand", "async"], {"rw"}, set()),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_options_of_a_mount(container, tmp_path, kind, options, present, absent):
    (tmp_path / "source").mkdir()
    mount = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}
    if kind == "bind":
        mount = {
            "destination": "/m",
            "type": "bind",
            "source": str(tmp_path / "source"),
            "options": ["rbind", *options],
        }
    found = mount_at(container(mounts=[mount]).run("cat", "/proc/self/mountinfo"), "/m")[0]
    assert present <= found
    assert not absent & found


def test_options_of_a_file_system(container):
    mount = {
        "destination": "/m",
        "type": "tmpfs",
        "source": "name",
        "options": ["size=64k", "mode=1711", "uid=7", "gid=8", "nr_inodes=20"],
    }
    c = container(mounts=[mount])
    _, _, kind, source, options, _ = mount_at(c.run("cat", "/proc/self/mountinfo"), "/m")
    assert (kind, source) == ("tmpfs", "name")
    assert {"size=64k", "mode=1711", "uid=7", "gid=8", "nr_inodes=20"} <= options
    assert c.run("stat", "-c", "%a %u %g", "/m") == "1711 7 8"


@pytest.mark.parametrize("option", ["sync", "dirsync", "mand", "lazytime"])
@pytest.mark.parametrize("more", [[], ["silent"]], ids=["", "by mount(2)"])
def test_flags_of_a_file_system(container, option, more):
    mount = {"destination": "/m", "type": "tmpfs", "source": "name", "options": ["mode=711", option, *more]}
    _, _, kind, source, options, _ = mount_at(container(mounts=[mount]).run("cat", "/proc/self/mountinfo"), "/m")
    assert (kind, source) == ("tmpfs", "name")
    assert {"mode=711", option} <= options


def test_an_option_that_the_file_system_does_not_know_is_an_error(container):
    error = container(
        mounts=[{"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuchoption=1"]}]
    ).refused("true")
    assert "/m" in error
    assert "nosuchoption" in error


@pytest.mark.parametrize("option", ["ro,nosuid", "uid=7", "X-mount.idmap=b:0:1:1"])
def test_a_bind_mount_does_not_pass_over_what_would_give_less(container, tmp_path, option):
    mount = {"destination": "/m", "type": "bind", "source": str(tmp_path), "options": ["bind", option]}
    assert option.partition("=")[0] in container(mounts=[mount]).refused("true")


def test_a_file_system_that_the_kernel_does_not_know_is_an_error(container):
    error = container(mounts=[{"destination": "/m", "type": "nosuchfs", "source": "x"}]).refused("true")
    assert "nosuchfs" in error
    assert "/m" in error

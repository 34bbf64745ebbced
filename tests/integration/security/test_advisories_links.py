"""What an image or a volume plants, each advisory as a test that performs the attack: links that mean the host's files,
files and folders in the place of devices and terminals. Every attack is aimed at a canary of its own.
"""

import os
import pty
import stat
import subprocess

import pytest

from integration.support.attacks import FORMS, bound, forms, replace, without_mounts
from integration.support.host import host_mounts, unchanged

# --- procfs and sysfs


@pytest.mark.parametrize("path", ["/proc", "/sys"])
@pytest.mark.parametrize("target", ["/tmp/x", "tmp/x", "/nowhere", "canary"])
def test_cve_2019_19921_cve_2023_27561_cve_2023_28642_a_link_in_the_place_of_procfs(container, canary, path, target):
    """youki CVE-2025-54867: the mask would lie somewhere else."""
    c = container(maskedPaths=["/proc/kcore"], readonlyPaths=["/proc/sys"])
    (c.bundle.rootfs / "tmp/x").mkdir()
    replace(c, path, str(canary) if target == "canary" else target)
    with unchanged(canary):
        assert path in c.refused("true")


def test_cve_2023_27561_a_link_to_a_volume_in_the_place_of_procfs(container, tmp_path):
    """... in which another container has prepared what looks like one."""
    (tmp_path / "volume/self/attr").mkdir(parents=True)
    c = container(readonlyPaths=["/proc/sys"])
    c.config["mounts"].insert(0, bound(tmp_path / "volume", "/volume"))
    replace(c, "/proc", "/volume")
    assert "/proc" in c.refused("true")


@pytest.mark.parametrize("form", FORMS)
def test_cve_2019_19921_a_link_below_the_place_of_procfs(container, canary, form):
    c = container(mounts=[{"destination": "/a/proc", "type": "proc", "source": "proc"}])
    replace(c, "/a", forms(canary)[form])
    with unchanged(canary):
        c.attempt("true")
    c.assert_gone()


# --- /dev


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_cve_2026_41579_crun_cve_2026_47766_a_link_in_the_place_of_dev(container, canary, form, readonly):
    """Links were made, and ptmx removed, in a folder of the host's."""
    for terminal in (False, True):
        for devices in ([], [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]):
            c = without_mounts(container(root={"path": "rootfs", "readonly": readonly}), "/dev", "/dev/pts")
            replace(c, "/dev", forms(canary)[form])
            c.change(devices=devices, **({"terminal": True} if terminal else {}))
            with unchanged(canary):
                c.attempt("true")
            c.assert_gone()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("readonly", [False, True])
def test_crun_cve_2026_88264_a_link_in_the_place_of_the_console(container, canary, form, readonly):
    """A file was made where it led to; for a read-only root in another way, which followed it too."""
    for mounts in (("/dev",), ("/dev", "/dev/pts")):
        for name in ("new", "file"):
            c = without_mounts(container(terminal=True, root={"path": "rootfs", "readonly": readonly}), *mounts)
            (c.bundle.rootfs / "dev/pts").mkdir()
            replace(c, "/dev/console", f"{forms(canary)[form]}/{name}")
            master, slave = pty.openpty()
            with unchanged(canary):
                result = c.attempt("sh", "-c", "echo overwritten > /dev/console", stdin=slave)
            os.close(master)
            os.close(slave)
            assert result.code, repr(result)
            c.assert_gone()


@pytest.mark.parametrize("form", FORMS)
def test_cve_2025_31133_youki_cve_2025_62161_a_link_in_the_place_of_dev_null_is_no_mask(container, canary, form):
    """What is mounted over a masked file would be the file that the link leads to, writable."""
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    replace(c, "/dev/null", f"{forms(canary)[form]}/file")
    with unchanged(canary):
        result = c.attempt("sh", "-c", "echo overwritten > /etc/secret; cat /etc/secret")
    assert result.code == 1, repr(result)
    assert "/dev/null" in result.err
    c.assert_gone()


@pytest.mark.parametrize("target", ["/proc/sys/kernel/domainname", "/proc/self/attr/current", "/proc/sysrq-trigger"])
def test_cve_2025_31133_a_link_to_a_file_of_procfs_is_no_mask(container, target):
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    replace(c, "/dev/null", target)
    assert "/dev/null" in c.refused("true")


@pytest.mark.parametrize("what", ["file", "folder", "fifo", "another device", "block device"])
def test_cve_2025_31133_what_is_no_null_device_is_no_mask(container, what):
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    place = c.bundle.rootfs / "dev/null"
    if what == "file":
        place.write_text("x")
    elif what == "folder":
        place.mkdir()
    elif what == "fifo":
        os.mkfifo(place)
    else:
        kind = stat.S_IFBLK if what == "block device" else stat.S_IFCHR
        os.mknod(place, kind | 0o666, os.makedev(1, 3 if what == "block device" else 5))
    assert "/dev/null" in c.refused("true")


def test_cve_2025_31133_a_bound_dev_with_such_a_link(container, canary, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").symlink_to(canary / "file")
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "secret")
    c.change(mounts=[bound(tmp_path / "dev", "/dev", "rbind")])
    with unchanged(canary), unchanged(tmp_path / "dev"):
        assert "/dev/null" in c.refused("true")


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_crun_cve_2026_88265_streams_that_are_null_are_not_reopened_through_a_link(container, canary, form, readonly):
    """The owner of what the link led to became the container's user."""
    c = container(user={"uid": 1000, "gid": 1000}, root={"path": "rootfs", "readonly": readonly})
    replace(without_mounts(c, "/dev", "/dev/pts"), "/dev/null", f"{forms(canary)[form]}/file")
    with unchanged(canary):
        c.attempt("sh", "-c", "echo overwritten", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    c.assert_gone()


@pytest.mark.parametrize("form", FORMS)
def test_crun_cve_2026_88265_streams_of_exec(container, canary, form):
    c = without_mounts(container(), "/dev", "/dev/pts").up()
    replace(c, "/dev/null", f"{forms(canary)[form]}/file")
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with unchanged(canary):
        c.attempt_exec("sh", "-c", "echo overwritten", flags=("-u", "1000"), **null)


def test_crun_cve_2026_88265_the_hosts_null_device_keeps_its_owner(container):
    before = os.stat("/dev/null")
    c = container(user={"uid": 1000, "gid": 1000})
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    c.attempt("chmod", "600", "/proc/self/fd/0", **null)
    without_mounts(c, "/dev", "/dev/pts").attempt("true", **null)
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


# --- terminals


@pytest.mark.parametrize("attack", ["a folder", "ptmx is a link", "ptmx is a file", "ptmx is a device", "a tmpfs"])
def test_cve_2025_52565_a_terminal_of_what_is_no_devpts(container, canary, tmp_path, attack):
    """/dev/pts/0 was bound to /dev/console, whatever it was."""
    fake = tmp_path / "pts"
    fake.mkdir()
    for number in range(8):
        (fake / str(number)).symlink_to(canary / "file")
    if attack == "ptmx is a link":
        (fake / "ptmx").symlink_to("/dev/ptmx")
    if attack == "ptmx is a file":
        (fake / "ptmx").touch()
    if attack == "ptmx is a device":
        os.mknod(fake / "ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
    mount = {"destination": "/dev/pts", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
    c = without_mounts(container(terminal=True), "/dev/pts")
    c.change(mounts=[mount if attack == "a tmpfs" else bound(fake, "/dev/pts", "rbind")])
    with unchanged(canary):
        assert "ptmx" in c.refused("true")


@pytest.mark.parametrize("target", ["/proc/sysrq-trigger", "/proc/sys/kernel/domainname", "file of the host"])
@pytest.mark.parametrize("place", ["/dev/console", "/dev/pts", "/dev/pts/ptmx", "/dev/ptmx", "/dev/pts/0"])
def test_cve_2025_52565_links_in_the_place_of_terminals(container, canary, place, target):
    """No write reaches what they lead to."""
    c = without_mounts(container(terminal=True, hostname="before"), "/dev", "/dev/pts")
    replace(c, place, str(canary / "file") if target == "file of the host" else target)
    with unchanged(canary):
        result = c.attempt("sh", "-c", "echo overwritten > /dev/console")
    assert result.code, repr(result)
    c.assert_gone()


# --- all that is made in a root file system

MADE = {  # what we make there, in a container that has all of it -> whether it is a folder
    "/dev": True,
    "/dev/null": False,
    "/dev/zero": False,
    "/dev/tty": False,
    "/dev/fd": False,
    "/dev/stdin": False,
    "/dev/core": False,
    "/dev/ptmx": False,
    "/dev/console": False,
    "/dev/pts": True,
    "/dev/shm": True,
    "/dev/mqueue": True,
    "/dev/mine": False,
    "/dev/sub": True,
    "/dev/sub/mine": False,
    "/proc": True,
    "/sys": True,
    "/run": True,
    "/run/notify": True,
    "/run/notify/notify.sock": False,
    "/etc": True,
    "/etc/resolv.conf": False,
    "/etc/hosts": False,
    "/etc/mtab": False,
    "/etc/passwd": False,
    "/etc/group": False,
    "/.krun_config.json": False,
    "/made": True,
    "/made/cwd": True,
    "/made/mount": True,
    "/copied": True,
    "/old_root": True,
    "/.pivot_root": True,
}


@pytest.mark.parametrize("path", MADE)
def test_crun_cve_2025_24965_crun_cve_2019_18837_a_link_in_the_place_of_what_is_made(container, canary, tmp_path, path):
    """Whatever the runtime makes in a root file system: a link has been there before, to the host's."""
    (tmp_path / "file").write_text("the engine's")
    manager = {"env": {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "manager")}}
    device = {"type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7, "gid": 8}
    for form in forms(canary)[:3]:
        for target in (form,) if MADE[path] else (f"{form}/file", f"{form}/new"):
            c = container(
                cwd="/made/cwd",
                devices=[{**device, "path": "/dev/mine"}, {**device, "path": "/dev/sub/mine"}],
                maskedPaths=["/etc/hosts"],
                mounts=[
                    bound(tmp_path / "file", "/etc/resolv.conf"),
                    bound(tmp_path / "file", "/etc/hosts"),
                    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
                    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
                    {"destination": "/made/mount", "type": "tmpfs", "source": "t"},
                    {"destination": "/copied", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]},
                ],
            )
            if path.startswith("/dev"):
                without_mounts(c, "/dev", "/dev/pts")
            replace(c, path, target)
            with unchanged(canary), unchanged(tmp_path / "file"):
                result = c.attempt("sh", "-c", "cat /copied/file; echo overwritten > /copied/file", **manager)
            assert "untouched" not in result.out
            c.assert_gone()


def test_crun_cve_2019_18837_cve_2024_45310_links_in_the_way_of_mount_points(container, canary, tmp_path):
    """Nothing is made outside, and nothing mounted."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source-file").touch()
    for form in forms(canary):
        for source in ("source", "source-file"):
            for place in ("/link", "/link/deep/er", "/link/../link/x", "/dangling"):
                c = container(mounts=[bound(tmp_path / source, place)])
                replace(replace(c, "/link", f"{form}/new"), "/dangling", f"{form}/a/b/c")
                with unchanged(canary):
                    c.attempt("true")
                c.assert_gone()


def test_cve_2024_45310_links_in_the_way_of_the_working_directory(container, canary):
    for form in forms(canary):
        for readonly in (False, True):
            c = replace(container(cwd="/link/new", root={"path": "rootfs", "readonly": readonly}), "/link", form)
            with unchanged(canary):
                c.attempt("touch", "here")


def test_youki_ghsa_3q8j_links_in_the_way_of_masked_and_read_only_paths(container, canary):
    for form in forms(canary):
        c = replace(
            container(maskedPaths=["/link", "/link/file"], readonlyPaths=["/link", "/link/file"]), "/link", form
        )
        before = host_mounts()
        with unchanged(canary):
            c.attempt("true")
        assert host_mounts() == before


def test_passwd_that_is_a_link_to_the_hosts(container, canary):
    (canary / "file").write_text("root:x:0:0::/escaped:/bin/sh\n")
    for form in forms(canary):
        c = replace(container(), "/etc/passwd", f"{form}/file")
        assert "escaped" not in c.sh("echo $HOME")


@pytest.mark.parametrize("what", ["fifo", "device", "folder", "huge"])
def test_passwd_that_never_ends(container, what):
    """It is read while the container is made: no open of it may wait, no read of it take all memory."""
    c = container()
    place = c.bundle.rootfs / "etc/passwd"
    place.unlink()
    if what == "fifo":
        os.mkfifo(place)
    elif what == "device":
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif what == "folder":
        place.mkdir()
    else:
        with place.open("wb") as file:
            file.truncate(1 << 40)
    assert c.sh("echo $HOME", timeout=60) == "/"

"""Checkpoints that somebody else has made: nothing outside is read or written, and nothing runs with more rights than
the bundle gives."""

import os
import shutil

import pytest

from integration.support.bundle import full, namespaces
from integration.support.runtime import wait_until


@pytest.fixture
def written(saved):
    """A checkpoint, and the container that it was made of, which is gone."""

    def make(**changes):
        s = saved(**changes).counting()
        wait_until(lambda: s.count > 1, "it to count")
        s.checkpoint()
        return s

    return make


@pytest.mark.parametrize("name", ["restore.log", "pages-1.img", "stats-restore", "cgroup.img"])
def test_cve_2026_53489_a_symlink_in_a_checkpoint_is_not_followed(written, canary, name):
    """CRIU would truncate the log, and read pages, wherever a link leads."""
    s = written()
    target = canary / "file"
    (s.images / name).unlink(missing_ok=True)
    (s.images / name).symlink_to(target)
    assert f"{s.images}/{name}: it is a symlink, which no checkpoint of CRIU's has" in s.refused()
    assert target.read_text() == "untouched\n"


def test_a_symlink_in_the_work_folder_is_not_followed(written, canary):
    s = written()
    for name in ("restore.log", "dump.log", "stats-dump"):
        (s.work / name).unlink(missing_ok=True)
        (s.work / name).symlink_to(canary / "file")
    s.restore()
    s.checkpoint("--leave-running")
    assert (canary / "file").read_text() == "untouched\n"
    s.assert_goes_on(wait_until)


@pytest.mark.parametrize("kind", ["fifo", "hard link"])
@pytest.mark.parametrize("name", ["dump.log", "restore.log", "stats-dump", "stats-restore"])
def test_what_criu_writes_is_a_new_file(saved, canary, kind, name):
    """At a fifo it would wait, and through a hard link write to another file."""
    s = saved().counting()
    s.work.mkdir()
    os.mkfifo(s.work / name) if kind == "fifo" else os.link(canary / "file", s.work / name)
    s.checkpoint()
    s.restore()
    assert (canary / "file").read_text() == "untouched\n"


def test_without_a_work_folder_too(written, canary):
    s = written()
    os.link(canary / "file", s.images / "restore.log")
    s.runtime("restore", "-d", "--bundle", s.container.bundle.path, "--image-path", s.images, s.container.id,
              env=s.environment, stdout=None)  # fmt: skip
    assert (canary / "file").read_text() == "untouched\n"


@pytest.mark.parametrize("kind", ["fifo", "hard link"])
def test_a_checkpoint_is_written_to_files_of_its_own(saved, canary, kind):
    s = saved().counting()
    s.images.mkdir()
    place = s.images / "core-1.img"
    os.mkfifo(place) if kind == "fifo" else os.link(canary / "file", place)
    result = s.checkpoint(check=False)
    assert (result.code, f"--image-path {place}: it " in result.err) == (1, True), result
    assert (canary / "file").read_text() == "untouched\n"
    s.assert_goes_on(wait_until)


def test_the_work_folder_is_no_symlink(written, canary):
    s = written()
    shutil.rmtree(s.work)
    s.work.symlink_to(canary)
    s.refused()
    assert sorted(os.listdir(canary)) == ["file", "ptmx"]


def test_the_work_folder_of_containerd_is_a_symlink_in_the_bundle(written, tmp_path):
    s = written()
    (tmp_path / "elsewhere").mkdir()
    s.work = s.container.bundle.path / "work"
    s.work.symlink_to(tmp_path / "elsewhere")
    s.restore()
    assert (tmp_path / "elsewhere/restore.log").exists()


def test_a_fifo_and_a_device_in_a_checkpoint(written):
    s = written()
    os.mkfifo(s.images / "restore.log")
    assert "it is no file" in s.refused(timeout=20)
    (s.images / "restore.log").unlink()
    os.mknod(s.images / "tty-info.img", 0o600 | 0o020000, os.makedev(1, 5))
    assert "it is no file" in s.refused(timeout=20)


@pytest.mark.parametrize("link", ["/etc", "../../x", "..", "../nothing", "../link"])
def test_a_parent_that_lies_elsewhere(written, canary, link):
    """Pages that are not in an image are read from its parent's: those of somebody else's container."""
    s = written()
    (s.images.parent / "link").symlink_to(canary)
    (s.images / "parent").symlink_to(link)
    assert f"{s.images}/parent: " in s.refused()


def test_a_parent_that_others_may_change(written, tmp_path):
    s = written()
    parent = tmp_path / "before"
    parent.mkdir(mode=0o700)
    (s.images / "parent").symlink_to("../before")
    parent.chmod(0o777)
    assert "others than its owner" in s.refused()
    parent.chmod(0o700)
    s.restore()


@pytest.mark.parametrize("how", ["empty", "no folder", "no inventory", "cut off", "garbage", "no descriptors' list"])
def test_a_broken_checkpoint_is_an_error_and_leaves_nothing(written, how):
    s = written()
    if how == "empty":
        shutil.rmtree(s.images)
        s.images.mkdir()
    elif how == "no folder":
        shutil.rmtree(s.images)
    elif how == "no inventory":
        (s.images / "inventory.img").unlink()
    elif how == "cut off":
        data = (s.images / "core-1.img").read_bytes()
        (s.images / "core-1.img").write_bytes(data[: len(data) // 2])
    elif how == "garbage":
        (s.images / "pstree.img").write_bytes(os.urandom(500))
    else:
        (s.images / "descriptors.json").write_text('{"0": 1}')
    assert s.refused().startswith("pyrunc")


def test_cve_2026_53492_annotations_of_a_checkpoint_mean_nothing(written, canary):
    """Only the bundle's count; a configuration beside the images is none."""
    s = written()
    (s.images / "config.json").write_text('{"annotations": {"org.criu.config": "/evil"}, "hooks": {}}')
    (s.images / "config.dump").write_text("{}")
    s.restore()
    assert "annotations" not in s.container.state()


@pytest.mark.parametrize("path", ["criu.conf", "./criu.conf", "../criu.conf"])
def test_criu_takes_no_configuration_from_the_bundle(written, path):
    """Its options overrule those of the runtime: --action-script runs programs as root."""
    s = written()
    evil = s.container.bundle.path / "criu.conf"
    evil.write_text("log-file evil.log\n")
    shutil.copy(evil, s.images)
    shutil.copy(evil, s.work)
    s.container.change(annotations={"org.criu.config": path})
    s.container.bundle.write()
    assert "its path must be absolute" in s.refused()
    s.container.change(annotations={})
    s.container.bundle.write()
    s.restore()
    assert not list(s.container.bundle.path.parent.rglob("evil.log"))


# --- a checkpoint that asks for more than the bundle gives. Here it is the bundle that gives less than it did.


def changed(s, **changes):
    s.container.change(**changes)
    s.container.bundle.write()
    return s.refused()


def test_capabilities_that_config_json_does_not_grant(written):
    s = written(capabilities=full("CAP_KILL", "CAP_SYS_ADMIN"))
    assert "it has CAP_SYS_ADMIN, which config.json does not grant" in changed(s, capabilities=full("CAP_KILL"))
    before = s.count
    assert s.count == before, "it did not run for a moment"


def test_new_privileges(written):
    s = written()
    assert "it may get new privileges" in changed(s, noNewPrivileges=True)


def test_a_filter_that_is_missing(written):
    s = written()
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}
    assert "it has no seccomp filter" in changed(s, seccomp=profile)


@pytest.mark.parametrize("kind", ["ipc", "uts"])
def test_a_namespace_that_is_the_hosts(written, kind):
    without = [each for each in ("pid", "network", "ipc", "uts", "mount") if each != kind]
    s = written(namespaces=namespaces(*without))
    assert f"it is in the host's {kind} namespace" in changed(s, namespaces=namespaces(*without, kind))


def test_a_mount_that_is_not_read_only_becomes_so(written, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    s = written(mounts=[{"destination": "/data", "type": "bind", "source": str(source), "options": ["bind"]}])
    s.container.config["mounts"][-1]["options"] = ["bind", "ro", "nosuid"]
    s.container.bundle.write()
    s.restore()
    assert s.container.attempt_exec("touch", "/data/x").code == 1
    assert "/data ro,nosuid" in s.container.exec("cat", "/proc/self/mountinfo")


def test_paths_that_are_not_masked_or_read_only(written):
    s = written()
    assert "path /proc/version: it is not masked" in changed(s, maskedPaths=["/proc/version"])
    assert "mount /proc/sys: it is not there" in changed(s, maskedPaths=[], readonlyPaths=["/proc/sys"])


def test_a_file_system_that_config_json_does_not_have(written):
    s = written()
    s.container.config["mounts"] = [each for each in s.container.config["mounts"] if each["destination"] != "/sys"]
    s.container.bundle.write()
    assert "mount /sys: config.json has no such file system (sysfs)" in s.refused()


def test_another_root_file_system_is_that_of_the_bundle(written, tmp_path):
    """It is restored on the bundle's, whatever it was on."""
    s = written()
    other = tmp_path / "other"
    shutil.copytree(s.rootfs, other, symlinks=True)
    s.container.config["root"]["path"] = str(other)
    s.container.bundle.write()
    s.restore()
    assert os.stat(f"/proc/{s.container.pid}/root").st_ino == os.stat(other).st_ino

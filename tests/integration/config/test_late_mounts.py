"""pyrunc mounts: what a running container is given, and what is taken from it again."""

import ctypes
import json
import os
import subprocess
import time

import pytest

from integration.support.bundle import full
from sizes import FULL


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_text("given\n")
    return folder


def mounts(container, what, entries, check=True):
    file = container.bundle.path / "mounts.json"
    file.write_text(json.dumps(entries))
    return container.runtime("mounts", what, container.id, file, check=check)


def bind(source, destination, *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


def test_a_folder_a_file_and_a_tmpfs(container, source):
    c = container().up()
    entries = [
        bind(source, "/data", "ro"),
        bind(source / "file", "/etc/one"),
        {"destination": "/scratch", "type": "tmpfs", "source": "x", "options": ["size=64k", "nosuid"]},
    ]
    mounts(c, "add", {"mounts": entries})
    assert c.exec("cat", "/data/file", "/etc/one") == "given\ngiven"
    assert "Read-only" in c.attempt_exec("touch", "/data/x").err
    assert "size=64k" in c.exec("grep", " /scratch ", "/proc/mounts")
    assert "something was added there before" in mounts(c, "add", [entries[0]], check=False).err
    assert "/data" in c.runtime("explain", c.id).out
    mounts(c, "remove", entries)
    assert c.exec("ls", "/data", "/scratch") == "/data:\n\n/scratch:"
    assert c.exec("cat", "/etc/one") == ""
    assert "it was not added" in mounts(c, "remove", [entries[0]], check=False).err
    c.delete("--force")
    c.assert_gone()


def test_all_or_none(container, source):
    c = container(readonlyPaths=["/etc"]).up()
    entries = [bind(source, "/data"), bind(source / "file", "/etc/new/place")]  # which can't be made
    result = mounts(c, "add", entries, check=False)
    assert result.code == 1
    assert "/data" not in c.exec("cat", "/proc/mounts")
    mounts(c, "add", entries[:1])  # it is not on record
    c.delete("--force")


def test_not_on_the_kernels_files(container, source):
    c = container().up()
    for place in ("/proc/sys", "/sys/kernel", "/proc/self/attr"):
        assert mounts(c, "add", [bind(source, place)], check=False).code == 1
    c.exec("ln", "-s", "/proc", "/link")
    assert mounts(c, "add", [bind(source, "/link/sys")], check=False).code == 1
    c.delete("--force")


def test_a_container_can_not_have_its_masks_removed(container, source):
    """It makes the path of what was added lead to a mask of /proc."""
    c = container(maskedPaths=["/proc/timer_list"], capabilities=full("CAP_SYS_ADMIN")).up()
    entries = [bind(source / "file", "/dir/timer_list")]
    mounts(c, "add", entries)
    c.exec("umount", "/dir/timer_list")
    c.exec_sh("rm -r /dir && ln -s /proc /dir")
    mounts(c, "remove", entries)  # there is nothing left of it
    assert c.exec("cat", "/proc/timer_list") == ""
    mounts(c, "add", [bind(source / "file", "/other/timer_list")])
    c.exec_sh("mkdir /elsewhere && touch /elsewhere/x && mount --move /other/timer_list /elsewhere/x")
    c.exec_sh("rm -r /other && ln -s /proc /other")
    result = mounts(c, "remove", [bind(source / "file", "/other/timer_list")], check=False)
    assert result.code == 1
    assert "not what was added" in result.err
    assert c.exec("cat", "/proc/timer_list") == ""
    c.delete("--force")


def test_a_link_of_the_containers_leads_nowhere_outside(container, source, canary):
    c = container().up()
    c.exec("ln", "-s", str(canary), "/out")
    mounts(c, "add", [bind(source, "/out/made")])
    assert sorted(entry.name for entry in canary.iterdir()) == ["file", "ptmx"]
    assert c.exec("cat", f"{canary}/made/file") == "given"
    c.delete("--force")


def test_a_link_of_the_containers_leads_to_no_mount_that_the_host_shares(container, source, tmp_path):
    """What is mounted there would be mounted on the host too, at a place of the container's choice."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=True)
    try:
        subprocess.run(["mount", "--make-shared", volume], check=True)
        for name in ("a", "b"):
            (volume / name).mkdir()
        c = container(rootfsPropagation="shared", mounts=[bind(volume, "/volume", "rshared")]).up()
        c.exec("ln", "-s", "/volume/a", "/out")
        assert "a symlink leads to" in mounts(c, "add", [bind(source, "/out")], check=False).err
        assert not (volume / "a/file").exists()
        mounts(c, "add", [bind(source, "/volume/b")])  # which its name says
        assert (volume / "b/file").exists()
        mounts(c, "remove", [bind(source, "/volume/b")])
        c.delete("--force")
    finally:
        subprocess.run(["umount", "-R", volume], check=True)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "expected a list of mounts"),
        ([{"type": "tmpfs"}], "expected an object with a destination"),
        ([{"destination": "x"}], "absolute path"),
        ([{"destination": "/x", "type": "proc"}], 'not "proc"'),
        ([{"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}], "are for create alone"),
        ([{"destination": "/x", "type": "bind", "source": "/nowhere"}], "no such file"),
        ([{"destination": "/x", "what": 1}], "is none of"),
    ],
)
def test_what_can_not_be_added(container, entries, said):
    c = container().up()
    assert said in mounts(c, "add", entries, check=False).err.lower().replace("absolute", "absolute")
    c.delete("--force")


def test_of_a_container_that_has_ended(container, source):
    c = container()
    c.create("true")
    mounts(c, "add", [bind(source, "/early")])  # before start
    c.kill("KILL")
    c.wait_for("stopped")
    assert "container not running" in mounts(c, "add", [bind(source, "/late")], check=False).err
    c.delete()
    assert "does not exist" in mounts(c, "add", [bind(source, "/late")], check=False).err


def test_with_a_user_namespace(container, source):
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c = container(uidMappings=mapping, gidMappings=mapping).reachable()
    c.config["linux"]["namespaces"].append({"type": "user"})
    c.bundle.rootfs.chmod(0o755)
    (c.bundle.rootfs / "data").mkdir()
    c.up()
    mounts(c, "add", [bind(source, "/data", "ro")])
    assert c.exec("cat", "/data/file") == "given"
    c.delete("--force")


def test_the_root_of_a_user_namespace_can_not_undo_what_the_host_has_set(container, source):
    """Make a mount writable that is not on the host, or unmount what hides something there."""
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c = container(uidMappings=mapping, gidMappings=mapping, capabilities=full("CAP_SYS_ADMIN")).reachable()
    c.config["linux"]["namespaces"].append({"type": "user"})
    c.bundle.rootfs.chmod(0o755)
    for name in ("data", "one"):
        (c.bundle.rootfs / name).mkdir()
    (c.bundle.rootfs / "file").touch()
    (source / "below").mkdir()
    subprocess.run(["mount", "--bind", source, source], check=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "below"], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", source], check=True)
        c.up()
        entries = [bind(source, "/data", "rbind"), bind(source / "file", "/file"), bind("/tmp", "/one", "ro")]
        mounts(c, "add", entries)
        for place in ("/data", "/file", "/one"):
            assert c.attempt_exec("mount", "-o", "remount,bind,rw", place).code
        assert c.attempt_exec("umount", "/data/below").code
        mounts(c, "remove", entries)
        assert c.exec("ls", "/data") == ""
    finally:
        c.delete("--force")
        subprocess.run(["umount", "-R", source], check=True)


@pytest.fixture
def hanging(tmp_path):
    """A folder of a file server that never answers."""
    place = tmp_path / "hanging"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"x", os.fsencode(place), b"fuse", 0, options):
        os.close(server)
        pytest.skip(f"mounting fuse: {os.strerror(ctypes.get_errno())}")
    yield place / "folder"
    os.close(server)
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_source_whose_server_does_not_answer(container, hanging):
    """It ends by itself, and `delete --force` need not wait for that."""
    c = container().up()
    file = c.bundle.path / "mounts.json"
    file.write_text(json.dumps([bind(hanging, "/data")]))
    adding = c.runtime.spawn("mounts", "add", c.id, file)
    if FULL:
        assert adding.end(120) == 1
        assert "has taken more than 30 s" in adding.err
    else:
        time.sleep(0.5)
        assert adding.poll() is None, adding.err
    assert c.status == "running"
    c.delete("--force")
    c.assert_gone()
    if not FULL:
        assert adding.end() != 0

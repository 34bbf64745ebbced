"""`mounts`: what an option means, what is refused, and where nothing may be mounted. config.md#mounts"""

import os
import re
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from integration.support.bundle import MAPS, OWN_USERS, full
from integration.support.host import hierarchies


def bind(source, destination="/m", *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def tmpfs(*options, destination="/m"):
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": [*options]}


def fails(c, **how):
    """What it says. The fixtures look for what it leaves: there is no mount, process or state."""
    result = c.attempt("true", **how)
    assert result.code == 1, repr(result)
    assert result.out == ""
    return result.err


def propagation(text, place):
    return [line.split(" - ")[0].split()[6:] for line in text.splitlines() if line.split()[4] == place][-1]


@pytest.fixture
def volume(tmp_path):
    """A folder on a file system that has ID-mapped mounts."""
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


# --- what a bind mount can't do


@pytest.mark.parametrize(
    "option",
    [
        "rsync",
        "rmand",
        "uid=5",
        "gid=5",
        "mode=500",
        "mode=9",
        "umask=077",
        "uids=0-5-1",
        "gids=0-5-1",
        "subdir=a",
        "X-mount.idmap=0:5:1",
    ],
)
def test_a_bind_with_another_owner_or_less_of_it_is_refused(container, tmp_path, option):
    error = fails(container(mounts=[bind(tmp_path, "/m", option)]))
    assert option.partition("=")[0] in error
    assert "/m" in error


def test_the_mode_of_a_bind_may_be_what_its_source_has_or_more(container, tmp_path):
    """runtime-tools demands this."""
    c = container(mounts=[bind(tmp_path, "/m", "mode=755")])
    tmp_path.chmod(0o750)
    assert c.run("stat", "-c", "%a", "/m") == "750"


@pytest.mark.parametrize(("options", "said"), [(["z", "size=3"], "z, size=3"), (["sync"], "sync"), (["mand"], "mand")])
def test_what_a_bind_has_not_and_nobody_is_harmed_by_is_said(container, tmp_path, options, said):
    c = container(mounts=[bind(tmp_path, "/m", *options)])
    c.run("true")
    assert f"file system: {said}" in c.last.err


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/m", "type": "ramfs", "source": "x", "options": ["tmpcopyup"]},
        {"destination": "/m", "type": "bind", "source": "/etc", "options": ["bind", "tmpcopyup"]},
    ],
)
def test_only_a_tmpfs_is_copied_to(container, mount):
    assert "tmpcopyup is for a new tmpfs alone" in fails(container(mounts=[mount]))


@pytest.mark.parametrize("kind", ["proc", "sysfs", "cgroup"])
def test_mapped_owners_of_the_kernels_files_are_refused(container, kind):
    mount = {"destination": "/m", "type": kind, "source": kind, "uidMappings": MAPS, "gidMappings": MAPS}
    assert f"type {kind} has no mapped IDs" in fails(container(mounts=[mount]))


def test_every_cgroup_hierarchy_is_read_only_that_should_be(container):
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rro"]}
    lines = container(mounts=[mount]).sh("grep /sys/fs/cgroup /proc/self/mountinfo").splitlines()
    assert [line.split()[5].split(",")[0] for line in lines] == ["ro"] * len(lines)
    assert set(hierarchies()) == {""} or len(lines) > 1


def test_a_remount_has_options_of_all_below_it(container):
    mounts = [tmpfs(), tmpfs(destination="/m/a"), {"destination": "/m", "options": ["remount", "bind", "rro"]}]
    lines = container(mounts=mounts).sh("grep ' /m' /proc/self/mountinfo").splitlines()
    assert [line.split()[5].split(",")[0] for line in lines] == ["ro", "ro"]


# --- owners: crun's idmap=


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("idmap=uids=1000-2000-1;gids=7-8-1", "2000 8"),
        ("idmap=gids=7-8-1;uids=0-5-1#1000-2001-1", "2001 8"),
        ("ridmap=uids=1000-2000-1;gids=7-8-1", "2000 8"),
    ],
)
def test_a_mapping_of_its_own(container, volume, option, expected):
    os.chown(volume, 1000, 7)
    assert container(mounts=[bind(volume, "/m", option)]).run("stat", "-c", "%u %g", "/m") == expected


def test_a_mapping_to_the_ids_of_the_container(container, volume):
    os.chown(volume, 1000, 1000)
    c = container(mounts=[bind(volume, "/m", "idmap=uids=@1000-3-1;gids=@1000-4-1")], **OWN_USERS).reachable()
    (c.bundle.rootfs / "m").mkdir()
    assert c.run("stat", "-c", "%u %g", "/m") == "3 4"


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("idmap=uids=0-5-1", "gids is missing"),
        ("idmap=uids=0-5;gids=0-5-1", "expected FILE-HOST-SIZE, found 0-5"),
        ("idmap=uids=0-5-x;gids=0-5-1", "expected FILE-HOST-SIZE, found 0-5-x"),
        ("idmap=uids=0-4294967296-1;gids=0-5-1", "4294967296"),
        ("idmap=owners=0-5-1", "expected uids= and gids="),
        ("idmap=uids=0-5-1;uids=0-5-1", "once"),
        ("idmap=uids=@0-5-1;gids=@0-5-1", "in no range"),
        ("idmap=uids=0-5-1#0-6-1;gids=0-5-1", "invalid argument"),
    ],
)
def test_a_mapping_that_is_none(container, volume, option, word):
    error = fails(container(mounts=[bind(volume, "/m", option)]))
    assert word in error


def test_two_mappings_of_one_mount(container, volume):
    mount = bind(volume, "/m", "idmap=uids=0-5-1;gids=0-5-1") | {"uidMappings": MAPS, "gidMappings": MAPS}
    assert "which is meant" in fails(container(mounts=[mount]))


# --- links: crun's


@pytest.fixture
def link(tmp_path):
    (tmp_path / "target").write_text("of the target")
    (tmp_path / "link").symlink_to("target")
    return tmp_path / "link"


def test_a_link_that_is_copied(container, link):
    c = container(mounts=[bind(link, "/a/b", "copy-symlink")])
    assert c.run("readlink", "/a/b") == "target"
    assert c.run("readlink", "/a/b") == "target"  # it is there now, and the same
    (c.bundle.rootfs / "a/b").unlink()
    (c.bundle.rootfs / "a/b").symlink_to("other")
    assert "no symlink to target" in fails(c)
    (c.bundle.rootfs / "a/b").unlink()
    (c.bundle.rootfs / "a/b").touch()
    assert "no symlink to target" in fails(c)


def test_a_file_is_no_link_to_copy(container, link):
    assert container(mounts=[bind(link.parent / "target", "/a", "copy-symlink")]).run("cat", "/a") == "of the target"


def test_a_link_that_is_copied_stays_in_the_root(container, link, canary):
    c = container(mounts=[bind(link, "/out/new", "copy-symlink")])
    (c.bundle.rootfs / "out").symlink_to(canary)
    assert c.run("readlink", f"{canary}/new") == "target"
    assert not (canary / "new").exists()


def test_a_link_that_is_mounted(container, link):
    c = container(mounts=[bind(link, "/m", "src-nofollow")])
    assert c.run("readlink", "/m") == "target"
    assert container(mounts=[bind(link, "/m")]).run("cat", "/m") == "of the target"


def test_a_link_that_is_mounted_on(container, link):
    """The target of the link is unchanged."""
    c = container(mounts=[bind(link.parent / "target", "/etc/link", "dest-nofollow")])
    c.file("/etc/real", "of the image")
    (c.bundle.rootfs / "etc/link").symlink_to("real")
    assert c.run("cat", "/etc/link", "/etc/real") == "of the targetof the image"


@pytest.mark.parametrize("place", ["/etc/none", "/proc/self/exe", "/proc/cpuinfo", "/sys/kernel"])
def test_places_that_are_not_mounted_on_by_themselves(container, link, place):
    assert place in fails(container(mounts=[bind(link, place, "dest-nofollow")]))


def test_a_link_is_copied_or_mounted(container, link):
    assert "copy-symlink" in fails(container(mounts=[bind(link, "/m", "copy-symlink", "src-nofollow")]))


# --- options as engines write them


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_an_empty_option_says_nothing(container, tmp_path, kind):
    mount = tmpfs("rw", "") if kind == "tmpfs" else bind(tmp_path, "/m", "", "rw")
    container(mounts=[mount]).run("test", "-d", "/m")


@pytest.mark.parametrize("rsync", ["sync", "rsync"])
def test_a_file_system_of_its_own_has_what_is_asked(container, rsync):
    assert "sync" in container(mounts=[tmpfs(rsync)]).sh("grep ' /m ' /proc/self/mountinfo").rpartition(" ")[2]


@pytest.fixture
def layers(tmp_path, volume):
    """Folders for overlay to take as its layers. Many of them make long options."""

    def make(count, length=60):
        made = []
        for number in range(count):
            folder = volume / f"{number}".zfill(length)
            folder.mkdir()
            (folder / f"file{number}").touch()
            made.append(str(folder))
        return made

    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("no overlayfs here")
    return make


@pytest.mark.parametrize("count", [3, 20])
def test_options_that_are_longer_than_fsconfig_takes(container, layers, count):
    option = f"lowerdir={':'.join(layers(count))}"
    assert len(option) > 255
    c = container(mounts=[{"destination": "/m", "type": "overlay", "source": "overlay", "options": [option, "nosuid"]}])
    assert len(c.run("ls", "/m").split()) == count
    assert "nosuid" in c.sh("grep ' /m ' /proc/self/mountinfo")


def test_a_source_that_is_longer(container, tmp_path):
    c = container(mounts=[tmpfs("size=64k") | {"source": "s" * 300}])
    assert f" {'s' * 300} " in c.sh("grep ' /m ' /proc/self/mountinfo")


def test_options_that_are_longer_than_mount_takes(container, layers):
    """mount(2) would cut the options off, and the container's folder would lack layers."""
    mount = {"destination": "/m", "type": "overlay", "source": "o", "options": [f"lowerdir={':'.join(layers(60))}"]}
    error = fails(container(mounts=[mount]))
    assert re.search(r"/m.*the options have \d+ bytes, and mount\(2\) takes 4095", error)


# --- kinds that don't fit


def make_folder(place):
    place.mkdir()


def make_file(place):
    place.touch()


def make_socket(place):
    here = os.getcwd()
    os.chdir(place.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.name)
    finally:
        os.chdir(here)


def make_device(place):
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (make_folder, make_file),
        (make_folder, make_socket),
        (make_folder, make_device),
        (make_file, make_folder),
        (make_socket, make_folder),
        (make_device, make_folder),
    ],
    ids=lambda make: make.__name__,
)
def test_a_folder_on_a_file_or_the_other_way_round(container, tmp_path, source, target):
    """Docker looks for these words. With them it exits with 127, and asks whether the path is there on the host."""
    source(tmp_path / "source")
    c = container(mounts=[bind(tmp_path / "source", "/etc/place")])
    target(c.bundle.rootfs / "etc/place")
    error = fails(c)
    assert "not a directory" in error
    assert "/etc/place" in error
    assert "invalid" not in error


@pytest.mark.parametrize(("kind", "options"), [("tmpfs", []), ("tmpfs", ["tmpcopyup"]), ("mqueue", []), ("cgroup", [])])
def test_a_file_system_on_a_file(container, kind, options):
    c = container(mounts=[{"destination": "/etc/place", "type": kind, "source": kind, "options": options}])
    c.file("/etc/place")
    assert "not a directory" in fails(c)


# --- tmpcopyup


@pytest.mark.parametrize(
    ("options", "made", "existing"),
    [
        ([], "1777 0:0", "751 12:13"),
        (["mode=700"], "700 0:0", "700 12:13"),
        (["uid=5", "gid=6"], "1777 5:6", "751 5:6"),
        (["mode=1710", "uid=5"], "1710 5:0", "1710 5:13"),
    ],
)
def test_mode_and_owner_of_a_tmpfs_with_what_was_there(container, options, made, existing):
    c = container(mounts=[tmpfs("tmpcopyup", *options, destination=place) for place in ("/made/m", "/data")])
    data = c.bundle.rootfs / "data"
    data.mkdir()
    data.chmod(0o751)
    os.chown(data, 12, 13)
    assert c.run("stat", "-c", "%a %u:%g", "/made/m", "/data").splitlines() == [made, existing]


def test_modes_and_owners_of_all_that_is_copied(container):
    c = container(mounts=[tmpfs("tmpcopyup", destination="/data")], capabilities=full("CAP_DAC_OVERRIDE"))
    c.file("/data/folder/file", "text", 0o4755)
    data = c.bundle.rootfs / "data"
    os.mkfifo(data / "fifo")
    make_device(data / "device")
    make_socket(data / "socket")
    for number, name in enumerate(("fifo", "device", "socket", "folder")):
        os.chown(data / name, number + 1, number + 2)
        (data / name).chmod(0o6777 - number)
    names = ["/data/device", "/data/fifo", "/data/folder", "/data/socket", "/data/folder/file"]
    status = [(data.parent / name[1:]).lstat() for name in names]
    expected = [f"{s.st_mode & 0o7777:o} {s.st_uid}:{s.st_gid} {s.st_mode >> 12:x} {s.st_rdev:x}" for s in status]
    found = c.sh(f"stat -c '%a %u:%g %f %t%02T' {' '.join(names)}").splitlines()
    for line, there in zip(found, expected, strict=True):
        mode, owner, raw, device = line.split()
        assert f"{mode} {owner} {int(raw, 16) >> 12:x} {int(device, 16):x}" == there


@pytest.mark.parametrize(("depth", "name"), [(700, "d"), (150, "n" * 100)], ids=["deep", "longer than a path"])
def test_a_deep_tree_is_copied_with_few_descriptors(container, request, depth, name):
    c = container(mounts=[tmpfs("tmpcopyup", destination="/data")])
    (c.bundle.rootfs / "data").mkdir()
    request.addfinalizer(lambda: subprocess.run(["rm", "-r", c.bundle.rootfs / "data"], check=True))  # pytest can't
    folder = os.open(c.bundle.rootfs / "data", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=folder))
    os.close(folder)
    script = f"cd /data; i=0; while [ $i -lt {depth} ]; do cd -P {name} || exit; i=$((i+1)); done; stat -c %a last"
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))  # noqa: E731
    assert c.sh(script, preexec_fn=few) == "640"


# --- propagation


@pytest.mark.parametrize("root", ["rshared", "shared", "runbindable"])
def test_a_mount_keeps_the_propagation_of_its_own(container, tmp_path, root):
    own = {"rprivate": [], "private": [], "rshared": ["shared"], "runbindable": ["unbindable"], "": None}
    (tmp_path / "v").mkdir()
    mounts = [bind(tmp_path / "v", f"/m{number}", *[o for o in (option,) if o]) for number, option in enumerate(own)]
    text = container(mounts=mounts, rootfsPropagation=root).run("cat", "/proc/self/mountinfo")
    of_root = [root.removeprefix("run").removeprefix("r").replace("bindable", "unbindable").replace("ununb", "unb")]
    assert [word.partition(":")[0] for word in propagation(text, "/")] == of_root
    for number, expected in enumerate(own.values()):
        found = [word.partition(":")[0] for word in propagation(text, f"/m{number}")]
        assert found == (of_root if expected is None else expected), number


# --- sysctls

KEY = "net.ipv4.ip_default_ttl"
FILE = f"/proc/sys/{KEY.replace('.', '/')}"
IN_A_CONTAINER = {
    "on itself": "mount --bind /proc/sys /proc/sys",
    "as LXC has it": "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; "
    "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,rw /proc/sys/net",
    "one file": f"mount --bind {FILE} {FILE}",
}


@pytest.fixture
def inside():
    """The runtime itself is started in a container, of LXC's or of another runtime's."""
    return lambda script: ("unshare", "-m", "sh", "-ec", f'{script}; exec "$0" "$@"')


@pytest.mark.parametrize("script", IN_A_CONTAINER.values(), ids=IN_A_CONTAINER)
def test_sysctls_where_proc_sys_is_a_mount_point(container, inside, script):
    before = Path(FILE).read_text()
    assert container(sysctl={KEY: "77"}).run("cat", FILE, wrapper=inside(script)) == "77"
    assert Path(FILE).read_text() == before


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mount -t tmpfs t /proc/sys/net; mkdir -p /proc/sys/net/ipv4; touch {file}", "no procfs"),
        ("mount -t tmpfs t /proc/sys/net; mkdir -p /proc/sys/net/ipv4; ln -s {fake} {file}", "symbolic links"),
        ("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys", "read-only where the runtime"),
    ],
)
def test_what_is_no_sysctl_is_not_written_to(container, inside, tmp_path, script, words):
    (tmp_path / "fake").write_text("untouched")
    c = container(sysctl={KEY: "77"})
    error = fails(c, wrapper=inside(script.format(fake=tmp_path / "fake", file=FILE)))
    assert words in error
    assert KEY in error
    assert (tmp_path / "fake").read_text() == "untouched"


# --- children of the runtime's


@pytest.mark.parametrize(
    ("work", "status"),
    [("pass", 0), ("raise SystemExit(0)", 1), ("raise KeyboardInterrupt", 1), ("1 / 0", 1), ("os.close(99)", 1)],
)
def test_a_child_of_ours_never_does_what_is_its_parents(work, status):
    script = f"""
import os, sys
from pyrunc.linux.process import in_child
def work():
    {work}
me = os.getpid()
try:
    pid, pidfd = in_child(work)
    with pidfd:
        print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
finally:
    assert os.getpid() == me, "the child is here"
    sys.stdout.flush()
    print("cleaned up", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, cwd="/")
    assert ended.stdout.split("\n", 1) == [f"{status}", "cleaned up\n"], ended

"""User namespaces: whose files, devices, streams and mounts the container's are, and what it joins."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, OWN_USERS, full, namespaces
from integration.support.runtime import Runtime

BASE = 100000
MAPS = [{"containerID": 0, "hostID": BASE, "size": 65536}]
WITH_HOST_NETWORK = {**OWN_USERS, "namespaces": namespaces("pid", "ipc", "uts", "mount", "user")}
ROOT_IDMAP = "org.pyrunc.rootfs.idmap"
BUILD = {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID"}


# --- what only the host's root may reach


def test_a_root_file_system_in_a_private_folder(container):
    """pytest's folders have mode 0700 and belong to root. The container's root may not enter them."""
    c = container(**OWN_USERS)
    c.bundle.path.chmod(0o700)
    assert c.sh("id -u; cat /proc/self/uid_map").split() == ["0", "0", f"{BASE}", "65536"]


def test_its_bind_mounts_are_there_too(container, tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private/file").write_text("read\n")
    c = container(
        **OWN_USERS,
        mounts=[
            {
                "destination": "/file",
                "type": "bind",
                "source": str(tmp_path / "private/file"),
                "options": ["bind", "ro"],
            }
        ],
    )
    c.bundle.file("/file")
    c.bundle.path.chmod(0o700)
    assert c.run("cat", "/file") == "read"
    assert c.up("sleep", "1000").exec("cat", "/file") == "read"


def test_a_private_root_is_an_error_for_a_caller_who_may_not_enter_it(container):
    c = container(**OWN_USERS)
    c.bundle.rootfs.chmod(0o700)
    assert "ermission" in c.refused("cat", "/etc/passwd")  # it is mounted, but its own files are nobody's to it


# --- devices, sysfs


def test_devices_are_the_hosts_bound(container):
    c = container(**OWN_USERS, devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
                  if Path("/dev/fuse").exists() else [])  # fmt: skip
    out = c.sh("stat -c %t:%T /dev/null /dev/zero; grep -c -E ' /dev/(null|zero|full|random|urandom|tty) ' "
               "/proc/self/mountinfo; echo > /dev/null && head -c1 /dev/zero | wc -c")  # fmt: skip
    assert out.split() == ["1:3", "1:5", "6", "1"]


ODD = {"type": "c", "major": 1, "minor": 3}  # the null device, by another name or with another mode


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({**ODD, "path": "/dev/none-on-the-host"}, "666 0:0"),
        ({**ODD, "path": "/dev/none-on-the-host", "fileMode": 0o646, "uid": 1000, "gid": 5}, "646 1000:5"),
        ({**ODD, "path": "/dev/null", "fileMode": 0o622, "uid": 7, "gid": 8}, "622 7:8"),
        ({**ODD, "path": "/dev/tty0"}, "666 0:0"),  # another device on the host
        ({"type": "p", "path": "/dev/fifo", "fileMode": 0o600, "uid": 3}, "600 3:0"),
    ],
)
def test_devices_that_the_host_has_not_so_are_made(container, device, expected):
    """The runtime makes them, with its own rights. The host's nodes are not touched."""
    before = os.stat("/dev/null")
    c = container(**OWN_USERS, devices=[device])
    out = c.sh(f"stat -c '%a %u:%g' {device['path']}; [ -p {device['path']} ] || echo text > {device['path']}")
    assert out == expected
    assert c.last.err == ""
    assert os.stat("/dev/null") == before
    assert not os.path.exists("/dev/none-on-the-host")


def test_an_owner_of_a_device_who_is_not_mapped_is_an_error(container):
    error = container(**OWN_USERS, devices=[{**ODD, "path": "/dev/odd", "uid": 70000}]).refused("true")
    assert "/dev/odd" in error
    assert "70000 is in no range of the container's user namespace" in error


def test_what_a_device_can_not_be_is_said(container):
    """This runtime may make no device nodes: it is root in somebody's container."""
    without = ("setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod")
    c = container(**OWN_USERS, devices=[{**ODD, "path": "/dev/null", "fileMode": 0o622, "uid": 7}])
    assert c.run("stat", "-c", "%a", "/dev/null", wrapper=without) == "666"
    assert "device /dev/null is the host's own, and so not as asked for: fileMode is 666, uid is 65534" in c.last.err
    c.change(devices=[{**ODD, "path": "/dev/none-on-the-host"}])
    assert "device /dev/none-on-the-host: is not on the host, and the runtime may not make it" in c.refused(
        "true", wrapper=without
    )


def test_sysfs_with_the_hosts_network_is_the_hosts_own(container):
    """The kernel lets only the owner of a network namespace mount its sysfs. runc refuses (runc#799, #3672)."""
    c = container(**WITH_HOST_NETWORK)
    devices, mount = c.sh("ls /sys/class/net; echo --; grep ' /sys ' /proc/self/mountinfo").split("--")
    assert set(devices.split()) == set(os.listdir("/sys/class/net"))
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))


def test_all_below_it_has_its_options(container):
    c = container(**WITH_HOST_NETWORK)
    out = c.sh("grep ' /sys' /proc/self/mountinfo").splitlines()
    assert all({"ro", "nosuid"} <= set(line.split()[5].split(",")) for line in out), out


def test_with_a_network_of_its_own_it_is_its_own(container):
    assert container(**OWN_USERS).run("ls", "/sys/class/net") == "lo"


def test_what_is_masked_in_a_bound_sysfs_is_masked(container):
    c = container(**WITH_HOST_NETWORK, maskedPaths=["/sys/firmware"], readonlyPaths=["/sys/kernel"])
    assert c.run("ls", "/sys/firmware") == ""


# --- streams


@pytest.mark.parametrize("uid", [0, 1000])
def test_pipes_are_given_to_the_user_who_can_reopen_them(container, uid):
    """`echo > /dev/stderr` opens it again."""
    c = container(**OWN_USERS, user={"uid": uid, "gid": uid})
    read, write = os.pipe()
    c._prepare(("sh", "-c", "echo again > /proc/self/fd/1; stat -L -c %u /proc/self/fd/1"))
    process = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, stdout=write)
    os.close(write)
    assert process.end(10) == 0, process.err
    assert os.read(read, 100).decode().split() == ["again", f"{uid}"]
    assert os.fstat(read).st_uid == BASE + uid
    os.close(read)


def test_pipes_of_exec_too(container):
    c = container(**OWN_USERS).up()
    read, write = os.pipe()
    process = c.runtime.spawn("exec", "-u", "7", c.id, "sh", "-c", "echo again > /proc/self/fd/1", stdout=write)
    os.close(write)
    assert process.end(10) == 0, process.err
    assert os.read(read, 100) == b"again\n"
    os.close(read)


def test_a_file_of_the_hosts_stays_whose_it_is(container, tmp_path):
    c = container(**OWN_USERS)
    with open(tmp_path / "file", "wb") as file:
        c.attempt("echo", "x", stdout=file)
    assert (tmp_path / "file").stat().st_uid == 0
    assert (tmp_path / "file").read_text() == "x\n"


# --- joining one by its path


@pytest.fixture
def other(container):
    return container(**OWN_USERS).up()


def joining(c, other, **changes):
    return c.change(namespaces=namespaces(*NAMESPACES, user=f"/proc/{other.pid}/ns/user"), **changes)


SPLIT = [{"containerID": 1, "hostID": BASE + 1, "size": 65535}, {"containerID": 0, "hostID": BASE, "size": 1}]


@pytest.mark.parametrize("mappings", [None, MAPS, SPLIT])
def test_it_is_joined_with_and_without_its_mappings(container, other, mappings):
    c = joining(container(), other, **({"uidMappings": mappings, "gidMappings": mappings} if mappings else {})).up()
    assert c.exec("cat", "/proc/self/uid_map").split() == ["0", f"{BASE}", "65536"]
    assert os.readlink(f"/proc/{c.pid}/ns/user") == os.readlink(f"/proc/{other.pid}/ns/user")
    assert Path(f"/proc/{c.pid}").stat().st_uid == BASE


@pytest.mark.parametrize("member", ["uidMappings", "gidMappings"])
def test_mappings_that_are_not_the_namespaces_own_are_refused(container, other, member):
    wrong = [{"containerID": 0, "hostID": BASE + 1, "size": 65536}]
    c = joining(container(), other, **{"uidMappings": MAPS, "gidMappings": MAPS, member: wrong})
    error = c.refused("true")
    assert f"/linux/{member}" in error
    assert f"0:{BASE}:65536" in error


def test_a_path_to_something_else_is_refused(container, other):
    c = container(namespaces=namespaces(*NAMESPACES, user=f"/proc/{other.pid}/ns/net"))
    assert "user namespace" in c.refused("true")


def test_what_belongs_to_a_joined_namespace_is_joined_with_it(container, other):
    paths = {name: f"/proc/{other.pid}/ns/{file}" for name, file in
             (("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"))}  # fmt: skip
    c = container(namespaces=namespaces("mount", **paths)).up()
    for kind in ("user", "net", "ipc", "uts", "pid"):
        assert os.readlink(f"/proc/{c.pid}/ns/{kind}") == os.readlink(f"/proc/{other.pid}/ns/{kind}")


@pytest.mark.vm
def test_cgroup_and_streams_know_a_joined_namespaces_ids(container, other):
    c = joining(container(), other)
    read, write = os.pipe()
    c._prepare(("sh", "-c", "echo again > /proc/self/fd/1"))
    process = c.runtime.spawn("run", "--bundle", c.bundle.path, c.id, stdout=write)
    os.close(write)
    assert process.end(10) == 0, process.err
    assert os.fstat(read).st_uid == BASE
    os.close(read)


# --- groups


def test_further_groups_are_set(container):
    c = container(**OWN_USERS, user={"uid": 5, "gid": 6, "additionalGids": [7, 8]})
    assert c.run("id", "-G") == "6 7 8"


def test_a_further_group_that_is_not_mapped_is_explained(container):
    c = container(**OWN_USERS, user={"uid": 0, "gid": 0, "additionalGids": [70000]})
    assert "setting groups 70000" in c.refused("true")


# --- an ID-mapped root file system


def mapped(container, **changes):
    return container(**{**OWN_USERS, **changes}, annotations={ROOT_IDMAP: "true"}, capabilities=full(*BUILD))


def test_files_of_root_are_roots_in_the_container_without_chown(container):
    c = mapped(container)
    owned = c.bundle.file("/mine", "x\n", 0o600)
    theirs = c.bundle.file("/theirs", "y\n", 0o600)
    os.chown(theirs, 1000, 1000)
    out = c.sh("stat -c %u:%g /mine /theirs /bin/busybox /; cat /mine").split()
    assert out == ["0:0", "1000:1000", "0:0", "0:0", "x"]
    assert (owned.stat().st_uid, theirs.stat().st_uid) == (0, 1000)


def test_without_it_they_are_nobodys(container):
    c = container(**OWN_USERS)
    c.bundle.file("/mine", "x\n", 0o600)
    assert c.sh("stat -c %u /mine; cat /mine 2>&1 || true").split()[0] == "65534"


def test_what_the_container_makes_is_on_disk_as_the_container_sees_it(container):
    c = mapped(container)
    c.sh("umask 022; echo made > /made; mkdir /folder; touch /folder/user; chown 1000:1001 /folder/user")
    for name, owner in (("made", (0, 0)), ("folder", (0, 0)), ("folder/user", (1000, 1001))):
        status = (c.bundle.rootfs / name).stat()
        assert (status.st_uid, status.st_gid) == owner


def test_mount_points_that_the_image_lacks_can_be_made(container):
    """In its own root file system the container's root has the rights of root."""
    c = mapped(container, mounts=[{"destination": "/new/deep", "type": "tmpfs", "source": "t"}])
    assert " /new/deep " in c.run("cat", "/proc/self/mountinfo")


def test_its_processes_are_users_of_the_host_all_the_same(container):
    c = mapped(container).up()
    assert Path(f"/proc/{c.pid}").stat().st_uid == BASE
    assert c.exec("cat", "/proc/self/uid_map").split() == ["0", f"{BASE}", "65536"]


def test_a_program_with_the_setuid_bit_becomes_root_of_the_container_alone(container):
    c = mapped(container, user={"uid": 1000, "gid": 1000})
    program = c.bundle.rootfs / "bin/suid"
    program.write_bytes((c.bundle.rootfs / "bin/probe").read_bytes())
    program.chmod(0o4755)
    c.up("sleep", "1000")
    c.runtime("exec", "-d", "--pid-file", c.bundle.path / "pid", c.id, "suid", "watch-strangers", "2")
    pid = int((c.bundle.path / "pid").read_text())
    uids = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    assert uids.split()[1:] == [f"{BASE + 1000}", f"{BASE}", f"{BASE}", f"{BASE}"]


def test_exec_joins_it(container):
    c = mapped(container).up()
    assert c.exec("stat", "-c", "%u", "/bin/busybox") == "0"
    assert c.exec_sh("touch /by-exec; stat -c %u /by-exec", flags=("-u", "0")) == "0"
    assert (c.bundle.rootfs / "by-exec").stat().st_uid == 0


def test_a_read_only_root_stays_so(container):
    c = mapped(container, root={"path": "rootfs", "readonly": True})
    assert c.attempt("touch", "/x").code != 0


def test_the_hosts_own_view_is_not_changed(container):
    """The mapping is that of one mount, which only the container has."""
    c = mapped(container).up()
    assert (c.bundle.rootfs / "bin/busybox").stat().st_uid == 0
    assert str(c.bundle.rootfs) not in Path("/proc/self/mountinfo").read_text(errors="replace")


def test_mapped_to_a_joined_namespace(container, other):
    c = joining(container(annotations={ROOT_IDMAP: "true"}), other)
    assert c.run("stat", "-c", "%u", "/bin/busybox") == "0"


def test_false_is_as_if_it_was_not_there(container):
    c = container(**OWN_USERS, annotations={ROOT_IDMAP: "false"})
    assert c.run("stat", "-c", "%u", "/bin/busybox") == "65534"


@pytest.mark.parametrize(("changes", "word"), [
    ({"annotations": {ROOT_IDMAP: "yes"}, **OWN_USERS}, '"true" or "false"'),
    ({"annotations": {ROOT_IDMAP: "true"}}, "user namespace"),
    ({"annotations": {ROOT_IDMAP: "true"}, **OWN_USERS, "namespaces": namespaces("pid", "user")}, "mount namespace"),
])  # fmt: skip
def test_what_it_can_not_mean_is_refused(container, changes, word):
    error = container(**changes).refused("true")
    assert word in error
    assert ROOT_IDMAP in error


def test_a_file_system_without_mapped_mounts_is_named(container, tmp_path):
    """overlayfs, where this host has it."""
    c = mapped(container)
    lower, upper, work = c.bundle.rootfs.rename(tmp_path / "lower"), tmp_path / "upper", tmp_path / "work"
    for folder in (upper, work, c.bundle.rootfs):
        folder.mkdir()
    how = ["mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "o", c.bundle.rootfs]
    if subprocess.run(how, capture_output=True).returncode:
        pytest.skip("no overlayfs here")
    try:
        error = c.attempt("true").err
    finally:
        subprocess.run(["umount", c.bundle.rootfs], check=True)
    c.assert_gone()
    assert "overlayfs has none" in error


# --- callers without privileges


AS_USER = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "-u", "XDG_RUNTIME_DIR")


class User(Runtime):
    """The binary as user 1000 calls it."""

    def __init__(self, runtime, root):
        super().__init__(runtime.binary, root, runtime.scratch)
        self.count = 30_000

    def command(self, *words):
        return [*AS_USER, *super().command(*words)]


@pytest.fixture
def users(container, tmp_path, binary):
    """A container of user 1000's."""
    if subprocess.run([*AS_USER, binary, "--version"], capture_output=True).returncode:
        pytest.skip("users can't run the binary")
    c = container().reachable()
    (tmp_path / "users").mkdir()
    for place in (tmp_path / "users", c.bundle.path, c.bundle.rootfs):
        os.chown(place, 1000, 1000)
    c.runtime = User(c.runtime, tmp_path / "users/state")
    terminals = next(mount for mount in c.config["mounts"] if mount["type"] == "devpts")
    terminals["options"].remove("gid=5")
    return c


def test_a_caller_without_privileges_is_told_what_to_write(users):
    error = users.refused("true")
    assert "user 1000 has no privileges" in error
    for word in ('{"type": "user"}', '"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]', '"gidMappings"',
                 "pyrunc spec --rootless"):  # fmt: skip
        assert word in error
    assert not users.runtime.root.exists()


def test_what_he_is_told_works(users):
    error = users.refused("true")
    one = [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert json.dumps(one) in error
    users.change(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=one, gidMappings=one)
    assert users.sh("id -u; cat /proc/self/setgroups").split() == ["0", "deny"]


def test_what_etc_subuid_has_for_him_is_told_and_not_taken(users, tmp_path):
    for file in ("subuid", "subgid"):
        (tmp_path / file).write_text("nobody:1:1\n1000:200000:4096\n")
        subprocess.run(["mount", "--bind", tmp_path / file, f"/etc/{file}"], check=True)
    try:
        error = users.refused("true")
    finally:
        for file in ("subuid", "subgid"):
            subprocess.run(["umount", f"/etc/{file}"], check=True)
    assert '/etc/subuid has {"containerID": 1, "hostID": 200000, "size": 4096}' in error


def test_a_user_namespace_without_mappings_is_refused_with_an_example(users):
    users.change(namespaces=namespaces(*NAMESPACES, "user"))
    error = users.refused("true")
    assert "uidMappings" in error
    assert '{"containerID": 0, "hostID": 1000, "size": 1}' in error


def test_groups_where_the_kernel_denies_them_are_explained(users):
    one = [{"containerID": 0, "hostID": 1000, "size": 1}]
    users.change(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=one, gidMappings=one,
                 user={"uid": 0, "gid": 0, "additionalGids": [0]})  # fmt: skip
    error = users.refused("true")
    assert "setting groups 0" in error
    assert "setgroups" in error


def test_ids_that_he_does_not_have_are_not_given(users):
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 300000, "size": 10}]
    users.change(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=maps, gidMappings=maps)
    error = users.attempt("true").err  # newgidmap's own words come first
    users.assert_gone()
    assert "newgidmap refused" in error
    assert "/etc/subuid" in error

"""What a program finds in its container, property by property. config.md, config-linux.md"""

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from integration.harness import BUSYBOX, NAMESPACES, Running, full, namespaces

KINDS = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
WHOLE = [{"containerID": 0, "hostID": 0, "size": 65536}]
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def status_of(c, *names, **how):
    lines = c.run("cat", "/proc/self/status", **how).splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return [found[name] for name in names]


def mount_at(text, place):
    """(options, root, type, source, superblock options) of the last mount at a place in a mountinfo."""
    found = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if fields[4] == place:
            kind, source, options = [*after.split(" ", 2), "", ""][:3]
            found = (set(fields[5].split(",")), fields[3], kind, source, set(options.split(",")), fields[6:])
    assert found is not None, f"nothing is mounted at {place}:\n{text}"
    return found


# --- namespaces


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"])
def test_a_new_namespace_of_each_kind(container, kind):
    kinds = [*dict.fromkeys(["mount", "pid", kind])]
    c = container(namespaces=namespaces(*kinds))
    if kind == "user":
        c.change(uidMappings=WHOLE, gidMappings=WHOLE)
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    assert c.run("readlink", f"/proc/self/ns/{KINDS[kind]}") != os.readlink(f"/proc/self/ns/{KINDS[kind]}")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "time"])
def test_a_namespace_that_is_not_listed_is_the_runtimes(container, kind):
    assert container(namespaces=namespaces("mount", "pid")).run(
        "readlink", f"/proc/self/ns/{KINDS[kind]}"
    ) == os.readlink(f"/proc/self/ns/{KINDS[kind]}")


def test_the_processes_of_the_host_without_a_namespace(container):
    c = container(namespaces=namespaces("mount"))
    assert c.run("readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"])
def test_a_namespace_that_is_joined_by_path(container, kind):
    other = container(namespaces=namespaces(*NAMESPACES, "cgroup", "time", "user"), uidMappings=MAPS, gidMappings=MAPS)
    other.reachable().up()
    path = f"/proc/{other.pid}/ns/{KINDS[kind]}"
    rest = [name for name in ("mount", "pid", "uts", "ipc") if name != kind]
    c = container(namespaces=namespaces(*rest, **{kind: path}))
    if kind == "mount":  # the procfs there is that of the other's processes
        c.change(namespaces=namespaces("uts", mount=path, pid=f"/proc/{other.pid}/ns/pid"))
    if kind == "user":
        c.reachable()
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    if kind in ("network", "mount"):
        c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    if kind == "mount":
        c.config["mounts"] = []
        c.change(root={"path": "/"})
    assert c.run("/bin/readlink", f"/proc/self/ns/{KINDS[kind]}") == os.readlink(path)


def test_all_namespaces_of_another_container_can_be_joined(container):
    other = container(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS)
    other.config["mounts"] = [m for m in other.config["mounts"] if m["type"] != "sysfs"]
    other.reachable().up()
    paths = {kind: f"/proc/{other.pid}/ns/{KINDS[kind]}" for kind in ("user", "pid", "network", "ipc", "uts")}
    c = container(namespaces=namespaces("mount", **paths)).reachable()
    c.config["mounts"] = [m for m in c.config["mounts"] if m["type"] != "sysfs"]
    for kind, path in paths.items():
        assert c.run("readlink", f"/proc/self/ns/{KINDS[kind]}") == os.readlink(path)


def test_a_path_of_the_wrong_kind_is_refused(container):
    c = container(namespaces=namespaces("mount", "pid", network="/proc/self/ns/uts"))
    error = c.refused("true")
    assert "/proc/self/ns/uts" in error


def test_a_path_that_is_no_namespace_is_refused(container, tmp_path):
    (tmp_path / "file").touch()
    error = container(namespaces=namespaces("mount", network=str(tmp_path / "file"))).refused("true")
    assert str(tmp_path / "file") in error


def test_a_kind_that_is_listed_twice_is_refused(container):
    assert "pid" in container(namespaces=namespaces("mount", "pid", "pid")).refused("true")


def test_the_loopback_device_is_up(container):
    assert container().sh("cat /sys/class/net/lo/operstate; ls /sys/class/net").split() == ["unknown", "lo"]


@pytest.mark.vm
def test_the_root_of_a_cgroup_namespace_is_the_containers_cgroup(container):
    c = container(namespaces=namespaces(*NAMESPACES, "cgroup"))
    assert {line.split(":", 2)[2] for line in c.run("cat", "/proc/self/cgroup").splitlines()} == {"/"}


def test_offsets_of_time(container):
    c = container(
        namespaces=namespaces(*NAMESPACES, "time"),
        timeOffsets={"boottime": {"secs": 1000000}, "monotonic": {"secs": 5, "nanosecs": 7}},
    )
    offsets = [line.split() for line in c.run("cat", "/proc/self/timens_offsets").splitlines()]
    assert offsets == [["monotonic", "5", "7"], ["boottime", "1000000", "0"]]
    assert float(c.run("cat", "/proc/uptime").split()[0]) > 1000000


@pytest.mark.vm
def test_a_user_namespace_with_its_maps(container):
    c = container(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS).reachable()
    assert c.run("cat", "/proc/self/uid_map", "/proc/self/gid_map").split() == ["0", "100000", "65536"] * 2
    c.up()
    assert "Uid:\t100000\t100000\t100000\t100000\n" in Path(f"/proc/{c.pid}/status").read_text()


def test_a_user_of_a_user_namespace(container):
    c = container(
        namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS, user={"uid": 1000, "gid": 1000}
    ).reachable()
    assert c.run("id", "-u") == "1000"


def test_devices_in_a_user_namespace(container):
    c = container(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS).reachable()
    assert c.sh("for d in null zero full random urandom tty; do stat -c '%t:%T' /dev/$d; done").split() == [
        "1:3",
        "1:5",
        "1:7",
        "1:8",
        "1:9",
        "5:0",
    ]


def test_a_user_that_is_not_mapped_is_refused(container):
    c = container(
        namespaces=namespaces(*NAMESPACES, "user"), uidMappings=MAPS, gidMappings=MAPS, user={"uid": 70000, "gid": 0}
    ).reachable()
    assert "70000" in c.refused("true")


# --- mounts


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


def test_a_file_system_that_the_kernel_does_not_know_is_an_error(container):
    error = container(mounts=[{"destination": "/m", "type": "nosuchfs", "source": "x"}]).refused("true")
    assert "nosuchfs" in error
    assert "/m" in error


def test_a_missing_source_of_a_bind_mount_is_named(container):
    error = container(
        mounts=[{"destination": "/m", "type": "bind", "source": "/no/such/source", "options": ["bind"]}]
    ).refused("true")
    assert "/no/such/source" in error
    assert "/m" in error


def test_a_file_is_mounted_on_a_file_that_is_made_for_it(container, tmp_path):
    (tmp_path / "source").write_text("text")
    c = container(
        mounts=[
            {"destination": "/a/b/c", "type": "bind", "source": str(tmp_path / "source"), "options": ["bind", "ro"]}
        ]
    )
    assert c.run("cat", "/a/b/c") == "text"
    assert (c.bundle.rootfs / "a/b/c").read_text() == ""


def test_a_relative_source_is_below_the_bundle(container):
    c = container(mounts=[{"destination": "/m", "type": "bind", "source": "data", "options": ["bind"]}])
    (c.bundle.path / "data").mkdir()
    (c.bundle.path / "data/file").write_text("text")
    assert c.run("cat", "/m/file") == "text"


@pytest.mark.vm
def test_bind_is_of_one_mount_and_rbind_of_all_below(container, tmp_path):
    (tmp_path / "source/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source/sub"], check=True)
    try:
        (tmp_path / "source/sub/file").touch()

        def mount(option):
            return [{"destination": "/m", "type": "bind", "source": str(tmp_path / "source"), "options": [option]}]

        assert container(mounts=mount("rbind")).run("ls", "/m/sub") == "file"
        assert container(mounts=mount("bind")).run("ls", "/m/sub") == ""
    finally:
        subprocess.run(["umount", tmp_path / "source/sub"], check=True)


@pytest.mark.vm
def test_read_only_is_of_one_mount_and_rro_of_all_below(container, tmp_path):
    (tmp_path / "source/sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source/sub"], check=True)
    try:

        def mount(option):
            return [
                {"destination": "/m", "type": "bind", "source": str(tmp_path / "source"), "options": ["rbind", option]}
            ]

        assert "rw" in mount_at(container(mounts=mount("ro")).run("cat", "/proc/self/mountinfo"), "/m/sub")[0]
        assert "ro" in mount_at(container(mounts=mount("rro")).run("cat", "/proc/self/mountinfo"), "/m/sub")[0]
    finally:
        subprocess.run(["umount", tmp_path / "source/sub"], check=True)


def test_mounts_are_made_in_their_order(container, tmp_path):
    (tmp_path / "file").write_text("text")
    mounts = [
        {"destination": "/m", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/m/inner", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/m/inner/file", "type": "bind", "source": str(tmp_path / "file"), "options": ["bind"]},
    ]
    assert container(mounts=mounts).run("cat", "/m/inner/file") == "text"


def test_a_read_only_tmpfs_takes_the_mounts_below_it(container):
    mounts = [
        {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        {"destination": "/m/inner", "type": "tmpfs", "source": "tmpfs"},
    ]
    assert "Read-only" in container(mounts=mounts).sh("touch /m/inner/x; touch /m/x 2>&1; true")


def test_a_tmpfs_keeps_the_mode_of_the_folder_below_it(container):
    c = container(mounts=[{"destination": "/sticky", "type": "tmpfs", "source": "tmpfs"}])
    (c.bundle.rootfs / "sticky").mkdir()
    (c.bundle.rootfs / "sticky").chmod(0o1777)
    assert c.run("stat", "-c", "%a", "/sticky") == "1777"


def test_a_tmpfs_with_what_was_below_it(container):
    c = container(mounts=[{"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}])
    c.file("/data/a/file", "text", 0o644)
    (c.bundle.rootfs / "data/link").symlink_to("a/file")
    os.chown(c.bundle.rootfs / "data/a/file", 7, 8)
    assert c.sh("cat /data/link; stat -c ' %a %u %g' /data/a/file; touch /data/new") == "text 644 7 8"
    assert not (c.bundle.rootfs / "data/new").exists()


def test_a_link_of_the_image_is_followed_inside_the_root(container, tmp_path):
    (tmp_path / "source").mkdir()
    c = container(
        mounts=[{"destination": "/link/m", "type": "bind", "source": str(tmp_path / "source"), "options": ["bind"]}]
    )
    (c.bundle.rootfs / "link").symlink_to(f"/etc/../../../..{tmp_path}/outside")
    assert f"{tmp_path}/outside/m " in c.run("cat", "/proc/self/mountinfo")
    assert not (tmp_path / "outside").exists()


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


def test_mounts_of_the_container_do_not_reach_a_host_that_shares_its_mounts(container, tmp_path):
    """As systemd sets it up: everything is shared."""
    for value in ("", "shared", "slave", "private"):
        c = container(rootfsPropagation=value)
        c._prepare(("true",))
        command = " ".join(c.runtime.command("run", "--bundle", str(c.bundle.path), c.id))
        script = (
            f"cat /proc/self/mountinfo > {tmp_path}/before; {command} && cat /proc/self/mountinfo > {tmp_path}/after"
        )
        process = Running(
            ["unshare", "-m", "--propagation", "shared", "sh", "-c", script],
            str(tmp_path / "x"),
            stdin=-3,
            stdout=-3,
            stderr=-3,
        )
        assert process.end() == 0
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
    process = Running(
        ["unshare", "-m", "--propagation", "shared", "sh", "-c", script],
        str(tmp_path / "x"),
        stdin=-3,
        stdout=-3,
        stderr=-3,
    )
    assert process.end() == 0
    assert (tmp_path / "out").read_text() == "seen\n"


def test_the_host_is_not_in_the_mounts_of_the_container(container):
    c = container()
    places = [line.split()[4] for line in c.run("cat", "/proc/self/mountinfo").splitlines()]
    assert places == ["/", "/proc", "/dev", "/dev/pts", "/sys"]


def test_an_idmapped_mount_is_refused_where_it_is_not_supported_or_maps(container, tmp_path):
    (tmp_path / "source").mkdir()
    os.chown(tmp_path / "source", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 2000, "size": 1}]
    mount = {
        "destination": "/m",
        "type": "bind",
        "source": str(tmp_path / "source"),
        "options": ["bind"],
        "uidMappings": maps,
        "gidMappings": maps,
    }
    c = container(mounts=[mount])
    result = c.attempt("stat", "-c", "%u", "/m")
    assert (result.code, result.out) == (0, "2000\n") or (result.code == 1 and "/m" in result.err), repr(result)


# --- root


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


# --- devices


def test_the_devices_that_every_container_has(container):
    out = container().sh("for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' /dev/$d; done")
    assert out.splitlines() == [
        f"/dev/{name} character special file {number} 666 0:0"
        for name, number in [
            ("null", "1:3"),
            ("zero", "1:5"),
            ("full", "1:7"),
            ("random", "1:8"),
            ("urandom", "1:9"),
            ("tty", "5:0"),
        ]
    ]


def test_the_links_that_every_container_has(container):
    out = container().sh("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done")
    assert out.split() == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]


@pytest.mark.vm
def test_devices_of_the_configuration(container):
    devices = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/deep/er/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/elsewhere", "type": "u", "major": 1, "minor": 5},
    ]
    out = container(devices=devices).sh(
        "for d in dev/mine dev/deep/er/block dev/pipe elsewhere; do stat -c '%F %t:%T %a %u:%g' /$d; done"
    )
    assert out.splitlines() == [
        "character special file 1:3 640 7:8",
        "block special file 7:0 600 0:0",
        "fifo 0:0 622 0:0",
        "character special file 1:5 666 0:0",
    ]


def test_the_callers_umask_does_not_reach_devices_and_mount_points(container):
    def arrange():
        os.umask(0o077)

    c = container(mounts=[{"destination": "/new/m", "type": "tmpfs", "source": "tmpfs"}])
    assert c.sh("stat -c %a /dev/null /new; umask", preexec_fn=arrange).split() == ["666", "755", "0022"]


def test_a_device_in_the_way_of_another_is_refused(container):
    c = container(devices=[{"path": "/thing", "type": "c", "major": 1, "minor": 3}])
    c.file("/thing", "a file")
    assert "/thing" in c.refused("true")
    assert (c.bundle.rootfs / "thing").read_text() == "a file"


# --- paths


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


# --- names and kernel parameters


def test_the_hostname(container):
    assert container(hostname="web.example").run("hostname") == "web.example"


def test_the_domainname(container):
    assert container(domainname="example.org").run("cat", "/proc/sys/kernel/domainname") == "example.org"


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_a_name_without_a_namespace_is_refused(container, name):
    error = container(**{name: "x"}, namespaces=namespaces("mount", "pid")).refused("true")
    assert name in error
    assert "uts" in error.lower()


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/lo/forwarding", "1", "net/ipv4/conf/lo/forwarding"),
        ("kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "11", "fs/mqueue/msg_max"),
        ("kernel.domainname", "example.org", "kernel/domainname"),
    ],
)
def test_kernel_parameters(container, key, value, path):
    c = container(sysctl={key: value}, readonlyPaths=["/proc/sys"])
    assert c.run("cat", f"/proc/sys/{path}") == value


@pytest.mark.parametrize(
    "key",
    ["kernel.panic", "vm.swappiness", "kernel.hostname", "../../etc/x", "net.../../kernel/panic", "net"],
)
def test_parameters_of_the_host_are_refused(container, key):
    """The value is one that the kernel would refuse, too."""
    before = Path("/proc/sys/kernel/panic").read_text()
    error = container(sysctl={key: "pyrunc-test"}).refused("true")
    assert key.replace("/", "~1") in error or key in error  # a JSON pointer
    assert Path("/proc/sys/kernel/panic").read_text() == before


def test_a_parameter_of_a_namespace_that_is_the_hosts_is_refused(container):
    error = container(sysctl={"net.ipv4.ip_forward": "1"}, namespaces=namespaces("mount", "pid", "ipc", "uts")).refused(
        "true"
    )
    assert "net.ipv4.ip_forward" in error


OF_NAMESPACES = {
    "network": ("net", "net.ipv4.ip_default_ttl", "77"),
    "ipc": ("ipc", "kernel.msgmax", "7777"),
    "uts": ("uts", "kernel.domainname", "renamed"),
    "user": ("user", "user.max_inotify_watches", ""),  # of the host: the value that it has
}


@pytest.mark.parametrize("member", ["maskedPaths", "readonlyPaths"])
def test_paths_are_not_protected_in_the_runtimes_own_mount_namespace(container, member):
    c = container(namespaces=namespaces("pid", mount="/proc/self/ns/mnt"), **{member: ["/proc/kcore"]})
    assert f"/linux/{member}: it needs a mount namespace" in c.refused("true")


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


@pytest.mark.parametrize("kind", OF_NAMESPACES)
@pytest.mark.parametrize("link", [False, True])
def test_a_parameter_of_a_namespace_that_is_the_runtimes_is_refused(container, tmp_path, kind, link):
    """By a path of config.json's, which may change its meaning until it is opened."""
    name, key, value = OF_NAMESPACES[kind]
    file = f"/proc/sys/{key.replace('.', '/')}"
    path = f"/proc/self/ns/{name}"
    if link:
        (tmp_path / "link").symlink_to(path)
        path = str(tmp_path / "link")
    c = container(sysctl={key: value or Path(file).read_text().strip()})
    c.change(namespaces=namespaces(*(each for each in NAMESPACES if each != kind), **{kind: path}))
    before = ("unshare", "--net", "--ipc", "--uts", "sh", "-c", f'cat {file}; "$0" "$@"; s=$?; cat {file}; exit $s')
    result = c.attempt("true", wrapper=before)
    assert result.code == 1, repr(result)
    assert f'sysctl "{key}" not allowed in host {kind} namespace; its path' in result.err
    was, is_now = result.out.split()
    assert was == is_now
    c.assert_gone()


@pytest.mark.parametrize("member", ["hostname", "domainname"])
def test_the_runtimes_own_names_are_not_changed(container, member):
    c = container(**{member: "renamed"})
    c.change(namespaces=namespaces(*(each for each in NAMESPACES if each != "uts"), uts="/proc/self/ns/uts"))
    script = f'{member} ours; "$0" "$@"; s=$?; {member}; exit $s'
    result = c.attempt("true", wrapper=("unshare", "--uts", "busybox", "sh", "-c", script))
    assert (result.code, result.out) == (1, "ours\n"), repr(result)
    assert f'{member} "renamed" not allowed in host uts namespace' in result.err
    c.change(**{member: "ours"})  # nothing is to change: engines write the host's name for its own network
    assert c.attempt("true", wrapper=("unshare", "--uts", "busybox", "sh", "-c", script)).code == 0


def test_two_domain_names_are_refused(container):
    error = container(domainname="one", sysctl={"kernel.domainname": "two"}).refused("true")
    assert "/linux/sysctl/kernel.domainname" in error
    c = container(domainname="one", sysctl={"kernel/domainname": "one"})
    assert c.run("cat", "/proc/sys/kernel/domainname") == "one"


# --- process


def test_arguments_are_the_programs(container):
    assert container().run("printf", "[%s]", "a b", "", "ünï", "-x") == "[a b][][ünï][-x]"


def test_the_environment_is_the_configurations_and_home(container):
    c = container(env=["PATH=/bin", "A=1", "B=x=y", "A=2", "E=", "Ü=ö"])
    assert sorted(c.run("env").splitlines()) == ["A=2", "B=x=y", "E=", "HOME=/root", "PATH=/bin", "Ü=ö"]


@pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/home/user"), (1234, "/")])
def test_home_is_that_of_the_images_passwd(container, uid, home):
    assert container(user={"uid": uid, "gid": 0}).sh("echo $HOME") == home


def test_home_of_the_configuration_stays(container):
    assert container(env=["PATH=/bin", "HOME=/mine"]).sh("echo $HOME") == "/mine"


def test_home_of_an_image_without_passwd(container):
    c = container()
    (c.bundle.rootfs / "etc/passwd").unlink()
    assert c.sh("echo $HOME") == "/"


@pytest.mark.parametrize("content", ["", "\x00\xff\n::::::\nroot", "x" * 100000, "root:x:0:0\n"])
def test_a_passwd_that_is_none(container, content):
    assert container().file("/etc/passwd", content).sh("echo $HOME") == "/"


def test_a_passwd_that_is_a_fifo_does_not_hang(container):
    c = container()
    (c.bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(c.bundle.rootfs / "etc/passwd")
    assert c.sh("echo $HOME") == "/"


def test_the_working_directory(container):
    assert container(cwd="/tmp").run("pwd") == "/tmp"


def test_a_missing_working_directory_of_a_read_only_root_is_made_too(container):
    assert container(cwd="/not/there", root={"path": "rootfs", "readonly": True}).run("pwd") == "/not/there"


def test_a_working_directory_that_is_not_there_is_made(container):
    c = container(cwd="/not/there", user={"uid": 1000, "gid": 1000})
    assert c.sh("pwd; stat -c '%a %u' .") == "/not/there\n755 0"


def test_a_working_directory_that_only_the_user_may_enter(container):
    c = container(cwd="/home/user", user={"uid": 1000, "gid": 1000}, capabilities={})
    (c.bundle.rootfs / "home/user").mkdir(parents=True)
    (c.bundle.rootfs / "home/user").chmod(0o700)
    os.chown(c.bundle.rootfs / "home/user", 1000, 1000)
    assert c.run("pwd") == "/home/user"


def test_a_working_directory_that_is_a_file_is_refused(container):
    assert "/etc/passwd" in container(cwd="/etc/passwd").refused("true")


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
    """containerd CVE-2024-40635: what overflows must not become root."""
    assert "uid" in container(user={"uid": uid, "gid": 0}).refused("id")


def test_groups_of_the_caller_are_not_the_containers(container):
    assert status_of(container(), "Groups")[0].split() == []


def limits_of(text):
    return {m[1]: (m[2], m[3]) for m in re.finditer(r"^(Max [a-z ]+?)\s{2,}(\S+)\s+(\S+)", text, re.MULTILINE)}


def test_resource_limits(container):
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CPU", "soft": 1000, "hard": 2000},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 20, "hard": 1 << 21},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21},
        {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
        {"type": "RLIMIT_AS", "soft": 1 << 30, "hard": 1 << 31},
        {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192},
    ]
    found = limits_of(container(rlimits=limits).run("cat", "/proc/self/limits"))
    assert found["Max open files"] == ("100", "200")
    assert found["Max core file size"] == ("0", "0")
    assert found["Max cpu time"] == ("1000", "2000")
    assert found["Max file size"] == ("1048576", "2097152")
    assert found["Max stack size"] == ("1048576", "2097152")
    assert found["Max processes"] == ("500", "600")
    assert found["Max address space"] == (str(1 << 30), str(1 << 31))
    assert found["Max locked memory"] == ("4096", "8192")


def test_limits_that_are_not_named_are_the_callers(container):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits_of(container().run("cat", "/proc/self/limits"))["Max open files"] == (str(soft), str(hard))


def test_a_limit_that_is_named_twice_is_refused(container):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}] * 2
    assert "RLIMIT_NOFILE" in container(rlimits=limits).refused("true")


def test_a_soft_limit_above_the_hard_one_is_refused(container):
    error = container(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]).refused("true")
    assert "/process/rlimits/0/soft" in error


def test_a_limit_on_everything_does_not_stop_the_runtime(container):
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0},
    ]
    c = container(rlimits=limits)
    assert c.attempt("true").code == 0


def test_the_oom_score(container):
    assert container(oomScoreAdj=345).run("cat", "/proc/self/oom_score_adj") == "345"
    assert container().run("cat", "/proc/self/oom_score_adj") == Path("/proc/self/oom_score_adj").read_text().strip()


SETS = {
    "CapBnd": "bounding",
    "CapEff": "effective",
    "CapPrm": "permitted",
    "CapInh": "inheritable",
    "CapAmb": "ambient",
}


def capabilities_of(c):
    return dict(zip(SETS, (int(text, 16) for text in status_of(c, *SETS)), strict=True))


def test_each_of_the_five_sets(container):
    c = container(
        user={"uid": 1000, "gid": 1000},
        capabilities={
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL", "CAP_SETUID"],
            "ambient": ["CAP_KILL"],
        },
    )
    # For another user than root execve leaves what is ambient (capabilities(7)).
    assert capabilities_of(c) == {
        "CapBnd": 1 << 0 | 1 << 5 | 1 << 13 | 1 << 7,
        "CapEff": 1 << 5,
        "CapPrm": 1 << 5,
        "CapInh": 1 << 5 | 1 << 7,
        "CapAmb": 1 << 5,
    }


def test_root_has_what_the_bounding_set_lets_it(container):
    assert capabilities_of(container(capabilities=full("CAP_CHOWN"))) == {
        "CapBnd": 1,
        "CapEff": 1,
        "CapPrm": 1,
        "CapInh": 0,
        "CapAmb": 0,
    }


def test_without_capabilities_there_are_none(container):
    c = container()
    del c.config["process"]["capabilities"]
    assert set(capabilities_of(c).values()) == {0}


def test_an_unknown_capability_is_a_warning(container):
    c = container(capabilities=full("CAP_CHOWN", "CAP_NO_SUCH"))
    assert capabilities_of(c)["CapBnd"] == 1
    assert "CAP_NO_SUCH" in c.last.err
    assert c.last.err.count("CAP_NO_SUCH") == 1


def test_a_capability_that_the_runtime_does_not_have_is_a_warning(container):
    ours = int(re.search(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
    if ours >> 24 & 1:
        pytest.skip("this host grants CAP_SYS_RESOURCE")
    c = container(capabilities=full("CAP_CHOWN", "CAP_SYS_RESOURCE"))
    assert capabilities_of(c)["CapBnd"] == 1
    assert "CAP_SYS_RESOURCE" in c.last.err


@pytest.mark.parametrize(("value", "expected"), [(True, "1"), (False, "0")])
def test_no_new_privileges(container, value, expected):
    assert status_of(container(noNewPrivileges=value), "NoNewPrivs") == [expected]


def test_the_personality(container):
    assert "personality 8" in container(personality={"domain": "LINUX32"}).run("probe", "attributes")


def test_the_scheduler_and_the_io_priority(container):
    c = container(
        scheduler={"policy": "SCHED_BATCH", "nice": 5}, ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3}
    )
    out = c.run("probe", "attributes").splitlines()
    assert {"scheduler 3", "nice 5", f"ioprio {2 << 13 | 3}"} <= set(out)


def test_the_session_keyring_is_its_own(container):
    c = container()
    assert c.run("probe", "keyring").endswith(f";_ses.{c.id}")


def test_the_session_keyring_is_the_callers_when_asked(container):
    c = container()
    assert not c.run("probe", "keyring", flags=("--no-new-keyring",)).endswith(c.id)


def test_the_first_process_leads_a_session(container):
    assert "ids 1 1 1" in container().run("probe", "attributes")


def test_signals_have_their_default_actions(container):
    assert status_of(container(), "SigBlk", "SigIgn") == ["0000000000000000"] * 2


def test_signals_that_the_caller_ignores_are_not_ignored_in_the_container(container):
    def arrange():
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    assert status_of(container(), "SigBlk", "SigIgn", preexec_fn=arrange) == ["0000000000000000"] * 2


def test_the_program_outlives_the_runtime(container):
    assert "pdeathsig 0" in container().run("probe", "attributes")


def test_the_streams_are_the_users(container):
    assert container(user={"uid": 1000, "gid": 1000}).sh("echo fine > /dev/stdout; cat /dev/stdin") == "fine"


def test_a_program_is_found_with_the_containers_path(container):
    c = container(env=["PATH=/nothing:/opt/here:/bin"])
    (c.bundle.rootfs / "opt/here").mkdir(parents=True)
    c.file("/opt/here/mine", "#!/bin/sh\necho $0\n", 0o755)
    assert c.run("mine") == "/opt/here/mine"


def test_a_script_runs_by_its_first_line(container):
    assert container().file("/script", "#!/bin/sh\necho $0 $1\n", 0o755).run("/script", "x") == "/script x"


def test_busybox_is_what_it_was(container):
    c = container()
    c.run("true")
    assert (c.bundle.rootfs / "bin/busybox").read_bytes() == Path(BUSYBOX).read_bytes()

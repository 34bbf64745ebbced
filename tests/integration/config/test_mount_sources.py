"""What is mounted, on what, and in which order. config.md#mounts"""

import os
import subprocess

from integration.support.host import mount_at


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

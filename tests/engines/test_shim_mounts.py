"""The root file system: mounts as containerd's snapshotters ask for them, and what an image must not do with them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.shim import Failed, wait_until


def mounted(host, place):
    """The fields of mountinfo of all that is mounted at or below a place."""
    text = host.run("cat", "/proc/self/mountinfo", capture_output=True).stdout.decode()
    return [line.split() for line in text.splitlines() if line.split()[4].startswith(str(place))]


def backing_files():
    """Of the loop devices of this machine."""
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


def run(c, *mounts):
    """The container from create to delete; what it wrote."""
    path = c.fifo("stdout")
    reader = c.open(path)
    c.call("Create", bundle=str(c.bundle), stdout=path, rootfs=[*mounts])
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    return os.read(reader, 1000).decode().strip()


@pytest.fixture
def image(host):
    """A root file system that a test may write to."""
    shutil.rmtree(host.folder / "image", ignore_errors=True)
    return Path(shutil.copytree(host.rootfs, host.folder / "image", symlinks=True))


def bind(source, *options):
    return {"type": "bind", "source": str(source), "options": ["rbind", *options]}


# --- links of an image


def test_a_link_of_the_image_does_not_lead_out(container, host, image):
    """The kernel would follow it on the host: what is mounted there would cover a folder of the host's."""
    outside = host.folder / "outside"
    outside.mkdir(exist_ok=True)
    (image / "in").symlink_to(outside)
    c = container("/bin/ls", f"{outside}").start_shim()
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "target": "/in", "options": []}
    with pytest.raises(Failed, match="no such file"):
        c.call("Create", bundle=str(c.bundle), rootfs=[bind(image), tmpfs])
    assert not mounted(host, outside)
    assert not mounted(host, c.bundle)
    (image / f"{outside}"[1:]).mkdir(parents=True)
    (image / f"{outside}"[1:] / "covered").touch()
    assert run(c, bind(image), tmpfs) == ""
    assert not mounted(host, outside)
    assert not mounted(host, c.bundle)


@pytest.mark.parametrize("target", ["../../outside", "in/../../..", "link/../.."])
def test_no_target_is_outside_of_the_root(container, host, image, target):
    (image / "in").mkdir()
    (image / "link").symlink_to("in")
    c = container("/bin/true").start_shim()
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "target": target, "options": []}
    try:
        c.call("Create", bundle=str(c.bundle), rootfs=[bind(image), tmpfs])
    except Failed as error:
        assert "no such file" in str(error)
    assert not [line for line in mounted(host, host.folder) if not line[4].startswith(f"{c.bundle}/rootfs")]


def test_a_target_needs_something_that_it_is_in(container):
    c = container("/bin/true").start_shim()
    (c.bundle / "rootfs/in").mkdir()
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "target": "in", "options": []}
    with pytest.raises(Failed, match="nothing is mounted that it could be in"):
        c.call("Create", bundle=str(c.bundle), rootfs=[tmpfs])


# --- loop devices


def make_ext4(host, path, *options):
    subprocess.run(["mkfs.ext4", "-q", "-d", host.rootfs, path, "12M"], check=True)
    return {"type": "ext4", "source": str(path), "options": ["loop", *options]}


def make_erofs(host, path, *options):
    subprocess.run(["mkfs.erofs", "--quiet", path, host.rootfs], check=True)
    return {"type": "erofs", "source": str(path), "options": ["ro", "loop", *options]}


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (make_ext4, [], "written"),
        (make_ext4, ["ro"], "Read-only file system"),
        (make_ext4, ["direct-io"], "written"),
        (make_erofs, [], "Read-only file system"),
    ],
)
def test_a_file_that_is_a_disk(container, host, tmp_path, make, options, expected):
    """As the snapshotters blockfile and erofs have it. The device is detached when the container is deleted."""
    if make is make_erofs and not (shutil.which("mkfs.erofs") and "erofs" in Path("/proc/filesystems").read_text()):
        pytest.skip("no erofs here")
    file = host.folder / f"disk{container('/bin/true').id}"
    mount = make(host, file, *options)
    c = container("/bin/sh", "-c", "(echo written > /tmp/file) 2>&1; cat /tmp/file").start_shim()
    path = c.fifo("stdout")
    reader = c.open(path)
    c.call("Create", bundle=str(c.bundle), stdout=path, rootfs=[mount])
    assert str(file) in backing_files()
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    assert expected in os.read(reader, 1000).decode()
    wait_until(lambda: str(file) not in backing_files())
    assert not mounted(host, c.bundle)


def test_a_disk_of_a_shim_that_was_killed(container, host):
    file = host.folder / "disk-killed"
    c = container("/bin/sleep", "100").start_shim()
    c.call("Create", bundle=str(c.bundle), rootfs=[make_ext4(host, file)])
    c.kill_shim()
    assert c.command("delete").returncode == 0
    wait_until(lambda: str(file) not in backing_files())


@pytest.mark.parametrize("broken", ["no disk", "no file", "a folder in it that is not there"])
def test_a_disk_that_can_not_be_mounted_leaves_no_device(container, host, broken):
    file = host.folder / f"disk-{broken[:4]}"
    mounts = [{"type": "ext4", "source": str(file), "options": ["loop"]}]
    if broken == "no disk":
        file.write_bytes(b"\0" * (1 << 20))
    if broken.startswith("a folder"):
        mounts = [make_ext4(host, file), {"type": "tmpfs", "source": "t", "target": "none", "options": []}]
    c = container("/bin/true").start_shim()
    with pytest.raises(Failed, match=f"mounting the root file system .*({file}|tmpfs)"):
        c.call("Create", bundle=str(c.bundle), rootfs=mounts)
    wait_until(lambda: str(file) not in backing_files())
    assert not mounted(host, c.bundle)


def test_many_disks_at_once(container, host):
    """Two may be given the same free device: the one that is too late asks again."""
    made = [container("/bin/true").start_shim() for _ in range(4)]
    files = [host.folder / f"disk-many{number}" for number in range(4)]
    mounts = [make_ext4(host, file) for file in files]
    calls = [
        c.client.send("Create", id=c.id, bundle=str(c.bundle), rootfs=[mount])
        for c, mount in zip(made, mounts, strict=True)
    ]
    for c, call in zip(made, calls, strict=True):
        c.client.receive(call)
    assert {str(file) for file in files} <= {*backing_files()}
    for c in made:
        c.call("Delete")
    wait_until(lambda: not {str(file) for file in files} & {*backing_files()})


# --- programs that are file systems


@pytest.mark.parametrize("family", ["fuse", "fuse3"])
def test_a_root_that_a_program_serves(container, host, family):
    if not (shutil.which(f"mount.{family}") and shutil.which("fuse-overlayfs")):
        pytest.skip("no fuse-overlayfs here")
    c = container("/bin/sh", "-c", "echo written > /tmp/file; cat /tmp/file; cat /proc/mounts | head -1").start_shim()
    for name in ("upper", "work"):
        (c.bundle / name).mkdir()
    options = [f"lowerdir={host.rootfs}", f"upperdir={c.bundle}/upper", f"workdir={c.bundle}/work"]
    said = run(c, {"type": f"{family}.fuse-overlayfs", "source": "overlay", "options": [*options, "rprivate"]})
    assert said.splitlines()[0] == "written"
    assert "fuse.fuse-overlayfs" in said
    assert (c.bundle / "upper/tmp/file").read_text() == "written\n"
    assert not mounted(host, c.bundle)
    wait_until(lambda: not serving(c.bundle))


def serving(bundle):
    """Programs with a bundle in their command line; a shim has it not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if str(bundle / "upper").encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def test_a_program_that_is_not_there_is_named(container, host):
    c = container("/bin/true").start_shim()
    if not shutil.which("mount.fuse3"):
        pytest.skip("no mount.fuse3 here")
    with pytest.raises(Failed, match="nonesuch"):
        c.call("Create", bundle=str(c.bundle), rootfs=[{"type": "fuse3.nonesuch", "source": "x", "options": []}])
    assert not mounted(host, c.bundle)


# --- options


@pytest.mark.parametrize(
    ("option", "expected"), [("rshared", "shared:"), ("rprivate", ""), ("runbindable", "unbindable")]
)
@pytest.mark.parametrize("kind", ["bind", "overlay"])
def test_propagation_of_the_root(container, host, option, expected, kind):
    c = container("/bin/true").start_shim()
    (c.bundle / "empty").mkdir()
    mount = bind(host.rootfs, option)
    if kind == "overlay":
        layers = f"lowerdir={c.bundle}/empty:{host.rootfs}"
        mount = {"type": "overlay", "source": "overlay", "options": [layers, option]}
    c.call("Create", bundle=str(c.bundle), rootfs=[mount])
    fields = mounted(host, c.bundle / "rootfs")[0]
    optional = fields[6 : fields.index("-")]
    assert [word for word in optional if not word.startswith(expected)] == [] if expected else optional == []
    c.call("Delete")


def test_flags_of_a_bind_are_set_before_anybody_sees_it(container, host):
    c = container("/bin/true").start_shim()
    c.call("Create", bundle=str(c.bundle), rootfs=[bind(host.rootfs, "ro", "nosuid", "", "nodev")])
    assert {"ro", "nosuid", "nodev"} <= set(mounted(host, c.bundle / "rootfs")[0][5].split(","))
    c.call("Delete")


def test_what_containerd_keeps_for_itself_is_refused(container, host):
    c = container("/bin/true").start_shim()
    with pytest.raises(Failed, match=r"X-containerd\.mkdir.*for containerd itself"):
        c.call("Create", bundle=str(c.bundle), rootfs=[bind(host.rootfs, "X-containerd.mkdir.path=/x")])


def test_layers_that_no_mount_takes_are_an_error(container, host):
    """mount(2) leaves out what is beyond its page: the image would lack some of its layers."""
    layers = ":".join(f"/{number:0>100}" for number in range(60))
    c = container("/bin/true").start_shim()
    overlay = {"type": "overlay", "source": "overlay", "options": [f"lowerdir={layers}"]}
    with pytest.raises(Failed, match=r"the options have \d+ bytes"):
        c.call("Create", bundle=str(c.bundle), rootfs=[overlay])

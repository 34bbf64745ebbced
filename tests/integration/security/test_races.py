"""A container that swaps what another one is being made of: a hundred tries each, and the host never changes.
PYRUNC_FULL=1: 2,000."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.support.attacks import bound, without_mounts
from integration.support.bundle import full, namespaces
from integration.support.container import MARK
from integration.support.host import host_mounts, unchanged
from integration.support.runtime import wait_until
from sizes import size

TRIES = size(2000, 100)
PROC_SUPER_MAGIC = 0x9FA0
HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # 2 s each where nothing else runs, 16 s in full


def race(container, *names, look=()):
    """Make the container TRIES times while names are exchanged, pair by pair. What became of it: see library_loop.py"""
    container.bundle.write()
    racer = subprocess.Popen([sys.executable, HERE / "racer.py", *names])
    try:
        words = (container.runtime.root, container.bundle.path, TRIES, f"{MARK}-race", *look)
        told = library_loop(*words)
    finally:
        racer.kill()
        racer.wait()
    assert sum(told["outcomes"].values()) == TRIES
    return told


def library_loop(*words):
    loop = [sys.executable, HERE / "library_loop.py", *map(str, words)]
    result = subprocess.run(loop, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL, cwd="/")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def places(told, kind):
    """Where file systems of a kind were mounted."""
    return {mount.split()[0] for mount in told["mounts"] if mount.split()[1] == kind}


@pytest.fixture
def canary(tmp_path):
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "file").write_text("the host's")
    (folder / "sys/net/ipv4").mkdir(parents=True)
    (folder / "sys/net/ipv4/ip_forward").write_text("0")
    (folder / "keys").write_text("0")
    return folder


@pytest.fixture(autouse=True)
def untouched(canary):
    before = host_mounts()
    with unchanged(canary):
        yield
    assert host_mounts() == before


@pytest.fixture
def volume(tmp_path, canary):
    """A folder that two containers share, with a directory and a link to the host's in it, both called by turns."""
    folder = tmp_path / "volume"
    (folder / "a").mkdir(parents=True)
    (folder / "b").symlink_to("../" * 40 + str(canary).lstrip("/"))
    return folder


def shared(container, volume, *mounts):
    container.config["mounts"] += [
        {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind"]},
        *mounts,
    ]
    container.config["process"]["args"] = ["/bin/true"]
    return container


TMPFS = {"type": "tmpfs", "source": "tmpfs", "options": []}


def test_cve_2021_30465_a_mount_point_that_becomes_a_link(container, volume, canary):
    """... and what is copied up to it, and what is mounted in it again."""
    copied = {"destination": "/volume/a", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    c = shared(container(), volume, copied, {"destination": "/volume/a/b", **TMPFS})
    inside = str(canary).replace("/canary", "/")
    told = race(c, volume / "a", volume / "b", look=("/volume/a/file", "/volume/b/file"))
    for place in places(told, "tmpfs"):
        assert place.startswith(("/volume/", "/dev", inside)), place
    assert set(told["found"]["/volume/a/file"]) | set(told["found"]["/volume/b/file"]) == {"no such file or directory"}


def test_cve_2024_45310_what_is_made_behind_a_link(container, volume):
    """A mount point, a device and the working directory."""
    mounts = ({"destination": "/volume/a/made/deep", **TMPFS}, bound("/dev/null", "/volume/a/file"))
    c = shared(container(cwd="/volume/a/here/too"), volume, *mounts)
    c.config["linux"]["devices"] = [{"path": "/volume/a/device", "type": "c", "major": 1, "minor": 3}]
    race(c, volume / "a", volume / "b")


def test_cve_2025_31133_a_null_device_that_becomes_a_link(container, tmp_path, canary):
    """What files are masked with is /dev/null of a folder that another container writes to."""
    dev = tmp_path / "dev"
    dev.mkdir()
    subprocess.run(["mknod", "-m", "666", dev / "null", "c", "1", "3"], check=True)
    (dev / "b").symlink_to(canary / "file")
    c = without_mounts(container(maskedPaths=["/etc/secret"]), "/dev", "/dev/pts").file("/etc/secret", "hidden")
    c.change(mounts=[{"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]}])
    told = race(c, dev / "null", dev / "b", look=("/etc/secret",))
    assert told["outcomes"]["failed"], "the link was never met: this run has tried nothing"
    assert {kind[:9] for kind in told["found"]["/etc/secret"]} == {"20000 1:3"}


def test_youki_ghsa_3q8j_a_read_only_path_that_becomes_a_link(container, volume, canary):
    c = shared(container(readonlyPaths=["/volume/a"], maskedPaths=["/volume/a/file"]), volume)
    race(c, volume / "a", volume / "b")
    (canary / "writable").write_text("still")
    (canary / "writable").unlink()


def test_cve_2019_19921_cve_2023_27561_the_place_of_procfs_becomes_a_link(container, canary):
    """In a root that is shared. Procfs lies where it was asked for, or nowhere; what is masked and made read-only is
    that of procfs; and no parameter is written to anything else."""
    c = container(maskedPaths=["/proc/keys"], readonlyPaths=["/proc/sys"], sysctl={"net.ipv4.ip_forward": "1"})
    root = c.bundle.rootfs
    shutil.copytree(canary, root / "fake")
    (root / "b").symlink_to("/fake")
    with unchanged(root / "fake"):
        told = race(c, root / "proc", root / "b", look=("/proc/keys", "/b/keys", "/proc/sys", "/b/sys"))
    assert told["outcomes"]["failed"]
    assert told["outcomes"]["made"]
    assert {place for place in places(told, "proc") if place.count("/") == 1} <= {"/proc", "/b"}
    for place, kinds in told["found"].items():
        assert not [kind for kind in kinds if kind.endswith(f"on {PROC_SUPER_MAGIC:x} rw")], (place, kinds)


def test_cve_2025_52565_a_console_and_terminals_that_become_links(container, tmp_path, canary):
    """Two containers share the /dev."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "console").touch()
    (dev / "b").symlink_to("../" * 40 + str(canary / "file").lstrip("/"))
    (dev / "c").symlink_to("../" * 40 + str(canary).lstrip("/"))
    c = without_mounts(container(terminal=True), "/dev", "/dev/pts")
    devpts = {"type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}
    c.change(
        mounts=[
            {"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]},
            {"destination": "/dev/pts", **devpts},
        ]
    )
    told = race(c, dev / "console", dev / "b", dev / "pts", dev / "c")
    assert told["outcomes"]["failed"], "the link was never met: this run has tried nothing"
    assert told["outcomes"]["made"]
    consoles = {mount.split()[0] for mount in told["mounts"] if mount.split()[1:] == ["devpts", "/0"]}
    assert consoles <= {"/dev/console", "/dev/b"}


def test_cve_2025_52881_a_procfs_that_is_covered_while_processes_enter(container):
    """The container is root with the right to mount: its /proc is by turns a folder of plain files."""
    c = container(capabilities=full("CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"), namespaces=namespaces("mount", "pid"))
    fake = c.bundle.rootfs / "fake"
    for name in ("self", "thread-self"):
        (fake / name / "attr/apparmor").mkdir(parents=True)
        (fake / name / "fd").mkdir()
        for file in ("attr/exec", "attr/current", "attr/apparmor/exec", "oom_score_adj", "timens_offsets", "setgroups"):
            (fake / name / file).write_text("untouched")
        for number in range(3, 30):
            (fake / name / "fd" / str(number)).symlink_to("/fake/self/oom_score_adj")
    c.up("sh", "-c", "probe cover /fake /proc > /tmp/out")
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), "the attack")
    what = {
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "oomScoreAdj": 500,
        "apparmorProfile": "unconfined",
    }
    with unchanged(fake):
        outcomes = library_loop(c.runtime.root, c.id, TRIES, json.dumps(what))
        (c.bundle.rootfs / "tmp/stop").touch()
        c.wait_for("stopped")
    assert outcomes == {"status 0": TRIES}
    assert int(out.read_text().split()[-1]) > TRIES / 10, "the attack was too slow to count"

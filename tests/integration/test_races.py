"""A container that swaps what another one is being made of: thousands of tries each, and the host never changes."""

import subprocess
import sys
from pathlib import Path

import pytest

from integration.harness import MARK, host_mounts, unchanged

pytestmark = pytest.mark.slow
TRIES = 2000
HERE = Path(__file__).parent


def race(container, one, other, seconds=110):
    """Make the container TRIES times while two names are exchanged. How many were made, and how many failed."""
    container.bundle.write()
    racer = subprocess.Popen([sys.executable, HERE / "racer.py", one, other])
    try:
        loop = [
            sys.executable,
            HERE / "library_loop.py",
            container.runtime.root,
            container.bundle.path,
            str(TRIES),
            f"{MARK}-race",
        ]
        result = subprocess.run(
            loop, capture_output=True, text=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL,
            cwd=container.bundle.path,
        )  # fmt: skip
    finally:
        racer.kill()
        racer.wait()
    made, failed = map(int, result.stdout.split())
    assert made + failed == TRIES
    return made, failed


@pytest.fixture
def canary(tmp_path):
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "file").write_text("the host's")
    return folder


@pytest.fixture
def volume(tmp_path, canary):
    """A folder that two containers share, with a directory and a link to the host's in it, both called by turns."""
    folder = tmp_path / "volume"
    (folder / "a").mkdir(parents=True)
    (folder / "b").symlink_to(canary)
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
    c = shared(container(), volume, {"destination": "/volume/a", **TMPFS})
    before = host_mounts()
    with unchanged(canary):
        race(c, volume / "a", volume / "b")
    assert host_mounts() == before


def test_cve_2024_45310_a_missing_mount_point_behind_a_link(container, volume, canary):
    c = shared(container(), volume, {"destination": "/volume/a/made/deep", **TMPFS})
    before = host_mounts()
    with unchanged(canary):
        race(c, volume / "a", volume / "b")
    assert host_mounts() == before


def test_cve_2025_31133_a_null_device_that_becomes_a_link(container, tmp_path, canary):
    """What files are masked with is /dev/null of a folder that another container writes to."""
    dev = tmp_path / "dev"
    dev.mkdir()
    subprocess.run(["mknod", "-m", "666", dev / "null", "c", "1", "3"], check=True)
    (dev / "b").symlink_to(canary / "file")
    c = container()
    c.config["mounts"] = [m for m in c.config["mounts"] if not m["destination"].startswith("/dev")]
    c.config["mounts"].append({"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]})
    c.config["process"]["args"] = ["/bin/true"]
    c.config["linux"]["maskedPaths"] = ["/etc/secret"]
    c.file("etc/secret", "hidden")
    with unchanged(canary):
        _, failed = race(c, dev / "null", dev / "b")
    assert failed, "the link was never met: this run has tried nothing"


def test_youki_ghsa_3q8j_a_read_only_path_that_becomes_a_link(container, volume, canary):
    c = shared(container(), volume)
    c.config["linux"]["readonlyPaths"] = ["/volume/a"]
    before = host_mounts()
    with unchanged(canary):
        race(c, volume / "a", volume / "b")
    assert host_mounts() == before
    (canary / "writable").write_text("still")

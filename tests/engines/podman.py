"""Podman with state of its own, in namespaces where nobody else sees its mounts, networks and files."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from engines import criu, image, processes

PROGRAM = shutil.which("podman")
# Its cgroups are made beside the hierarchies too, in plain folders, which could not be removed again: they get a place
SETUP = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 engine {root}
mkdir {root}/cgroup {root}/tmp
mount -t tmpfs -o mode=755 cgroup {root}/cgroup
for place in /sys/fs/cgroup/*; do
    if test -L $place; then
        cp -P $place {root}/cgroup/
    elif mountpoint -q $place; then
        mkdir {root}/cgroup/${{place##*/}}
        mount --bind $place {root}/cgroup/${{place##*/}}
    fi
done
test -e /sys/fs/cgroup/cgroup.controllers || mount --move {root}/cgroup /sys/fs/cgroup
ip link set lo up
exec sleep infinity
"""
CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "{pause}"
"""


class Podman:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
        self.root = self.folder / "root"
        self.root.mkdir()
        (self.folder / "containers.conf").write_text(CONFIG.format(pause=image.PAUSE))
        (self.folder / "setup").write_text(SETUP.format(root=self.root))
        settings = {
            "CONTAINERS_CONF": f"{self.folder}/containers.conf",
            "TMPDIR": f"{self.root}/tmp",
            "PATH": criu.path(os.environ["PATH"]),
        }
        self.environment = {**os.environ, **settings}

    def __enter__(self) -> "Podman":
        self.cgroups = cgroups()
        self.keeper = subprocess.Popen(
            ["unshare", "-m", "-n", "--uts", "sh", "-e", self.folder / "setup"], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while Path(f"/proc/{self.keeper.pid}/comm").read_text() != "sleep\n":
            assert self.keeper.poll() is None, "the namespaces for podman"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for name, command in ((image.NAME, ("/bin/sh",)), (image.PAUSE, ("/bin/sleep", "100000"))):
            self("load", "--input", image.make(self.folder / "image.tar", name, command))
        return self

    def inside(self) -> "tuple[str, ...]":
        return ("nsenter", "-t", str(self.keeper.pid), "-m", "-n", "--uts", "--")

    def buildah(self, *words: object, check: bool = False) -> "subprocess.CompletedProcess[bytes]":
        """On the same images. The runtime is an option of its `run`."""
        places = ["--root", f"{self.root}/storage", "--runroot", "/run/storage"]
        command = [*self.inside(), "buildah", *places, *map(str, words)]
        done = processes.captured(command, b"", 60, self.environment)
        if check and done.returncode:
            raise RuntimeError(f"buildah {words}: {done.stderr.decode()}")
        return done

    def words(self, *words: object, runtime: str = "runc") -> list[str]:
        places = ["--root", f"{self.root}/storage", "--runroot", "/run/storage", "--tmpdir", "/run/libpod"]
        places += ["--volumepath", f"{self.root}/volumes", "--network-config-dir", f"{self.root}/networks"]
        return ["podman", *places, "--runtime", runtime, *map(str, words)]

    def __call__(
        self, *words: object, runtime: str = "runc", check: bool = True, stdin: bytes = b"", timeout: float = 60
    ) -> "subprocess.CompletedProcess[bytes]":
        command = [*self.inside(), *self.words(*words, runtime=runtime)]
        done = processes.captured(command, stdin, timeout, self.environment)
        if check and done.returncode:
            raise RuntimeError(f"podman {words}: {done.stderr.decode()}")
        return done

    def __exit__(self, *_: object) -> None:
        self("pod", "rm", "-f", "-a", "-t", "0", check=False)
        self("rm", "-f", "-a", "-t", "0", check=False)
        self.keeper.kill()
        self.keeper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in sorted(cgroups() - self.cgroups, reverse=True):  # what is below another comes first
            for each in (*folder.glob("*/"), folder):
                try:
                    each.rmdir()
                except OSError:
                    pass  # no folder, or another Podman's too


def cgroups() -> "set[Path]":
    """Those of pods: with v2 beside v1 Podman removes all but v2's."""
    base = Path("/sys/fs/cgroup")
    return {*base.glob("*/libpod_parent"), *base.glob("*/libpod_parent/*/"), *base.glob("libpod_parent/*/")}

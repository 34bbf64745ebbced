"""A dockerd of its own, as containerd.py has a containerd. Docker 23 and later run a shim of the user's."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from engines import image, processes

# the folders of its programs, where they are not the installed ones: dockerd, docker, containerd
PROGRAMS = os.environ.get("PYRUNC_DOCKER", "")
PATH = f"{PROGRAMS}:{os.environ['PATH']}:/usr/sbin" if PROGRAMS else f"{os.environ['PATH']}:/usr/sbin"
PROGRAM = shutil.which("dockerd", path=PATH)
# /etc/docker and /opt get a key and a folder from some versions; a network namespace has its bridge and its rules
SETUP = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 engine {root}
mount -t tmpfs -o mode=755 opt /opt
test ! -d /etc/docker || mount -t tmpfs -o mode=755 etc /etc/docker
ip link set lo up
exec {program} --config-file {config} --data-root {root}/data --exec-root /run/docker --pidfile /run/docker.pid \
    --host unix:///run/docker.sock --cgroup-parent /{parent} {bridge}
"""
BRIDGE = shutil.which("iptables", path=PATH) is not None
NO_BRIDGE = "--bridge none --iptables=false --ip6tables=false"


def version() -> int:
    if PROGRAM is None:
        return 0
    text = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=30).stdout
    return int(text.removeprefix("Docker version ").partition(".")[0])


class Docker:
    def __init__(self, shim: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
        self.parent = f"pyrunc-docker-{os.getpid()}"
        root = self.folder / "root"
        root.mkdir()
        config = self.folder / "daemon.json"
        runtimes = {"pyrunc-path": {"path": str(shim.parent / "pyrunc")}}
        settings: dict[str, object] = {"runtimes": runtimes, "features": {"containerd-snapshotter": False}}
        if version() >= 23:
            runtimes["pyrunc"] = {"runtimeType": str(shim)}
        else:
            settings["deprecated-key-path"] = f"{root}/key.json"
        config.write_text(json.dumps(settings))
        self.setup = self.folder / "setup"
        values = {"root": root, "program": PROGRAM, "config": config, "parent": self.parent}
        self.setup.write_text(SETUP.format(bridge="" if BRIDGE else NO_BRIDGE, **values))
        self.log = self.folder / "log"
        self.environment = {**os.environ, "PATH": PATH}

    def __enter__(self) -> "Docker":
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "-n", "--uts", "sh", "-e", str(self.setup)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while self("version", check=False).returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"dockerd does not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.1)
        self("load", "--input", image.make(self.folder / "image.tar"))
        return self

    def __call__(
        self, *words: object, check: bool = True, stdin: bytes = b"", timeout: float = 60
    ) -> "subprocess.CompletedProcess[bytes]":
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "--uts", "--"]
        command = [*inside, "docker", "--host", "unix:///run/docker.sock", *map(str, words)]
        done = processes.captured(command, stdin, timeout, self.environment)
        if check and done.returncode:
            raise RuntimeError(f"docker {words}: {done.stderr.decode()}\n{self.log.read_text()[-2000:]}")
        return done

    def __exit__(self, *_: object) -> None:
        for id in self("ps", "-aq", check=False).stdout.decode().split():
            self("rm", "-f", id, check=False)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in Path("/sys/fs/cgroup").glob(f"*/{self.parent}"):
            folder.rmdir()

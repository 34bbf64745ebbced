"""A node of a Kubernetes cluster, as far as the installer's image meets one: containerd with CRI, and its host's root.

The root is a copy of this host's that only the node sees: what is written to it stays in memory. It has processes of
its own, so that PID 1 is the node's. What stands in is systemd: PID 1 starts containerd, and `systemctl` asks it to.
"""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from engines import containerd, cri, image, processes

SETUP = """
mount -t tmpfs -o mode=755 node {root}
mkdir {root}/upper {root}/work {root}/node
mount -t overlay -o lowerdir=/,upperdir={root}/upper,workdir={root}/work overlay {root}/node
cd {root}/node
rm -rf etc/containerd opt/pyrunc
mkdir -p etc/containerd opt var/lib/containerd
mount -t proc proc proc
for name in sys dev; do mount --rbind /$name $name; done
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 state var/lib/containerd
rm -f usr/bin/systemctl
cp {folder}/systemctl usr/bin/systemctl
test ! -e {folder}/config.toml || cp {folder}/config.toml etc/containerd/config.toml
mkdir run/old
pivot_root . run/old
umount -l /run/old
ip link set lo up
mkfifo /run/asked /run/answered
start() {{
    containerd >>/run/containerd.log 2>&1 &
    pid=$!
    until ctr version >/dev/null 2>&1; do
        kill -0 $pid 2>/dev/null || return 1
        sleep 0.05
    done
}}
start && echo 0 >/run/up
while :; do
    read word </run/asked
    kill $pid 2>/dev/null
    wait $pid || :
    start && status=0 || status=$?
    echo $word >>/run/restarts
    echo $status >/run/answered
done
"""
SYSTEMCTL = """#!/bin/sh -e
[ "$*" = "restart containerd" ]
echo restart >/run/asked
read status </run/answered
exit "$status"
"""


class Node:
    def __init__(self, config: str | None) -> None:
        """`config`: of containerd; None where it has no file."""
        self.folder = Path(tempfile.mkdtemp(prefix="node-", dir="/tmp"))
        root = self.folder / "root"
        root.mkdir()
        (self.folder / "setup").write_text(SETUP.format(root=root, folder=self.folder))
        (self.folder / "systemctl").write_text(SYSTEMCTL)
        (self.folder / "systemctl").chmod(0o755)
        if config is not None:
            (self.folder / "config.toml").write_text(config)
        self.environment = {"PATH": containerd.PATH, "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1"}

    def __enter__(self) -> "Node":
        namespaces = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        self.process = subprocess.Popen(
            [*namespaces, "--propagation", "private", "sh", "-e", self.folder / "setup"],
            stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True,
        )  # fmt: skip
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline = time.monotonic() + 60
        while not (found := children.read_text().split()) or not Path(f"/proc/{found[0]}/root/run/up").exists():
            assert self.process.poll() is None, "the node does not start"
            assert time.monotonic() < deadline, "containerd does not start"
            time.sleep(0.05)
        self.init = int(found[0])
        return self

    @property
    def socket(self) -> str:
        return str(self.path("/run/containerd/containerd.sock"))

    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self.init}/root{inside}")

    def run(self, *words: object, timeout: float = 60) -> "subprocess.CompletedProcess[bytes]":
        inside = ("nsenter", "-t", str(self.init), "-m", "-n", "--uts", "-i", "-p", "--")
        return processes.captured([*inside, *map(str, words)], b"", timeout, self.environment)

    def load(self, tar: Path) -> None:
        done = self.run("ctr", "-n", "k8s.io", "images", "import", tar)
        assert done.returncode == 0, done.stderr

    def box(self, name: str, command: "tuple[str, ...]") -> None:
        self.load(image.make(self.folder / "image.tar", name, command))

    def pod(self, handler: str, parent: str, **more: object) -> cri.Pod:
        logs = self.path("/run/logs")
        logs.mkdir(exist_ok=True)
        return cri.Pod(self.socket, "/run/logs", parent, handler, **more)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        (self.folder / "log").write_bytes(self.path("/run/containerd.log").read_bytes())
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

"""An engine's daemon with namespaces of its own: mounts, networks, /run and state that nobody else sees."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from engines import processes

PRIVATE = """
mount --make-rprivate /
mkdir -p {own}
mount -t tmpfs -o mode=755 run {own}
mount -t tmpfs -o mode=755 engine {root}
ip link set lo up
"""


class Daemon:
    """Its namespaces stay while it restarts, and what runs in them.

    Attributes:
        own: the folder that is not the host's. All of /run, but where the host's systemd is to be talked to.
    """

    command: tuple[str, ...]
    own = "/run"

    def __init__(self, name: str, address: str, environment: dict[str, str]) -> None:
        """`address`: its socket, as it is seen in there."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
        self.root = self.folder / "root"
        self.root.mkdir()
        self.log = self.folder / "log"
        self.name = name
        self.address = address
        self.environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.keeper: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """The path of it outside its namespaces."""
        return f"/proc/{self.init}/root{self.address}"

    def start(self, setup: str) -> None:
        """`setup`: what is done in the new namespaces before it."""
        command = " ".join(self.command)
        (self.folder / "setup").write_text(f"{PRIVATE.format(root=self.root, own=self.own)}{setup}\nexec {command}\n")
        self.process = self._spawn("unshare", "-m", "-n", "--uts", "sh", "-e", str(self.folder / "setup"))
        self.init = self.process.pid
        self._wait()
        self.keeper = self._spawn(*self.inside(), "sleep", "infinity")  # holds the namespaces while it restarts

    def _spawn(self, *command: str) -> "subprocess.Popen[bytes]":
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def inside(self) -> "tuple[str, ...]":
        return ("nsenter", "-t", str(self.init), "-m", "-n", "--uts", "--")

    def _wait(self) -> None:
        """A client that comes too early tries again only after ten seconds: wait for the socket first."""
        assert self.process is not None
        deadline = time.monotonic() + 60  # it may be emulated
        while not self._listens() or not self.answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            if os.readlink(f"/proc/{self.init}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
                return False  # where it would be the host's
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
        except OSError:
            return False
        return True

    def answers(self) -> bool:
        """To a client that can wait."""
        return True

    def restart(self) -> None:
        self.stop()
        self.start_again()

    def stop(self) -> None:
        """Its containers go on."""
        assert self.process is not None
        assert self.keeper is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.init = self.keeper.pid

    def start_again(self) -> None:
        self.process = self._spawn(*self.inside(), *self.command)
        self._wait()

    def run(self, *command: object, stdin: bytes = b"", timeout: float = 30) -> "subprocess.CompletedProcess[bytes]":
        """A command beside it."""
        return processes.captured([*self.inside(), *map(str, command)], stdin, timeout, self.environment)

    def spawn(self, *command: object) -> "subprocess.Popen[bytes]":
        """One that runs on, whose output is read."""
        return subprocess.Popen(
            [*self.inside(), *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment
        )

    def close(self) -> None:
        for process in (self.process, self.keeper):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

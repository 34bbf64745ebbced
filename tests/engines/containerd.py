"""A containerd of its own: mount and network namespaces, /run and state that nobody else sees."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from engines import image, processes

# another version than the installed one: the folder of its programs, such as a package's that was unpacked beside
PROGRAMS = os.environ.get("PYRUNC_CONTAINERD", "")
PATH = f"{PROGRAMS}:{os.environ['PATH']}" if PROGRAMS else os.environ["PATH"]
PROGRAM = shutil.which("containerd", path=PATH)
CONFIG = """
version = 2
root = "{root}/root"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "info"
"""
CRI = "io.containerd.grpc.v1.cri"
SHIM_CGROUP = "/pyrunc-engines-shim"
CRI_CONFIG = f"""
[plugins."{CRI}"]
  sandbox_image = "{image.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."{CRI}".containerd]
    default_runtime_name = "pyrunc"
    [plugins."{CRI}".containerd.runtimes.pyrunc]
      runtime_type = "io.containerd.pyrunc.v2"
    [plugins."{CRI}".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."{CRI}".containerd.runtimes.options]
      runtime_type = "io.containerd.pyrunc.v2"
      [plugins."{CRI}".containerd.runtimes.options.options]
        Root = "/run/elsewhere"
        ShimCgroup = "{SHIM_CGROUP}"
    [plugins."{CRI}".containerd.runtimes.file]
      runtime_type = "io.containerd.pyrunc.v2"
      [plugins."{CRI}".containerd.runtimes.file.options]
        ConfigPath = "{{root}}/options.toml"
"""
OPTIONS = f'Root = "/run/elsewhere"\nShimCgroup = "{SHIM_CGROUP}"\n'
SETUP = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 engine {root}
mkdir -p {root}/root
ip link set lo up
cp {folder}/*.toml {root}
exec {program} --config {root}/config.toml
"""


class Containerd:
    def __init__(self, shim_directory: "Path | str", program: str = PROGRAM or "containerd", cri: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="containerd-", dir="/tmp"))
        self.program = program
        self.shim = Path(shim_directory) / "containerd-shim-pyrunc-v2"
        self.namespace = f"pyrunc-{os.getpid()}"  # containerd's; cgroups are named after it, and are the host's
        self.environment = {
            **os.environ,
            "PATH": f"{shim_directory}:{PATH}",
            "CONTAINERD_NAMESPACE": self.namespace,
            "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1",  # 2.2 on: each ctr says that cgroup v1 has an end
        }
        self.root = self.folder / "root"
        self.root.mkdir()
        self.log = self.folder / "log"
        config = f"{CONFIG}{CRI_CONFIG if cri else ''}".format(root=self.root, disabled="" if cri else f'"{CRI}"')
        (self.folder / "config.toml").write_text(config)
        (self.folder / "options.toml").write_text(OPTIONS)
        setup = SETUP.format(root=self.root, folder=self.folder, program=program)
        (self.folder / "setup").write_text(setup)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """Where we see it."""
        return f"/proc/{self.init}/root/run/containerd/containerd.sock"

    def __enter__(self) -> "Containerd":
        self.start()
        tar = image.make(self.folder / "image.tar")
        self.ctr("images", "import", "--no-unpack", tar)
        return self

    def start(self) -> None:
        """In new namespaces, or, after stop(), in those that there are."""
        self.process = self._spawn("unshare", "-m", "-n", "--uts", "sh", "-e", str(self.folder / "setup"))
        self.init = self.process.pid
        self.keeper = None
        self._wait()
        self.keeper = self._spawn(*self.inside(), "sleep", "infinity")  # holds the namespaces while containerd restarts

    def _spawn(self, *command: str) -> "subprocess.Popen[bytes]":
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def inside(self) -> "tuple[str, ...]":
        return ("nsenter", "-t", str(self.init), "-m", "-n", "--uts", "--")

    def _wait(self) -> None:
        """A client that comes before there is a socket tries again after ten seconds only."""
        deadline = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"containerd does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        if os.readlink(f"/proc/{self.init}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            return False  # where it would be the host's
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
        except OSError:
            return False
        done = subprocess.run(
            [*self.inside(), "ctr", "version"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=30, env=self.environment,
        )  # fmt: skip
        return done.returncode == 0

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
        self.process = self._spawn(*self.inside(), self.program, "--config", f"{self.root}/config.toml")
        self._wait()

    def run(
        self, *command: object, stdin: bytes = b"", timeout: float = 30
    ) -> "subprocess.CompletedProcess[bytes]":
        """A command beside it."""
        return processes.captured([*self.inside(), *map(str, command)], stdin, timeout, self.environment)

    def spawn(self, *command: object) -> "subprocess.Popen[bytes]":
        """One that runs on, whose output is read."""
        return subprocess.Popen(
            [*self.inside(), *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self.environment
        )

    def shims(self) -> list[int]:
        """pyrunc's, in our namespaces."""
        return processes.shims_beside(self.init)

    def ctr(self, *words: object, check: bool = True, **more: object) -> "subprocess.CompletedProcess[bytes]":
        done = self.run("ctr", *words, **more)  # type: ignore[arg-type]
        if check and done.returncode:
            raise RuntimeError(f"ctr {words}: {done.stderr.decode()}\n{self.log.read_text()[-3000:]}")
        return done

    def __exit__(self, *_: object) -> None:
        """Its containers first: they outlive it."""
        for line in self.run("ctr", "tasks", "ls", "-q").stdout.decode().split():
            self.run("ctr", "tasks", "rm", "-f", line)
        for process in (self.process, self.keeper):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in Path("/sys/fs/cgroup").glob(f"*/{self.namespace}"):
            folder.rmdir()

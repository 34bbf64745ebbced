"""A containerd of its own."""

import os
import shutil
import subprocess
from pathlib import Path

from engines import cni, criu, image, processes
from engines.daemon import Daemon

# another version than the installed one: the folder of its programs, such as a package's that was unpacked beside
PROGRAMS = os.environ.get("PYRUNC_CONTAINERD", "")
PATH = f"{PROGRAMS}:{os.environ['PATH']}" if PROGRAMS else os.environ["PATH"]
PROGRAM = shutil.which("containerd", path=PATH)
CONFIG = """
version = 2
root = "{folder}/root/root"
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
  [plugins."{CRI}".cni]
    bin_dir = "{{folder}}/plugins"
    conf_dir = "{{folder}}/networks"
  [plugins."{CRI}".containerd]
    default_runtime_name = "pyrunc"
    [plugins."{CRI}".containerd.runtimes.pyrunc]
      runtime_type = "io.containerd.pyrunc.v2"
    [plugins."{CRI}".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."{CRI}".containerd.runtimes.counted]
      runtime_type = "{{folder}}/counting-shim"
    [plugins."{CRI}".containerd.runtimes.options]
      runtime_type = "io.containerd.pyrunc.v2"
      [plugins."{CRI}".containerd.runtimes.options.options]
        Root = "/run/elsewhere"
        ShimCgroup = "{SHIM_CGROUP}"
    [plugins."{CRI}".containerd.runtimes.file]
      runtime_type = "io.containerd.pyrunc.v2"
      [plugins."{CRI}".containerd.runtimes.file.options]
        ConfigPath = "{{folder}}/options.toml"
    [plugins."{CRI}".containerd.runtimes.systemd]
      runtime_type = "io.containerd.pyrunc.v2"
      [plugins."{CRI}".containerd.runtimes.systemd.options]
        SystemdCgroup = true
        ShimCgroup = "{SHIM_CGROUP}"
"""
OPTIONS = f'Root = "/run/elsewhere"\nShimCgroup = "{SHIM_CGROUP}"\n'


class Containerd(Daemon):
    def __init__(self, shim_directory: "Path | str", program: str = PROGRAM or "containerd", cri: bool = False) -> None:
        self.namespace = f"pyrunc-{os.getpid()}"  # containerd's; cgroups are named after it, and are the host's
        environment = {
            "PATH": criu.path(f"{shim_directory}:{PATH}"),
            "CONTAINERD_NAMESPACE": self.namespace,
            "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1",  # 2.2 on: each ctr says that cgroup v1 has an end
        }
        super().__init__("containerd", "/run/containerd/containerd.sock", environment)
        self.program = program
        self.command = (program, "--config", f"{self.folder}/config.toml")
        self.shim = Path(shim_directory) / "containerd-shim-pyrunc-v2"
        config = f"{CONFIG}{CRI_CONFIG if cri else ''}"
        config = config.format(folder=self.folder, disabled="" if cri else f'"{CRI}"')
        (self.folder / "config.toml").write_text(config)
        (self.folder / "options.toml").write_text(OPTIONS)
        cni.install(self.folder)

    def __enter__(self) -> "Containerd":
        self.start(f"mkdir {self.root}/root")
        tar = image.make(self.folder / "image.tar")
        self.ctr("images", "import", "--no-unpack", tar)
        return self

    def answers(self) -> bool:
        return self.run("ctr", "version").returncode == 0

    @property
    def version(self) -> tuple[int, int]:
        words = self.run(self.program, "--version").stdout.decode().split()
        major, minor = words[2].removeprefix("v").split("~")[0].split(".")[:2]
        return int(major), int(minor)

    def shims(self) -> list[int]:
        """pyrunc's, in our namespaces."""
        return processes.shims_beside(self.init)

    def ctr(self, *words: object, check: bool = True, **more: object) -> "subprocess.CompletedProcess[bytes]":
        done = self.run("ctr", *words, **more)  # type: ignore[arg-type]
        if check and done.returncode:
            raise RuntimeError(f"ctr {words}: {done.stderr.decode()}\n{self.log.read_text()[-3000:]}")
        return done

    def __exit__(self, *_: object) -> None:
        """Its containers are ended first: they would outlive it."""
        for namespace in (self.namespace, "k8s.io"):
            for line in self.run("ctr", "-n", namespace, "tasks", "ls", "-q").stdout.decode().split():
                self.run("ctr", "-n", namespace, "tasks", "rm", "-f", line)
        self.close()
        for folder in Path("/sys/fs/cgroup").glob(f"*/{self.namespace}"):
            folder.rmdir()

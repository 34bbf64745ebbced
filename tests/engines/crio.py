"""A CRI-O of its own. Debian 12 has no package of it: PYRUNC_CRIO is the folder of its programs, crio and pinns."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from engines import cni, image
from engines.daemon import Daemon

PROGRAMS = os.environ.get("PYRUNC_CRIO", "")
PATH = f"{PROGRAMS}:{os.environ['PATH']}" if PROGRAMS else os.environ["PATH"]
PARENT = "/pyrunc-engines-crio"
NEEDED = ("crio", "pinns", "conmon", "podman", "runc")
MISSING = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
RUNTIME = """
[crio.runtime.runtimes.{name}]
runtime_path = "{path}"
runtime_type = "oci"
runtime_root = "/run/{name}"
monitor_path = "{conmon}"
monitor_cgroup = "pod"
"""
CONFIG = """
[crio]
root = "{root}/storage"
runroot = "/run/storage"
storage_driver = "overlay"
log_dir = "{root}/logs"
version_file = "/run/crio/version"
clean_shutdown_file = "/run/crio/clean.shutdown"
[crio.api]
listen = "/run/crio/crio.sock"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
apparmor_profile = "unconfined"
pinns_path = "{pinns}"
hooks_dir = ["/run/crio/hooks"]
default_runtime = "pyrunc"
[crio.image]
pause_image = "{pause}"
pause_command = ""
signature_policy_dir = "/run/crio/policies"
namespaced_auth_dir = "/run/crio/auth"
[crio.network]
network_dir = "{folder}/networks"
plugin_dirs = ["{folder}/plugins"]
[crio.metrics]
enable_metrics = false
[crio.nri]
enable_nri = false
"""
# Its storage is the one that Podman has; what it keeps elsewhere by default it keeps in /run here
LOAD = "podman --root {root}/storage --runroot /run/storage --tmpdir /run/libpod --storage-driver overlay load --input"


class Crio(Daemon):
    def __init__(self, pyrunc: "Path | str") -> None:
        super().__init__("crio", "/run/crio/crio.sock", {"PATH": PATH, "TMPDIR": "/run"})
        programs = {name: shutil.which(name, path=PATH) for name in NEEDED}
        config = CONFIG.format(folder=self.folder, root=self.root, pause=image.PAUSE, pinns=programs["pinns"])
        for name, path in (("pyrunc", pyrunc), ("runc", programs["runc"])):
            config += RUNTIME.format(name=name, path=path, conmon=programs["conmon"])
        cni.install(self.folder)
        (self.folder / "crio.conf").write_text(config)
        self.command = (str(programs["crio"]), "--config", f"{self.folder}/crio.conf", "--config-dir=")

    def __enter__(self) -> "Crio":
        setup = [f"mkdir -p /run/crio {self.logs}"]
        pause = ("/bin/sh", "-c", "trap exit TERM; sleep 100000 & wait")  # it is asked to end, and has 30 seconds
        for number, (name, command) in enumerate(((image.NAME, ("/bin/sh",)), (image.PAUSE, pause))):
            tar = image.make(self.folder / f"{number}.tar", name, command)
            setup.append(f"{LOAD.format(root=self.root)} {tar}")
        self.start("\n".join(setup))
        return self

    @property
    def logs(self) -> str:
        """The path of it inside its namespaces."""
        return f"{self.root}/logs"

    def seen(self, path: str) -> Path:
        """What is at this path in its namespaces."""
        return Path(f"/proc/{self.init}/root{path}")

    def __exit__(self, *_: object) -> None:
        self.close()
        for parent in (Path(f"/sys/fs/cgroup{PARENT}"), *Path("/sys/fs/cgroup").glob(f"*{PARENT}")):
            for folder in (*parent.glob("*/"), parent):  # it leaves those of pods that it could not make
                with suppress(OSError):
                    folder.rmdir()

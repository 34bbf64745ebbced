"""The engines that are installed, whether they know pyrunc, and the lines that make pyrunc known to them."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from pyrunc.doctor.check import text_of
from pyrunc.doctor.host import has_systemd, path_of

SHIM = "containerd-shim-pyrunc-v2"


class Engine(NamedTuple):
    """An engine on this host.

    Attributes:
        name: the engine's name.
        program: the path of its program.
        file: the configuration file that names runtimes.
        knows: whether that file names pyrunc.
        lines: what belongs in the file.
        then: the command that makes the engine read it.
        trial: a command that runs a container.
    """

    name: str
    program: str
    file: str
    knows: bool
    lines: str
    then: str
    trial: str


def installed(folder: str) -> Iterator[Engine]:
    """The engines on this host. `folder`: where pyrunc and the shim are."""
    rootless = bool(os.geteuid())
    home = _configuration()
    docker = f"{home}/docker/daemon.json" if rootless else "/etc/docker/daemon.json"
    podman = f"{home}/containers/containers.conf" if rootless else "/etc/containers/containers.conf"
    reload_docker = _manage("reload", "docker", "kill -HUP $(pidof dockerd)")
    reload_crio = _manage("reload", "crio", "kill -HUP $(pidof crio)", rootless)
    restart = _manage("restart", "containerd", "start containerd again", rootless)
    for name, program, file, lines, then, trial in (
        ("Docker", "dockerd", docker, _docker(folder), reload_docker,
         "docker run --rm --runtime pyrunc busybox echo hello"
         "  # before Docker 23: --runtime pyrunc-path, as it runs runc else"),
        ("containerd", "containerd", "/etc/containerd/config.toml", _containerd(folder), restart,
         f"ctr run --rm --runtime {folder}/{SHIM} docker.io/library/busybox:latest try echo hello"),
        ("Podman", "podman", podman, _podman(folder), "", "podman --runtime pyrunc run --rm busybox echo hello"),
        ("CRI-O", "crio", "/etc/crio/crio.conf.d/10-pyrunc.conf", _crio(folder), reload_crio, ""),
    ):  # fmt: skip
        found = path_of(program)
        if found:
            yield Engine(name, found, file, "pyrunc" in text_of(file), lines, then, trial)


def _configuration() -> str:
    """The folder of the user's own configuration. A path that is not absolute does not count (XDG Base Directory)."""
    given, home = os.environ.get("XDG_CONFIG_HOME", ""), os.environ.get("HOME", "")
    return given if given.startswith("/") else f"{home if home.startswith('/') else '~'}/.config"


def _manage(verb: str, service: str, otherwise: str, of_root: bool = False) -> str:
    """The command that makes an engine read its configuration. `of_root`: a user asks, and only root can do it."""
    if not has_systemd():
        return f"as root: {otherwise}" if of_root else otherwise
    user = "" if of_root or not os.geteuid() else "--user "
    return f"{'as root: ' if of_root else ''}systemctl {user}{verb} {service}"


def _docker(folder: str) -> str:
    return f"""\
{{
  "runtimes": {{
    "pyrunc": {{ "runtimeType": "{folder}/{SHIM}" }},
    "pyrunc-path": {{ "path": "{folder}/pyrunc" }}
  }}
}}"""


def _containerd(folder: str) -> str:
    """containerd's lines. The version is that of its configuration file: only running the program would tell more."""
    version = 3 if "version = 3" in text_of("/etc/containerd/config.toml") else 2
    plugin = "io.containerd.cri.v1.runtime" if version == 3 else "io.containerd.grpc.v1.cri"
    quote = "'" if version == 3 else '"'
    return f"""\
version = {version}
[plugins.{quote}{plugin}{quote}.containerd.runtimes.pyrunc]
  runtime_type = "io.containerd.pyrunc.v2"  # {SHIM} in PATH of containerd, or in /usr/local/bin"""


def _podman(folder: str) -> str:
    return f"""\
[engine.runtimes]
pyrunc = ["{folder}/pyrunc"]"""


def _crio(folder: str) -> str:
    return f"""\
[crio.runtime.runtimes.pyrunc]
runtime_path = "{folder}/pyrunc"
runtime_type = "oci"
runtime_root = "/run/pyrunc\""""

"""Make the configuration of a sandbox from the arguments of `run`. docs/security.md says what it keeps out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypedDict

from pyrunc.container.state import is_root_of_host
from pyrunc.errors import UsageError
from pyrunc.library import given
from pyrunc.library.config import Config, Size, StrPath
from pyrunc.library.rootfs import MERGED
from pyrunc.spec import default as defaults

NOBODY = 65534
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
MEMORY, PIDS, TMP = "512m", 256, "64m"
OF_HOST = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/certs")
FOR_NETWORK = ("/etc/resolv.conf",)
READ_ONLY = ["rbind", "rro", "nosuid", "nodev"]
QUIET = ["nosuid", "noexec", "nodev"]


class Options(TypedDict, total=False):
    """What `run`, `Pool` and `aio.run` take besides the program. docs/library.md describes each."""

    root: StrPath | Sequence[StrPath] | None
    write: Size
    mounts: Mapping[str, StrPath]
    writable: Mapping[str, StrPath]
    memory: Size | None
    cpus: float | None
    pids: int | None
    tmp: Size
    network: bool
    env: Mapping[str, str]
    cwd: str
    user: int | tuple[int, int] | None
    capabilities: Iterable[str]
    seccomp: "Mapping[str, Any] | None"
    hostname: str


def sandbox(args: Sequence[StrPath], **options: Any) -> Config:
    """The configuration that `run` uses. It may be changed, or given to `Container.create` and `Pool`."""
    unknown = {*options} - {*Options.__annotations__}
    if unknown:
        raise UsageError("run", ", ".join(sorted(unknown)), "there is no such argument")
    words = given.words(args, "run")
    get = options.get
    config: Config = _Draft(_document(get("network", False)))
    config = _root(config, get("root"), get("write", 0), get("network", False))
    config = config.args(*words).tmpfs("/tmp", get("tmp", TMP)).cwd(get("cwd", "/tmp"))
    config = config.env({"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **given.variables(get("env", {}))})
    config = config.seccomp(get("seccomp", "default")).hostname(get("hostname", "sandbox"))
    config = config.capabilities(*given.several(get("capabilities", ()), "capabilities"))
    if get("user") is not None:
        config = config.user(*given.user(options["user"]))
    for destination, source in given.mapping(get("mounts", {}), "mounts").items():
        config = config.mount(source, destination)
    for destination, source in given.mapping(get("writable", {}), "writable").items():
        config = config.mount(source, destination, write=True)
    draft = _limited(config, options)
    made = Config({})
    made.document, made._plan = draft.document, draft._plan
    return made


class _Draft(Config):
    """A configuration that nobody else has. A copy of the profile takes a millisecond, so verbs change it in place."""

    __slots__ = ()

    def __init__(self, document: "dict[str, Any]") -> None:
        self.document = document
        self._plan = None

    def _changed(self) -> Self:
        return self


def _limited(config: Config, options: "dict[str, Any]") -> Config:
    """Set the limits. One that isn't given has a default where there can be one: a caller without a cgroup of their own
    can set none. One that is given is always asked for: if it can't be held, the container is not made."""
    may = is_root_of_host()
    memory, pids = (options.get(name, each if may else None) for name, each in (("memory", MEMORY), ("pids", PIDS)))
    cpus = options.get("cpus")
    if memory is not None:
        config = config.memory(memory)
    if pids is not None:
        config = config.pids(pids)
    return config if cpus is None else config.cpus(cpus)


def _document(network: bool) -> "dict[str, Any]":
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", *([] if network else ["network"])]
    document: dict[str, Any] = {
        "ociVersion": defaults.VERSION,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "noNewPrivileges": True,
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": QUIET},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "noexec", "mode=755", "size=64k"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*QUIET, "mode=1777", "size=64m"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": [path for path in defaults.MASKED if path.startswith("/proc")],
            "readonlyPaths": [*defaults.READONLY],
        },
    }  # fmt: skip
    linux, process = document["linux"], document["process"]
    if is_root_of_host():
        process["user"] = {"uid": NOBODY, "gid": NOBODY}
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    elif os.geteuid():
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    return document


def _root(config: Config, root: "StrPath | Sequence[StrPath] | None", write: Size, network: bool) -> Config:
    if root is None:
        return _usr(config, write, network)
    if not isinstance(root, str | os.PathLike):
        config = config.layers(*given.several(root, "root"), write=write)
    elif os.path.isdir(root):
        config = config.layers(root, write=write)
    elif os.path.isfile(root):
        config = config.tar(root, write=write)
    else:
        raise UsageError("root", os.fspath(root), "there is no such folder or file")
    return _bound(config, FOR_NETWORK) if network else config


def _usr(config: Config, write: Size, network: bool) -> Config:
    if write:
        raise UsageError("write", "", "there is nothing to write to but /tmp", "give it a root file system")
    places = [f"/{name}" for name in MERGED if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    config = _bound(config, ("/usr", *places, *OF_HOST, *(FOR_NETWORK if network else ())))
    config._plan = {"kind": "usr", "more": bool(places)}
    return config


def _bound(config: Config, places: Iterable[str]) -> Config:
    """Mount the host's own files at the same places, if they are there."""
    there = [place for place in places if os.path.exists(place)]
    mounts = [
        {"destination": place, "type": "bind", "source": os.path.realpath(place), "options": READ_ONLY}
        for place in there
    ]
    config.document["mounts"] += mounts
    return config

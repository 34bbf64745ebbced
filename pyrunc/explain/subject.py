"""A configuration, with answers to what several of the questions about it ask."""

import os
import re
from collections.abc import Iterator
from typing import Any

from pyrunc.linux import nearby
from pyrunc.linux.fd import Fd
from pyrunc.spec.types import Config, Mount

SETS = ("bounding", "permitted", "effective", "inheritable", "ambient")
HOSTS_OWN = ("/proc/1/ns/", "/proc/self/ns/")
OF_PROCESS = re.compile(r"/proc/\d+/(task/\d+/)?ns/\w+")
FILES = {"mount": "mnt", "network": "net"}  # types whose name in /proc/PID/ns is another


class Subject:
    """A configuration that is valid.

    Attributes:
        namespaces: type -> the path of a namespace that is joined, or "" for a new one. The host's own are left out.
        of_host: the types of namespaces that it shares with the host: they are missing, or have a path to the host's.
        is_root: whether its program runs as user 0.
        root_is_hosts: whether one of its users is user 0 of the host.
        gains: whether set-user-ID programs and file capabilities work.
        rootless: whether an engine without privileges runs it, in a user namespace of its own, whose user 0 is the
            user who runs the engine.
        base: where relative paths start; "" if that is unknown.
    """

    def __init__(self, config: Config, rootless: bool = False, base: str = "") -> None:
        self.config, self.rootless, self.base = config, rootless, base
        self.process: Any = config.get("process") or {}
        self.linux: Any = config.get("linux") or {}
        listed = {n["type"]: n.get("path", "") for n in self.linux.get("namespaces") or []}
        self.namespaces = {kind: path for kind, path in listed.items() if not _is_hosts(kind, path)}
        kinds = ("mount", "pid", "network", "ipc", "uts", "user", "cgroup")
        self.of_host = {kind for kind in kinds if kind not in self.namespaces}
        self.is_root = not self.process.get("user", {}).get("uid", 0)
        self.gains = not self.process.get("noNewPrivileges")
        self.root_is_hosts = not rootless and ("user" in self.of_host or self.maps_root)

    @property
    def maps_root(self) -> bool:
        """Whether one of its users is the host's root: its own root can become each of them. The mappings of a
        namespace that is joined are not known beforehand."""
        return any(m["hostID"] == 0 and m["size"] for m in self.linux.get("uidMappings") or [])

    @property
    def is_host_root(self) -> bool:
        return self.root_is_hosts and (self.is_root or self._is_mapped_to_host_root())

    def _is_mapped_to_host_root(self) -> bool:
        uid, mappings = self.process.get("user", {}).get("uid", 0), self.linux.get("uidMappings") or []
        return self.own_user_namespace and any(m["hostID"] == 0 and m["containerID"] == uid for m in mappings)

    @property
    def own_user_namespace(self) -> bool:
        """Whether its capabilities are only over what is the container's own."""
        return self.rootless or "user" not in self.of_host

    def mounts(self) -> Iterator[tuple[str, Mount]]:
        """(pointer, mount) for each mount."""
        for index, mount in enumerate(self.config.get("mounts") or []):
            yield f"/mounts/{index}", mount

    def capabilities(self) -> tuple[set[str], set[str]]:
        """The capabilities that the program has, and those that set-user-ID programs or file capabilities can give it.

        capabilities(7): user 0 has at execve what the bounding set has, unless no_new_privs keeps it to what it had.
        """
        given = self.process.get("capabilities") or {}
        sets = {kind: {name.upper() for name in given.get(kind) or []} for kind in SETS}
        bounding = sets.get("bounding", set())
        if self.is_root:
            has = sets.get("permitted", set()) | sets.get("effective", set()) | (bounding if self.gains else set())
        else:
            has = sets.get("ambient", set())
        return has, (bounding if self.gains else set()) - has

    def has(self, name: str) -> bool:
        has, can_get = self.capabilities()
        return name in has or name in can_get

    def options(self, mount: Mount) -> set[str]:
        return {*(mount.get("options") or [])}


def _is_hosts(kind: str, path: str) -> bool:
    """Whether a path leads to the host's own namespace, as far as we can see that without waiting."""
    if path.startswith(HOSTS_OWN):
        return True
    try:
        hosts = os.stat(f"/proc/1/ns/{FILES.get(kind, kind)}")
        if OF_PROCESS.fullmatch(path):
            return os.path.samestat(os.stat(path), hosts)
        with nearby.folder(path) or Fd(-1) as place:
            return place.number >= 0 and os.path.samestat(os.fstat(place.number), hosts)
    except OSError:
        return False


def is_bind(mount: Mount) -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & {*(mount.get("options") or [])})


def is_read_only(mount: Mount) -> bool:
    """Whether a mount is read-only. Of several options the last counts."""
    said = [option for option in mount.get("options") or [] if option in ("ro", "rw", "rro", "rrw")]
    return bool(said) and said[-1] in ("ro", "rro")

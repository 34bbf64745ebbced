"""A user namespace that is joined: its mappings are what they are. config-linux.md#user-namespace-mappings"""

import posix

from pyrunc.container.launch import refuse_threads
from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.init.context import Channel
from pyrunc.init.namespaces import is_same, own, verify_kinds
from pyrunc.linux.fd import Fd, open_at, read_file
from pyrunc.linux.process import CLONE_NEWUSER, in_child, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping, Linux


def adopt(linux: "Linux", path: str) -> None:
    """Fill in the mappings of the namespace at `path`, or compare those that are given: engines give both, and files
    would be another's where the two differ. Raises ConfigError."""
    with open_at(None, path, posix.O_RDONLY) as namespace:
        verify_kinds([("user", namespace)])
        uids, gids = (_parsed(text) for text in _maps_of(namespace))
    for member, given, there in (("uidMappings", linux.get("uidMappings"), uids),
                                 ("gidMappings", linux.get("gidMappings"), gids)):  # fmt: skip
        if given and _plain(given) != _plain(there):
            cause = f"it is not the mapping of the user namespace {path}, which is {_words(there)}"
            raise ConfigError("config.json", f"/linux/{member}", cause, "leave it out, or give the namespace's own")
    linux["uidMappings"], linux["gidMappings"] = uids, gids


def _maps_of(namespace: Fd) -> "tuple[bytes, bytes]":
    """Those of any process in it: of a child of ours, unless we are there ourselves."""
    if is_same(namespace, own("user")):
        return read_file("/proc/self/uid_map"), read_file("/proc/self/gid_map")
    refuse_threads()
    ours, theirs = Channel.pair()

    def enter() -> None:
        ours.close()  # else its end would not be the end of the stream
        try:
            setns(namespace, CLONE_NEWUSER)
        except OSError as error:
            theirs.send("E", reason(error))
        else:
            theirs.send("G")
            theirs.receive()  # until our end is closed

    pid, pidfd = in_child(enter)
    with pidfd:
        theirs.close()
        try:
            kind, text, _ = ours.receive()
            if kind != "G":
                raise PyruncError("joining", namespace.name, text or "the helper died")
            return read_file(f"/proc/{pid}/uid_map"), read_file(f"/proc/{pid}/gid_map")
        finally:
            ours.close()
            posix.waitpid(pid, 0)


def _parsed(text: bytes) -> "list[IDMapping]":
    rows = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in rows]


def _plain(mappings: "list[IDMapping]") -> "list[tuple[int, int, int]]":
    """Comparable: in order, and with ranges that continue each other as one."""
    merged: list[tuple[int, int, int]] = []
    for inside, outside, size in sorted((m["containerID"], m["hostID"], m["size"]) for m in mappings):
        before = merged[-1] if merged else (0, 0, 0)
        if merged and (inside, outside) == (before[0] + before[2], before[1] + before[2]):
            merged[-1] = (before[0], before[1], before[2] + size)
        else:
            merged.append((inside, outside, size))
    return merged


def _words(mappings: "list[IDMapping]") -> str:
    return ", ".join(f"{m['containerID']}:{m['hostID']}:{m['size']}" for m in mappings) or "empty"

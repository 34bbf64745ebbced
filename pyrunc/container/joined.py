"""A user namespace that is joined has mappings already. config-linux.md#user-namespace-mappings"""

import posix

from pyrunc.container import ids
from pyrunc.container.errand import Errand
from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.init.namespaces import is_same, own, verify_kinds
from pyrunc.linux.fd import Fd, open_at, read_file
from pyrunc.linux.process import CLONE_NEWUSER, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping, Linux


def adopt(linux: "Linux", path: str) -> None:
    """Fill in the mappings of the namespace at `path`. Raises ConfigError if others are given.

    Engines give both. If the two differed, files would belong to somebody else than the engine thinks.
    """
    with open_at(None, path, posix.O_RDONLY) as namespace:
        verify_kinds([("user", namespace)])
        uids, gids = (ids.of_text(text) for text in _maps_of(namespace))
    for member, given, there in (("uidMappings", linux.get("uidMappings"), uids),
                                 ("gidMappings", linux.get("gidMappings"), gids)):  # fmt: skip
        if given and ids.merged(given) != ids.merged(there):
            cause = f"it is not the mapping of the user namespace {path}, which is {_words(there)}"
            raise ConfigError("config.json", f"/linux/{member}", cause, "leave it out, or give the namespace's own")
    linux["uidMappings"], linux["gidMappings"] = uids, gids


def _maps_of(namespace: Fd) -> "tuple[bytes, bytes]":
    """The maps that any process in the namespace has: we ourselves, or a child of ours that joins it."""
    if is_same(namespace, own("user")):
        return read_file("/proc/self/uid_map"), read_file("/proc/self/gid_map")
    try:
        with Errand(lambda: setns(namespace, CLONE_NEWUSER)) as inside:
            return read_file(f"/proc/{inside.pid}/uid_map"), read_file(f"/proc/{inside.pid}/gid_map")
    except OSError as error:
        raise PyruncError("joining", namespace.name, reason(error)) from error


def _words(mappings: "list[IDMapping]") -> str:
    return ", ".join(f"{m['containerID']}:{m['hostID']}:{m['size']}" for m in mappings) or "empty"

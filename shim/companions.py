"""Containers that containerd 2 has added to a pod's shim.

After the shim was killed, containerd calls `delete` for the pod's first container alone, and the bundles of the others
are gone by then. So each of the others is noted in the first one's bundle. `delete` finds there what is left of them.
"""

import posix

from pyrunc.linux.fd import open_at, read_file, replace_file, unlink_quietly
from pyrunc.spec.jsonc import dumps, loads

SANDBOX = "sandbox"  # containerd's file with the ID of the first one, in the bundles of the others
START = "companion."  # a note's name begins with it; the ID follows


def note(id: str, bundle: str, root: str) -> None:
    """Note a container in the first one's bundle. Call it before anything of the container is made."""
    first = _first(bundle)
    if first:
        with open_at(None, first, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            data = dumps({"bundle": bundle, "root": root}).encode("utf-8", "surrogateescape")
            replace_file(folder, f"{START}{id}", data)


def forget(id: str, bundle: str) -> None:
    first = _first(bundle)
    if first:
        with open_at(None, first, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            unlink_quietly(folder, f"{START}{id}")


def noted(bundle: str) -> "list[tuple[str, str, str]]":
    """ID, bundle and state root of each container that is noted."""
    found = []
    for name in posix.listdir(bundle):
        if name.startswith(START):
            document = loads(read_file(f"{bundle}/{name}").decode("utf-8", "surrogateescape"))
            if isinstance(document, dict):
                found.append((name.removeprefix(START), str(document["bundle"]), str(document["root"])))
    return found


def _first(bundle: str) -> str:
    """The bundle of the pod's first container. "" for the first container itself, and if that bundle is gone, as then
    nobody calls `delete` for it."""
    try:
        sandbox = read_file(f"{bundle}/{SANDBOX}").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    first = f"{bundle.rpartition('/')[0]}/{sandbox}"
    return first if sandbox and "/" not in sandbox and posix.access(first, posix.F_OK) else ""

"""Containers that containerd 2 has added to a pod's shim.

When the shim was killed, containerd calls `delete` for the pod's first container alone, and the bundles of the others
are gone by then. So each of the others is noted in the first one's bundle. What a killed shim leaves is found there.
"""

import posix

from pyrunc.linux.fd import open_at, read_file, replace_file, unlink_quietly
from pyrunc.spec.jsonc import dumps, loads

SANDBOX = "sandbox"  # containerd's file with the ID of the first one, in the bundles of the others
START = "companion."  # of a note's name; its ID follows


def note(id: str, bundle: str, root: str) -> None:
    """Call it before anything of the container is made."""
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
    """(ID, bundle, state root) of each."""
    found = []
    for name in posix.listdir(bundle):
        if name.startswith(START):
            document = loads(read_file(f"{bundle}/{name}").decode("utf-8", "surrogateescape"))
            if isinstance(document, dict):
                found.append((name.removeprefix(START), str(document["bundle"]), str(document["root"])))
    return found


def _first(bundle: str) -> str:
    """The bundle of the pod's first container. "" for that one itself, and where it is gone: then nobody calls for
    it."""
    try:
        sandbox = read_file(f"{bundle}/{SANDBOX}").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    first = f"{bundle.rpartition('/')[0]}/{sandbox}"
    return first if sandbox and "/" not in sandbox and posix.access(first, posix.F_OK) else ""

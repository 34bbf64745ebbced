"""Containers of a pod that containerd 2 has added to its shim: it calls `delete` for the pod's first one alone, and
removes the others' bundles by then. So each is noted in that one's bundle: there is found what a killed shim leaves."""

import posix

from pyrunc.linux.fd import open_at, read_file, replace_file, unlink_quietly
from pyrunc.spec.jsonc import dumps, loads

SANDBOX = "sandbox"  # containerd's file with the ID of the first one, in the bundles of the others
START = "companion."  # of a note's name; its ID follows


def note(id: str, bundle: str, root: str) -> None:
    """Before anything of it is made."""
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
    """The bundle of the pod's first one; "" for that itself, and where it is gone: nobody calls for it then."""
    try:
        sandbox = read_file(f"{bundle}/{SANDBOX}").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    first = f"{bundle.rpartition('/')[0]}/{sandbox}"
    return first if sandbox and "/" not in sandbox and posix.access(first, posix.F_OK) else ""

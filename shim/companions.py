"""The other containers of a shim than its first: noted in that one's bundle, the shim's working directory. When the
shim is killed `delete` finds them there: containerd 2 calls it for the first alone, and removes the others' bundles."""

import posix

from pyrunc.linux.fd import open_at, read_file, replace_file, unlink_quietly
from pyrunc.spec.jsonc import dumps, loads

START = "companion."  # of a file's name; its ID follows


def note(id: str, bundle: str, root: str) -> None:
    """Before anything of it is made. Where the first one is gone, with its bundle, nobody will call for it either."""
    here, there = posix.stat("."), posix.stat(bundle)
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return
    try:
        with open_at(None, ".", posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            data = dumps({"bundle": bundle, "root": root}).encode("utf-8", "surrogateescape")
            replace_file(folder, f"{START}{id}", data)
    except FileNotFoundError:
        pass


def forget(id: str) -> None:
    try:
        with open_at(None, ".", posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            unlink_quietly(folder, f"{START}{id}")
    except FileNotFoundError:
        pass


def noted(bundle: str) -> "list[tuple[str, str, str]]":
    """(ID, bundle, state root) of each."""
    found = []
    for name in posix.listdir(bundle):
        if name.startswith(START):
            document = loads(read_file(f"{bundle}/{name}").decode("utf-8", "surrogateescape"))
            if isinstance(document, dict):
                found.append((name.removeprefix(START), str(document["bundle"]), str(document["root"])))
    return found

"""A type `fuse.NAME` or `fuse3.NAME` is mounted by mount.fuse(8) or mount.fuse3(8), which start the program NAME."""

import posix

from pyrunc.errors import PyruncError
from pyrunc.hook_runner import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.shim.place import Place

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60  # seconds: a program may never say that it serves


def mount(kind: str, source: str, place: "Place", words: "list[str]") -> None:
    """Mount a FUSE file system. Its program then serves as a child of the shim, and ends when the mount is gone."""
    family, _, name = kind.partition(".")
    helper = _find(f"mount.{family}")
    with place.top() as target:
        there = posix.readlink(f"/proc/self/fd/{target.number}")  # mount.fuse takes only a path
    arguments = [helper, source, there]
    for word in words:
        arguments += ["-o", word]
    try:
        run({"path": helper, "args": [*arguments, "-t", name], "timeout": PATIENCE}, b"", None)
    except PyruncError as error:
        raise PyruncError("mounting the root file system", str(place), f"{kind} {source}: {error}") from error


def _find(name: str) -> str:
    path = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape") or PATH
    for folder in path.split(":"):
        if folder.startswith("/") and posix.access(f"{folder}/{name}", posix.X_OK):
            return f"{folder}/{name}"
    raise PyruncError("mounting the root file system", name, "it is not installed", "install the package fuse3")

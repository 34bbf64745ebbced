"""Where a path leads on this host, as things are now.

It never waits for anybody: files are only opened with O_PATH, and no file server (NFS, FUSE) is asked. Each step starts
at a descriptor of the one before, so nothing can be swapped between two steps.
"""

import os
import posixpath
import stat
from typing import NamedTuple

from pyrunc.linux import nearby
from pyrunc.linux.fd import Fd, open_at

MOST_LINKS = 40  # the kernel's limit
LIKE_OTHERS = ("self", "thread-self", "mounts", "net")  # links of procfs that lead where their text says


class Led(NamedTuple):
    """What a path leads to.

    Attributes:
        path: the path without links.
        mode: st_mode of what is there.
    """

    path: str
    mode: int


def follow(path: str) -> "Led | None":
    """Where a path leads. None: nowhere on this host, or only waiting could tell."""
    try:
        return _Walk().to(path)
    except OSError:
        return None


class _Walk:
    def __init__(self) -> None:
        self.folders = [open_at(None, "/", os.O_PATH | os.O_DIRECTORY)]
        self.names: list[str] = []
        self.links = 0

    def to(self, path: str) -> "Led | None":
        waiting = path.split("/")[::-1]
        while waiting:
            name = waiting.pop()
            if name == "..":
                self._up(len(self.names) - 1)
            elif name not in ("", "."):
                found = nearby.step(self.folders[-1], name)
                if found is None:
                    return None
                if stat.S_ISLNK(os.fstat(found.number).st_mode):
                    target = self._target(found, name)
                    if target.startswith("/"):
                        self._up(0)
                    waiting += target.split("/")[::-1]
                else:
                    self.folders.append(found)
                    self.names.append(name)
        return Led(f"/{'/'.join(self.names)}", os.fstat(self.folders[-1].number).st_mode)

    def _up(self, depth: int) -> None:
        depth = max(depth, 0)
        del self.names[depth:], self.folders[depth + 1 :]

    def _target(self, link: Fd, name: str) -> str:
        self.links += 1
        if self.links > MOST_LINKS or (nearby.kind(link) == "proc" and name not in LIKE_OTHERS):
            raise OSError  # such a link (/proc/PID/root) does not lead where its text says
        return os.readlink("", dir_fd=link.number)


def plain(path: str, base: str = "") -> str:
    """A path without the parts that the kernel passes over: //, /./ and /../. Without this the host's root would have
    many names."""
    if not path.startswith("/") and not base:
        return path
    found = f"/{posixpath.normpath(posixpath.join(base, path)).lstrip('/')}"
    for root in ("/proc/1/root", "/proc/self/root"):
        if found == root or found.startswith(f"{root}/"):
            return found.removeprefix(root) or "/"
    return found

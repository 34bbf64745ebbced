"""Where a path leads on this host, as things are now.

Nobody is waited for: nothing is opened but its place (O_PATH), and no server, such as NFS and FUSE, is asked. Each step
is a descriptor: nothing is swapped between two of them.
"""

import os
import posixpath
import stat
from typing import NamedTuple

from pyrunc.linux import nearby
from pyrunc.linux.fd import Fd, open_at

MOST_LINKS = 40  # as the kernel has it
LIKE_OTHERS = ("self", "thread-self", "mounts", "net")  # links of procfs whose text is where they lead


class Led(NamedTuple):
    """
    Attributes:
        path: without links.
        mode: st_mode of what is there.
    """

    path: str
    mode: int


def follow(path: str) -> "Led | None":
    """None: it leads nowhere here, or what is there can't be told without waiting."""
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
            raise OSError  # the kernel goes elsewhere by it than its text says: /proc/PID/root
        return os.readlink("", dir_fd=link.number)


def plain(path: str, base: str = "") -> str:
    """Without what the kernel passes over: //, /./ and /../. The host's root has other names, too."""
    if not path.startswith("/") and not base:
        return path
    found = f"/{posixpath.normpath(posixpath.join(base, path)).lstrip('/')}"
    for root in ("/proc/1/root", "/proc/self/root"):
        if found == root or found.startswith(f"{root}/"):
            return found.removeprefix(root) or "/"
    return found

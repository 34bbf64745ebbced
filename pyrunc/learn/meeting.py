"""Where the program's filter finds its watcher: a socket in a folder below the state root.

A `pyrunc learn` that is killed leaves the folder behind. The next one removes it.
"""

import fcntl
import os
import posix
import socket

from pyrunc.linux.fd import Fd, open_at, unlink_quietly

DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW
NAME = ":learn-"  # can't be a container's: an ID has no colon
SOCKET = "agent"


class Meeting:
    """A folder of our own, locked for as long as we or our watcher live.

    Args:
        top: the state root. It is closed in the end.
        path: the path of the state root.

    Attributes:
        socket: the path of the socket, for the filter of `exec` too.
    """

    def __init__(self, top: Fd, path: str) -> None:
        self.top = top
        self._sweep()
        self.name, self.folder = self._make()
        self.socket = f"{path}/{self.name}/{SOCKET}"

    def _sweep(self) -> None:
        for name in os.listdir(self.top.number):
            if name.startswith(NAME):
                try:
                    with open_at(self.top, name, DIRECTORY) as folder:
                        fcntl.flock(folder.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._remove(name, folder)
                except OSError:
                    pass  # locked: its owner is alive

    def _make(self) -> tuple[str, Fd]:
        """Make and lock the folder. Another `pyrunc learn` may sweep it before it is locked: then try again."""
        attempt = 0
        while True:
            name = f"{NAME}{os.getpid()}-{attempt}"
            attempt += 1
            try:
                os.mkdir(name, 0o700, dir_fd=self.top.number)
                folder = open_at(self.top, name, DIRECTORY)
                fcntl.flock(folder.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileExistsError, FileNotFoundError):
                continue
            if os.fstat(folder.number).st_nlink:
                return name, folder

    def listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(f"/proc/self/fd/{self.folder.number}/{SOCKET}")  # the path itself may be too long for a sockaddr
        server.listen()
        return server

    def _remove(self, name: str, folder: Fd) -> None:
        unlink_quietly(folder, SOCKET)
        os.rmdir(name, dir_fd=self.top.number)

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(self, *_: object) -> None:
        self._remove(self.name, self.folder)
        self.folder.close()
        self.top.close()

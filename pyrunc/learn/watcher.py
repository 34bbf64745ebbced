"""Watch a program's system calls while it runs. The watcher is a process of its own: the agent of a seccomp filter that
asks about each call.

Each call is looked at before it is made, and then goes on. clone3 alone fails, as it will under the learned profile,
unless it makes namespaces. A capability that a thread was granted before its next call belongs to its last one.
"""

import errno
import os
import posixpath
import select
import socket
import sys
from typing import Any

from pyrunc.errors import PyruncError
from pyrunc.learn import notifications
from pyrunc.learn.notifications import Notice
from pyrunc.learn.rights import Trace, was_needed
from pyrunc.linux.mount import AT_FDCWD
from pyrunc.seccomp import names

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MOST_PATHS = 100_000
NAMESPACES = 0x7E020080  # CLONE_NEW*
CLONE_SIGNAL = 0xFF  # in the flags of clone(2)
# Which arguments of a call name a file: (that of the folder or None, that of the path, that of open's flags or None). A
# call without a path is about the folder's descriptor itself.
PATHS = {
    "open": (None, 0, 1), "openat": (0, 1, 2), "openat2": (0, 1, 2), "creat": (None, 0, None),
    "stat": (None, 0, None), "lstat": (None, 0, None), "newfstatat": (0, 1, None), "fstatat64": (0, 1, None),
    "statx": (0, 1, None), "access": (None, 0, None), "faccessat": (0, 1, None), "faccessat2": (0, 1, None),
    "readlink": (None, 0, None), "readlinkat": (0, 1, None), "chdir": (None, 0, None), "statfs": (None, 0, None),
    "inotify_add_watch": (None, 1, None), "execve": (None, 0, None),
    "mkdir": (None, 0, None), "mkdirat": (0, 1, None), "rmdir": (None, 0, None), "unlink": (None, 0, None),
    "unlinkat": (0, 1, None), "rename": (None, 1, None), "renameat": (2, 3, None), "renameat2": (2, 3, None),
    "link": (None, 1, None), "linkat": (2, 3, None), "symlink": (None, 1, None), "symlinkat": (1, 2, None),
    "mknod": (None, 0, None), "mknodat": (0, 1, None), "chmod": (None, 0, None), "fchmodat": (0, 1, None),
    "chown": (None, 0, None), "lchown": (None, 0, None), "fchownat": (0, 1, None), "truncate": (None, 0, None),
    "utimensat": (0, 1, None), "utime": (None, 0, None), "utimes": (None, 0, None), "futimesat": (0, 1, None),
    "fchmodat2": (0, 1, None), "setxattr": (None, 0, None), "lsetxattr": (None, 0, None),
    "setxattrat": (0, 1, None), "removexattr": (None, 0, None), "lremovexattr": (None, 0, None),
    "removexattrat": (0, 1, None), "fchmod": (0, None, None), "fchown": (0, None, None), "fsetxattr": (0, None, None),
    "fremovexattr": (0, None, None), "bind": (None, 1, None),
}  # fmt: skip
CHANGES = {
    "bind", "fchmod", "fchmodat2", "fchown", "fremovexattr", "fsetxattr", "futimesat", "lremovexattr", "lsetxattr",
    "removexattr", "removexattrat", "setxattr", "setxattrat", "utime", "utimes",
    "creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat",
    "symlink", "symlinkat", "mknod", "mknodat", "chmod", "fchmodat", "chown", "lchown", "fchownat", "truncate",
    "utimensat",
}  # fmt: skip


class Watcher:
    """What was seen.

    Attributes:
        calls: the names of system calls, since the program's own execve.
        unknown: the numbers of those that have no name.
        namespaces: which of clone, clone3 and unshare were asked to make namespaces.
        reached, changed: absolute paths that were named at all, and those that were named for writing.
        capabilities: those that were granted and needed; None where the kernel does not tell.
    """

    def __init__(self, server: socket.socket, control: int) -> None:
        self.server, self.control = server, control
        self.calls: set[str] = set()
        self.unknown: set[int] = set()
        self.architectures: set[int] = set()
        self.reached: set[str] = set()
        self.changed: set[str] = set()
        self.capabilities: set[str] | None = set()
        self.why_not = ""
        self.too_many = False
        self.last: dict[int, str] = {}
        self.known: dict[tuple[int, int], str] = {}
        self.programs: set[int] = set()  # listeners of programs that have reached their own execve
        self.namespaces: set[str] = set()
        try:
            self.trace: Trace | None = Trace()
        except OSError as error:
            self.trace, self.capabilities = None, None
            self.why_not = error.strerror or str(error)

    def run(self) -> dict[str, Any]:
        """Watch until the other end of `control` is closed and no watched process is left. Returns what was seen."""
        poll = select.poll()
        poll.register(self.server.fileno(), select.POLLIN)
        poll.register(self.control, select.POLLIN)
        listeners: set[int] = set()
        stopping = False
        try:
            while listeners or not stopping:
                for number, events in poll.poll():
                    if number == self.server.fileno():
                        listener = self._accept()
                        listeners.add(listener)
                        poll.register(listener, select.POLLIN)
                    elif number == self.control:
                        stopping = True
                        poll.unregister(number)
                    elif events & select.POLLIN:
                        self._look(number)
                    else:
                        poll.unregister(number)
                        listeners.discard(number)
                        self.programs.discard(number)
                        os.close(number)
            self._drain()
        finally:
            if self.trace is not None:
                self.trace.close()
        return self._result()

    def _accept(self) -> int:
        """Take a listener from its one message. config-linux.md, containerProcessState"""
        connection, _ = self.server.accept()
        with connection:
            _, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        return int.from_bytes(control[0][2][:4], sys.byteorder)

    def _look(self, listener: int) -> None:
        notice = notifications.receive(listener)
        if notice is None:
            return
        name = self._name(notice)
        fails = False
        try:
            if listener in self.programs or name in ("execve", "execveat"):  # before that it is our code
                self._begin(listener, notice.pid)
                self._note(listener, notice, name)
                fails = name == "clone3" and name not in self.namespaces
        finally:
            if fails:
                notifications.fail(listener, notice, errno.ENOSYS)
            else:
                notifications.go_on(listener, notice)

    def _begin(self, listener: int, pid: int) -> None:
        if listener not in self.programs:
            self.programs.add(listener)
            if self.trace is not None:
                self.trace.follow(pid)

    def _note(self, listener: int, notice: Notice, name: str) -> None:
        self._drain()
        self.last[notice.pid] = name
        if self._makes_namespaces(notice, name):
            self.namespaces.add(name)
            self.last[notice.pid] = "unshare"  # it needs the same rights
        self.architectures.add(notice.architecture)
        if name:
            self.calls.add(name)
        else:
            self.unknown.add(notice.number)
        if name in PATHS:
            self._note_path(listener, notice, name)

    def _makes_namespaces(self, notice: Notice, name: str) -> bool:
        flags = notice.arguments[0] if name in ("clone", "unshare") else 0
        if name == "clone":
            flags &= ~CLONE_SIGNAL
        if name == "clone3":
            flags = notifications.number_at(notice.pid, notice.arguments[0])
        return bool(flags & NAMESPACES)

    def _name(self, notice: Notice) -> str:
        key = (notice.architecture, notice.number)
        if key not in self.known:
            self.known[key] = names.name_of(*key)
        return self.known[key]

    def _drain(self) -> None:
        if self.trace is None or self.capabilities is None:
            return
        for thread, capability in self.trace.read():
            if thread in self.last and was_needed(capability, self.last[thread], self.changed):
                self.capabilities.add(capability)
        if self.trace.lost:
            self.capabilities, self.why_not = None, "it had no room left for what it told"

    def _note_path(self, listener: int, notice: Notice, name: str) -> None:
        folder, place, flags = PATHS[name]
        path = "" if place is None else self._path_at(listener, notice, name, notice.arguments[place])
        if path is None:
            return
        if not path.startswith("/"):
            descriptor = AT_FDCWD if folder is None else notice.arguments[folder] & 0xFFFFFFFF
            path = self._absolute(notice.pid, descriptor, path)
        path = posixpath.normpath(path) if path else ""
        if not path:
            return
        if len(self.reached) >= MOST_PATHS and path not in self.reached:
            self.too_many = True  # a program that makes up paths must not fill the host's memory
            return
        self.reached.add(path)
        asked = 0
        if flags is not None:
            asked = notice.arguments[flags]
            asked = notifications.number_at(notice.pid, asked) if name == "openat2" else asked
        if name in CHANGES or asked & WRITING:
            self.changed.add(path)

    def _path_at(self, listener: int, notice: Notice, name: str, address: int) -> "str | None":
        """The path that a call names. None: bind(2) of a socket that is no file. That of a UNIX socket may make a file:
        struct sockaddr_un."""
        if name != "bind":
            return notifications.text_at(listener, notice, address)
        family = int.from_bytes(notifications.memory_at(notice.pid, address, 2)[:2], sys.byteorder)
        path = notifications.text_at(listener, notice, address + 2) if family == socket.AF_UNIX else ""
        return path[: max(0, notice.arguments[2] - 2)] or None

    def _absolute(self, pid: int, descriptor: int, path: str) -> str:
        link = "cwd" if descriptor >= 1 << 31 or descriptor == AT_FDCWD else f"fd/{descriptor}"
        try:
            folder = os.readlink(f"/proc/{pid}/{link}")
        except OSError:
            return ""
        return f"{folder}/{path}" if folder.startswith("/") else ""

    def _result(self) -> dict[str, Any]:
        if self.too_many:
            cause = f"it has named more than {MOST_PATHS} paths, and not all were looked at"
            raise PyruncError("learning", "paths", cause)
        return {
            "calls": sorted(self.calls),
            "unknown": sorted(self.unknown),
            "namespaces": sorted(self.namespaces),
            "architectures": sorted(self.architectures),
            "reached": sorted(self.reached),
            "changed": sorted(self.changed),
            "capabilities": None if self.capabilities is None else sorted(self.capabilities),
            "why": self.why_not,
        }

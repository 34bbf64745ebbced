"""The conversation between the runtime and a process on its way to execve. docs/architecture.md has it as a table.

The process asks, or tells, and the runtime answers GO. What the runtime does for each message stands in
container/launch.py: ANSWERS.
"""

import _socket
import posix
import sys

from pyrunc.errors import packed, unpacked
from pyrunc.linux.fd import Fd

SOL_SOCKET = _socket.SOL_SOCKET
SCM_RIGHTS = _socket.SCM_RIGHTS
GLANCE = _socket.MSG_PEEK | _socket.MSG_DONTWAIT
MOST = 1 << 16  # bytes of a message

# The runtime says: it is done, go on. Some answers carry a descriptor.
GO = "G"

# The runtime gives, after start, to a process that is told its program then: three streams, and the arguments.
STREAM = "I"
ARGUMENTS = "A"

# The process asks, and waits for GO.
WRITE_ID_MAPS = "M"
WRITE_TIME_OFFSETS = "T"  # the text of /proc/PID/timens_offsets
SET_LIMITS = "L"  # the resource limits that the process may not raise itself
FOLLOW = "P"  # to the process of the second clone: its pidfd, or the number that this has here
MOVE_NET_DEVICES = "N"  # the network namespace that they are to move to
OPEN_MOUNT = "O"  # the index of an entry of `mounts`, or context.ROOT; the answer carries the mount
MAKE_DEVICE = "V"  # the index of a device; the answer carries a mount of its node, or nothing
GIVE_STREAM = "U"  # a pipe that is a standard stream, for the process's user to own
ENTER_DELEGATED = "B"  # the cgroup below its own that the container is to manage
RUN_HOOKS = "H"  # the mounts stand: prestart, createRuntime
HAND_OVER_LISTENER = "S"  # the number here of the seccomp filter's listener
READY = "R"  # to wait for start, or to execute

# The process tells, and goes on.
TERMINAL = "C"  # the master of its terminal
WARNING = "W"
DEBUG = "D"
STEP_TAKEN = "K"  # the step's name, when it began and when it ended
FAILED = "E"  # the four fields of the error

# The stream has ended: the process is dead, or has executed its program.
END = ""


class Message:
    """What was received.

    Attributes:
        kind: one of the constants above.
        fields: its texts; there is one at least.
        descriptor: what came with it.
    """

    __slots__ = ("descriptor", "fields", "kind")

    def __init__(self, kind: str, fields: "list[str]", descriptor: "Fd | None") -> None:
        self.kind = kind
        self.fields = fields
        self.descriptor = descriptor

    @property
    def text(self) -> str:
        return self.fields[0]


class Channel:
    """One end of a SOCK_SEQPACKET pair. A message is a letter and its texts, and a descriptor if it has one."""

    __slots__ = ("socket",)

    def __init__(self, socket: _socket.socket) -> None:
        self.socket = socket

    @staticmethod
    def pair() -> "tuple[Channel, Channel]":
        pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        return Channel(pair[0]), Channel(pair[1])

    def send(self, kind: str, *fields: str, fd: "Fd | None" = None) -> None:
        self.socket.sendmsg([_encoded(kind, fields)], [] if fd is None else [rights(fd)], _socket.MSG_NOSIGNAL)

    def write(self, kind: str, *fields: str) -> None:
        """The same by write(2), which a seccomp profile hardly ever forbids: the filter may be in force."""
        posix.write(self.socket.fileno(), _encoded(kind, fields))

    def receive(self) -> Message:
        data, control, _, _ = self.socket.recvmsg(MOST, 64, _socket.MSG_CMSG_CLOEXEC)
        fd = None
        for level, kind, payload in control:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fd = Fd(int.from_bytes(payload[:4], sys.byteorder), "a descriptor of the container")
        text = data.decode("utf-8", "surrogateescape")
        return Message(text[:1], unpacked(text[1:]), fd)

    def read_go(self) -> bool:
        """Whether the answer is GO. By read(2): the filter may be in force."""
        return posix.read(self.socket.fileno(), MOST) == b"G"

    def is_alone(self) -> bool:
        """Whether the other side is gone.

        Not by poll(2): it refuses more descriptors than RLIMIT_NOFILE, which may be as low as the container's.
        """
        try:
            return not self.socket.recv(1, GLANCE)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        Fd(self.socket.detach()).close()


def _encoded(kind: str, fields: "tuple[str, ...]") -> bytes:
    return (kind + packed(*fields)).encode("utf-8", "surrogateescape")[:MOST]


def rights(fd: Fd) -> "tuple[int, int, bytes]":
    """The control message that carries a descriptor. unix(7)"""
    return SOL_SOCKET, SCM_RIGHTS, fd.number.to_bytes(4, sys.byteorder)

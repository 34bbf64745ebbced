"""seccomp's notifications: a system call waits until we have looked at it, and then goes on. seccomp_unotify(2)"""

import errno
import fcntl
import os
import struct
import sys
from typing import NamedTuple

RECEIVE, SEND, IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
CONTINUE = 1  # Linux 5.5
NOTICE = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
LONGEST = 4096  # PATH_MAX


class Notice(NamedTuple):
    """One system call that is about to be made. `pid` is the number of a thread."""

    id: int
    pid: int
    flags: int
    number: int
    architecture: int
    pointer: int
    arguments: tuple[int, ...]


def receive(listener: int) -> "Notice | None":
    """The next system call that waits. None: its process is gone, and nobody waits any more."""
    buffer = bytearray(NOTICE.size)
    try:
        fcntl.ioctl(listener, RECEIVE, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:  # the process has been killed meanwhile
            return None
        raise
    fields = NOTICE.unpack(buffer)
    id, pid, flags, number, architecture, pointer, *arguments = fields
    return Notice(id, pid, flags, number, architecture, pointer, tuple(arguments))


def go_on(listener: int, notice: Notice) -> None:
    _answer(listener, ANSWER.pack(notice.id, 0, 0, CONTINUE))


def fail(listener: int, notice: Notice, error: int) -> None:
    """Have the call return an error. It is not made."""
    _answer(listener, ANSWER.pack(notice.id, 0, -error, 0))


def _answer(listener: int, answer: bytes) -> None:
    try:
        fcntl.ioctl(listener, SEND, answer)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def text_at(listener: int, notice: Notice, address: int) -> str:
    """A string in the caller's memory; "" where there is none. The caller may change it afterwards: so it is good for a
    report, and not for a decision."""
    data = memory_at(notice.pid, address, LONGEST)
    try:
        fcntl.ioctl(listener, IS_VALID, struct.pack("=Q", notice.id))
    except OSError:
        return ""  # the process is gone, and its number may be another's by now
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def memory_at(pid: int, address: int, size: int) -> bytes:
    """Bytes of a process's memory. Fewer, up to the end of the page, where the next page does not exist."""
    page = 4096
    first = min(size, page - address % page)
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.pread(memory, first, address)
        if b"\0" not in data and first < size:
            data += os.pread(memory, size - first, address + first)
    except (OSError, OverflowError):
        data = b""
    finally:
        os.close(memory)
    return data


def number_at(pid: int, address: int) -> int:
    """A u64 in a process's memory. The flags are such a number: the first member of struct open_how and clone_args."""
    return int.from_bytes(memory_at(pid, address, 8)[:8], sys.byteorder)

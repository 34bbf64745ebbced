"""Which protocol the containerd that has started us speaks. It decides what `start` prints, and how containerd calls us
later."""

import posix

from pyrunc.linux.fd import Fd, open_at
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ELF_64_LITTLE = b"\x7fELF\x02\x01"
BUILD_INFORMATION = b".go.buildinfo"
MODULE = b"github.com/containerd/containerd"


def answer(address: str, asked: "dict[str, Any]", caller: int) -> bytes:
    """What `start` prints. With version 3 containerd calls us for the first container of a pod only.

    From 2.3 on containerd's parameters (`asked`) say what it takes. Before that nothing tells 2.0 from 1.7, and 1.7
    refuses version 3.
    """
    if asked or _is_second(caller):
        return dumps({"version": 3, "address": address, "protocol": "ttrpc"}).encode("utf-8", "surrogateescape")
    return address.encode("utf-8", "surrogateescape")


def _is_second(pid: int) -> bool:
    """Whether the process is a containerd 2 or contains one. The file of its program says so. In doubt: no."""
    try:
        with open_at(None, f"/proc/{pid}/exe", posix.O_RDONLY) as program:
            modules = _build_information(program)
    except (OSError, IndexError):
        return False
    return MODULE + b"/v2" in modules and MODULE + b"\t" not in modules


def _build_information(program: Fd) -> bytes:
    """What Go's linker writes about the modules in a program. debug/buildinfo; elf(5)"""
    head = posix.pread(program.number, 64, 0)
    if not head.startswith(ELF_64_LITTLE):
        return b""
    size, count, names_index = (_number(head, at, 2) for at in (58, 60, 62))
    table = posix.pread(program.number, size * count, _number(head, 40, 8))
    sections = [table[at : at + size] for at in range(0, len(table), size)]
    names = _content(program, sections[names_index])
    for section in sections:
        start = _number(section, 0, 4)
        if names[start : names.find(b"\0", start)] == BUILD_INFORMATION:
            return _content(program, section)
    return b""


def _content(program: Fd, section: bytes) -> bytes:
    return posix.pread(program.number, min(_number(section, 32, 8), 1 << 20), _number(section, 24, 8))


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")

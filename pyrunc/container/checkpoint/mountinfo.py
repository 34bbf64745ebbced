"""The mounts of another process: /proc/PID/mountinfo, proc(5)."""

from pyrunc.linux.fd import Fd, read_file
from pyrunc.linux.mount import unescaped


class Mounted:
    """One mount: a line of the file.

    Attributes:
        number, parent: its own number, and that of the mount above.
        device: major:minor of the file system.
        root: the path in the file system that the mount shows.
        place: where it is mounted, as the process sees it.
        flags: those of the mount.
        kind: the type of the file system.
    """

    __slots__ = ("device", "flags", "kind", "number", "parent", "place", "root")

    def __init__(self, line: str) -> None:
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        self.number, self.parent = int(words[0]), int(words[1])
        self.device = words[2]
        self.root, self.place = unescaped(words[3]), unescaped(words[4])
        self.flags = words[5].split(",")
        self.kind = rest.split(" ", 1)[0]


def mounts_of(pid: "int | str") -> "list[Mounted]":
    """All mounts, in the order in which they were made. Of two at one place, the later one is seen."""
    text = read_file(f"/proc/{pid}/mountinfo").decode("utf-8", "surrogateescape")
    return [Mounted(line) for line in text.splitlines()]


def mount_of(fd: Fd) -> int:
    """The number of the mount that a descriptor is on."""
    lines = read_file(f"/proc/self/fdinfo/{fd.number}").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"mnt_id:"))

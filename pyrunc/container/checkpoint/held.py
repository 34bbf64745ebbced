"""What restored processes hold open: folders, files and sockets. CRIU has opened them, with all its rights."""

import _stat
import posix

from pyrunc.container.checkpoint.mountinfo import mount_of
from pyrunc.container.checkpoint.rights import refuse
from pyrunc.init.capabilities import BIT
from pyrunc.linux.fd import open_at, read_file

PACKETS = (("packet", 8), ("raw", 9), ("raw6", 9))  # of /proc/PID/net: which word is the inode


def look(pid: int, mounts: "set[int]", bounding: int, terminals: bool) -> None:
    """Look at what a process holds open. Raises PyruncError when something of that is the host's.

    Args:
        mounts: the numbers of the mounts in its mount namespace.
        bounding: the capabilities that it may have.
        terminals: whether it may hold a terminal of the host's (--shell-job).
    """
    with open_at(None, f"/proc/{pid}/cwd", posix.O_PATH) as cwd:
        if mount_of(cwd) not in mounts:
            raise refuse(f"process {pid}", "its working directory is outside of its mounts")
    sockets = set()
    for number in posix.listdir(f"/proc/{pid}/fd"):
        link = posix.readlink(f"/proc/{pid}/fd/{number}")
        if link.startswith("socket:["):
            sockets.add(link[8:-1])
        elif link.startswith("/") and not link.startswith("/memfd:") and _mount(pid, number) not in mounts:
            mode = posix.stat(f"/proc/{pid}/fd/{number}").st_mode
            if not (terminals and _stat.S_ISCHR(mode)):
                raise refuse(f"process {pid}", f"it has {link} open, which is outside of its mounts")
    if sockets and not bounding & BIT["CAP_NET_RAW"]:
        _packets(pid, sockets)


def _mount(pid: int, number: str) -> int:
    lines = read_file(f"/proc/{pid}/fdinfo/{number}").splitlines()
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"mnt_id:"))


def _packets(pid: int, sockets: "set[str]") -> None:
    """Refuse packet and raw sockets. Without CAP_NET_RAW a process can't make one, and with one it could read what
    others send."""
    for name, column in PACKETS:
        try:
            lines = read_file(f"/proc/{pid}/net/{name}").decode().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without such sockets
        if sockets & {line.split()[column] for line in lines}:
            raise refuse(f"process {pid}", f"it has a socket of kind {name}, for which config.json has no CAP_NET_RAW")

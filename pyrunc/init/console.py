"""The container's terminal, allocated in its own devpts. config.md#process, terminal"""

import _stat
import fcntl
import posix

from pyrunc.errors import StepError
from pyrunc.init import channel
from pyrunc.init.context import Context, step
from pyrunc.linux import path
from pyrunc.linux.fd import FLAGS, Fd, open_at
from pyrunc.linux.mount import DEVPTS_SUPER_MAGIC, filesystem_type, move_mount, open_tree

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
PTMX = posix.makedev(5, 2)
PTMX_INODE = 2


@step("allocating the terminal")
def allocate(context: Context) -> None:
    """Both ends are had by file descriptor: the master from a ptmx that is verified to be the one of devpts, the
    slave from the master (TIOCGPTPEER, Linux 4.13). A path such as /dev/pts/N may lead to somebody else's terminal
    (CVE-2025-52565).
    """
    if not context.process.get("terminal"):
        return
    root = context.root or open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY)
    with path.resolve(root, "/dev/pts/ptmx", symlinks=False) as ptmx:
        status = posix.fstat(ptmx.number)
        if filesystem_type(ptmx) != DEVPTS_SUPER_MAGIC or status.st_rdev != PTMX or status.st_ino != PTMX_INODE:
            raise StepError("allocating the terminal", "/dev/pts/ptmx", "is not the ptmx of a devpts")
        master = open_at(context.host_proc, f"self/fd/{ptmx.number}", posix.O_RDWR)
    fcntl.ioctl(master.number, TIOCSPTLCK, b"\0\0\0\0")
    slave = Fd(fcntl.ioctl(master.number, TIOCGPTPEER, posix.O_RDWR | FLAGS), "the terminal")
    size = context.process.get("consoleSize")
    if size:
        rows, columns = size["height"], size["width"]
        fcntl.ioctl(slave.number, TIOCSWINSZ, b"".join(n.to_bytes(2, "little") for n in (rows, columns, 0, 0)))
    uid = context.process.get("user", {}).get("uid", 0)
    posix.fchown(slave.number, uid, -1)
    if context.init and context.root is not None:
        _bind_console(root, slave)
    context.channel.send(channel.TERMINAL, fd=master)
    master.close()
    context.terminal = slave


def _bind_console(root: Fd, slave: Fd) -> None:
    """Make /dev/console the terminal. What the image has there is not followed (crun CVE-2026-88264)."""
    with path.ensure_directory(root, "/dev") as dev:
        try:
            posix.close(
                posix.open("console", posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY | FLAGS, 0o620, dir_fd=dev.number)
            )
        except FileExistsError:
            pass
        with path.openat2(dev, "console", posix.O_PATH | posix.O_NOFOLLOW) as place:
            if path.file_type(place) == _stat.S_IFLNK:
                raise StepError("mounting the terminal on", "/dev/console", "it is a symlink in the image")
            move_mount(open_tree(slave), place)


@step("making the terminal the process's standard streams")
def become_streams(context: Context) -> None:
    slave = context.terminal
    if slave is None:
        return
    for number in (0, 1, 2):
        posix.dup2(slave.number, number, inheritable=True)
    slave.close()


@step("making the terminal the session's own")
def control(context: Context) -> None:
    if context.terminal is not None:
        fcntl.ioctl(0, TIOCSCTTY, 0)

"""The worker, started by an interpreter that is not sealed: an editable installation has no launcher.

`/proc/PID/exe` of a process that enters a container leads to the interpreter's file (CVE-2019-5736). So the
interpreter executes itself once more, from a read-only clone of its mount, as the launcher does (launcher/seal.h).
"""

import os
import sys

from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import mount_setattr, open_tree

SEALED = "sealed"
RDONLY = 1  # MOUNT_ATTR_RDONLY


def main() -> None:
    if sys.argv[1:] == [SEALED]:
        from pyrunc.library.worker import main as work

        os._exit(work([]))
    words = [sys.orig_argv[0], *sys.orig_argv[1:], SEALED]
    file = Fd(os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC), sys.executable)
    os.execve(_sealed(file).take(), words, dict(os.environ))


def _sealed(file: Fd) -> Fd:
    try:
        clone = open_tree(file)
        mount_setattr(clone, set=RDONLY)
        return clone
    except OSError:
        pass  # we may not mount
    if os.geteuid() and os.fstat(file.number).st_uid != os.geteuid() and not os.access(sys.executable, os.W_OK):
        return file  # we may not write the file either
    copy = Fd(os.memfd_create("pyrunc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "pyrunc")
    size = os.fstat(file.number).st_size
    sent = 0
    while sent < size:
        sent += os.sendfile(copy.number, file.number, sent, size - sent)
    import fcntl

    fcntl.fcntl(copy.number, fcntl.F_ADD_SEALS, 0xF)  # F_SEAL_SEAL | SHRINK | GROW | WRITE
    return copy

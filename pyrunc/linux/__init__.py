"""The kernel, thinly: one function a system call, named as the kernel names it, raising OSError."""

import errno
import posix

from pyrunc.linux._kernel import ffi

# The first Linux that has a call. What is missing here is older than every Linux that we run on.
SINCE = {
    "clone3": "5.3",
    "close_range": "5.9",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fsopen": "5.2",
    "fspick": "5.2",
    "mount_setattr": "5.12",
    "move_mount": "5.2",
    "open_tree": "5.2",
    "openat2": "5.6",
    "pidfd_getfd": "5.6",
    "pidfd_open": "5.3",
    "pidfd_send_signal": "5.1",
}


def kernel_error(call: str, subject: str, number: int = 0) -> OSError:
    """The error of the system call that has just failed: `subject: call: why`. `number`: its errno, if posix has it."""
    number = number or ffi.errno
    words = posix.strerror(number)
    text = f"{call}: {words[0].lower()}{words[1:]}"
    since = SINCE.get(call.partition(" ")[0])
    if number == errno.ENOSYS and since:
        release = posix.uname().release
        text += f" (it needs Linux {since}, and no seccomp filter around the runtime; this is Linux {release})"
    return OSError(number, text, subject)


def encoded(text: str) -> bytes:
    """Text as the kernel takes it. Bytes that were no UTF-8 when they came in go out as the same bytes."""
    return text.encode("utf-8", "surrogateescape")

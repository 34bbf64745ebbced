"""The kernel, thinly: one function a system call, named as the kernel names it, raising OSError."""

import posix

from pyrunc.linux._kernel import ffi


def kernel_error(call: str, subject: str) -> OSError:
    """The error of the system call that has just failed: `subject: call: why`."""
    number = ffi.errno
    words = posix.strerror(number)
    return OSError(number, f"{call}: {words[0].lower()}{words[1:]}", subject)

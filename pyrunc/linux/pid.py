"""Which process a number means."""

import posix

from pyrunc.linux.fd import read_file


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its pid, its identity. proc(5), field 22.

    Raises ProcessLookupError when there is no such process, or only its zombie.
    """
    try:
        text = read_file(f"/proc/{pid}/stat")
    except FileNotFoundError:
        raise ProcessLookupError(3, posix.strerror(3), f"process {pid}") from None
    fields = text[text.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(3, "is a zombie", f"process {pid}")
    return int(fields[19])

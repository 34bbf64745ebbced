"""Programs of the host that do something for us."""

import posix

from pyrunc.container.patience import DEATH_SECONDS, HELPER_SECONDS
from pyrunc.errors import Overdue
from pyrunc.linux.fd import Fd, read_all
from pyrunc.linux.pid import end, has_ended, pidfd_open, reap

SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin")  # the last one is of NixOS


def find(name: str) -> "str | None":
    """Where a program is: first by the caller's PATH, since nothing runs with more rights than the caller has, then
    in the usual places.
    """
    own = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape").split(":")
    places = [f"{directory}/{name}" for directory in (*own, *SEARCH) if directory.startswith("/")]
    return next((place for place in places if posix.access(place, posix.X_OK)), None)


def run(path: str, arguments: "list[str]", operation: str) -> "tuple[int, str]":
    """Run a program. Returns its wait status, and what it wrote to its standard output. Raises OSError, Overdue.

    Args:
        operation: what is being done, for errors.
    """
    with Fd(posix.memfd_create("output", posix.MFD_CLOEXEC), "output") as output:
        moves = [(posix.POSIX_SPAWN_DUP2, output.number, 1)]
        with pidfd_open(posix.posix_spawn(path, arguments, posix.environ, file_actions=moves)) as helper:
            if not has_ended(helper, HELPER_SECONDS):
                end(helper, DEATH_SECONDS)
                raise Overdue(operation, "", f"{arguments[0]} has not ended in {HELPER_SECONDS:.0f} s")
            status = reap(helper)
        posix.lseek(output.number, 0, 0)
        return status, read_all(output).decode("utf-8", "surrogateescape")

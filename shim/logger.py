"""binary:// and binary-v2://: a program of the user's that gets a container's output. Only one that containerd names
is run."""

import fcntl
import posix
import select

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import kill_group, pidfd_open

READY_SECONDS = 30.0


def start(uri: str, container_id: str, namespace: str) -> "tuple[Fd, Fd]":
    """Start a logger, and return the pipes for standard output and error. Raises PyruncError.

    The program reads them as descriptors 3 and 4, and closes 5 when it is ready. With binary-v2 it writes a byte to 5
    first, so that its end is not taken for readiness. Its arguments are the names and values of the URI's query. A
    program that is not ready in time is ended.
    """
    scheme, _, rest = uri.partition("://")
    path, _, query = rest.partition("?")
    arguments = [_unquoted(path)]
    for item in sorted(query.split("&") if query else []):  # sorted, as the order in Go is random
        arguments += [_unquoted(word) for word in item.split("=", 1)]
    pipes = [posix.pipe2(posix.O_CLOEXEC) for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][0], pipes[2][1]]
    ours = Fd(pipes[0][1], "the logger"), Fd(pipes[1][1], "the logger")
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in theirs]  # no dup2 below may hit another
    with Fd(pipes[2][0], "the logger") as ready:
        try:
            pid = posix.posix_spawn(
                arguments[0], arguments,
                {**posix.environ, b"CONTAINER_ID": container_id.encode(), b"CONTAINER_NAMESPACE": namespace.encode()},
                file_actions=[(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high, 3)],
                setsigdef=(13, 17), setpgroup=0,
            )  # fmt: skip
        except OSError as error:
            raise PyruncError("starting the logger", uri, reason(error)) from error
        finally:
            for fd in theirs + high:
                posix.close(fd)
        try:
            _wait_for(ready, scheme, uri)
        except BaseException:
            with pidfd_open(pid) as logger:
                kill_group(logger, pid)
            posix.waitpid(pid, 0)
            raise
    return ours


def _wait_for(ready: Fd, scheme: str, uri: str) -> None:
    poll = select.poll()
    poll.register(ready.number, select.POLLIN)
    if not poll.poll(READY_SECONDS * 1000):
        raise PyruncError("starting the logger", uri, f"it was not ready after {READY_SECONDS:.0f} s")
    if scheme == "binary-v2" and not posix.read(ready.number, 1):
        raise PyruncError("starting the logger", uri, "it ended, or closed descriptor 5, before it wrote a byte there")


def _unquoted(text: str) -> str:
    """Decode a URI's %XX, and + as a blank."""
    first, *rest = text.replace("+", " ").split("%")
    out = bytearray(first.encode())
    for part in rest:
        try:
            out.append(int(part[:2], 16))
            out += part[2:].encode()
        except ValueError:
            out += b"%" + part.encode()
    return out.decode("utf-8", "surrogateescape")

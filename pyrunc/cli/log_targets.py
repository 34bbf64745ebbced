"""--log=journald:NAME and --log=syslog:NAME, as crun has them: lines go to a service, and not to a file."""

import _socket
import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import MESSAGE_SECONDS
from pyrunc.log import Log

JOURNAL, SYSLOG = "/run/systemd/journal/socket", "/dev/log"
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3)
DAEMON = 3 << 3


class Service(Log):
    """One that speaks to a datagram socket of the host's."""

    __slots__ = ("name", "socket")

    def __init__(self, path: str, name: str, debug: bool, warnings: bool) -> None:
        """Raises PyruncError: nobody listens there, and what would be told would be lost."""
        super().__init__(None, False, debug, warnings)
        self.name = name or "pyrunc"
        self.socket: _socket.socket | None = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self.socket.settimeout(MESSAGE_SECONDS)
        try:
            self.socket.connect(path)
        except OSError as error:
            raise PyruncError("--log", path, reason(error), "is that service running?") from error
        self.is_elsewhere = True

    def message(self, level: str, text: str) -> bytes:
        raise NotImplementedError

    def write(self, level: str, text: str) -> None:
        try:
            if self.socket is not None:
                self.socket.send(self.message(level, text))
        except TimeoutError:
            self.socket = None  # a service that hangs is waited for once: what it logs has to be stopped all the same
        except OSError:
            pass  # as of a file: see Log.write


class Journal(Service):
    """systemd-journald's native protocol: a line for each field; a text of several lines has its length before it."""

    __slots__ = ()

    def message(self, level: str, text: str) -> bytes:
        data = text.encode("utf-8", "backslashreplace")
        said = b"MESSAGE\n" + len(data).to_bytes(8, "little") + data + b"\n"
        return said + f"PRIORITY={PRIORITIES[level]}\nSYSLOG_IDENTIFIER={self.name}\n".encode()


class Syslog(Service):
    """RFC 3164, as syslog(3) sends it."""

    __slots__ = ()

    def message(self, level: str, text: str) -> bytes:
        line = text.replace("\n", "\\n")
        return f"<{DAEMON | PRIORITIES[level]}>{self.name}[{posix.getpid()}]: {line}".encode(
            "utf-8", "backslashreplace"
        )


def service(kind: str, name: str, debug: bool, warnings: bool) -> Service:
    if kind == "journald":
        return Journal(JOURNAL, name, debug, warnings)
    return Syslog(SYSLOG, name, debug, warnings)

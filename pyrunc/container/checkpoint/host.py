"""What CRIU has on the host: its configuration, and its log."""

import posix

from pyrunc.container.checkpoint.criu import CriuFailed
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.log import Log

DEFAULT_CONFIGS = ("/etc/criu/pyrunc.conf", "/etc/criu/runc.conf")
MOST_OF_LOG = 1 << 24
BEFORE = 5  # lines of the log that are shown before one with an error
HARMLESS = "rlimit: Can't setup"  # CRIU goes on after this error


def config_file(annotations: "dict[str, str]") -> str:
    """The path of CRIU's configuration file: what the annotation org.criu.config names ("" for none), or the host's.

    The file overrules everything else that CRIU is told, so it has to be the host's. A path that would start in the
    bundle, or in CRIU's working directory, is refused.
    """
    named = annotations.get("org.criu.config")
    if named is None:
        return next((path for path in DEFAULT_CONFIGS if posix.access(path, posix.F_OK)), "")
    if named and not named.startswith("/"):
        raise PyruncError("annotation org.criu.config", named, "its path must be absolute")
    return named


def explain(error: CriuFailed, log: "Log", folder: Fd, name: str, path: str) -> None:
    """Add to an error its cause and the path of CRIU's log. Log the errors in there as warnings, each with the lines
    before it."""
    error.hint = f"log file: {path}/{name}"
    try:
        with open_at(folder, name, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK) as file:
            lines = read_all(file, MOST_OF_LOG).decode("utf-8", "replace").splitlines()
    except OSError as failure:
        return log.warning(f"reading {path}/{name}: {reason(failure)}")
    wrong = [number for number, line in enumerate(lines) if "Error" in line and HARMLESS not in line]
    if not wrong:
        return
    error.cause = lines[wrong[0]].partition("Error ")[2].partition(": ")[2] or error.cause
    shown = sorted({number for each in wrong for number in range(max(0, each - BEFORE), each + 1)})
    log.warning(f'--- Quoting "{path}/{name}"')
    for before, number in zip((shown[0], *shown), shown, strict=False):
        if number > before + 1:
            log.warning("...")
        log.warning(f"{number + 1}:{lines[number]}")
    log.warning("---")

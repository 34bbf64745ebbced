"""User namespaces: the maps of IDs, written by whom the kernel lets. user_namespaces(7)"""

import posix
from _signal import SIGKILL

from pyrunc.container import ids
from pyrunc.container.patience import HELPER_SECONDS
from pyrunc.errors import Overdue, PyruncError, reason
from pyrunc.linux.fd import Fd, read_file, write_file
from pyrunc.linux.pid import has_ended, pidfd_open, pidfd_send_signal, reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping, Linux, Process

HELPERS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}
SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin")  # the last is NixOS'


def write_maps(pid: int, linux: "Linux") -> None:
    """Write uid_map and gid_map of a process in a new user namespace. Raises PyruncError."""
    uids, gids = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    if posix.geteuid() and len(gids) == 1 and gids[0]["size"] == 1 and gids[0]["hostID"] == posix.getegid():
        _write(pid, "setgroups", "deny")  # the kernel's price for mapping one's own group without privilege
    for file, mappings in (("gid_map", gids), ("uid_map", uids)):
        if not mappings:
            continue
        try:
            _write(pid, file, ids.as_text(mappings))
        except PermissionError as error:
            if not posix.geteuid():
                raise PyruncError("writing", f"/proc/{pid}/{file}", reason(error)) from error
            _by_helper(HELPERS[file], pid, mappings)
        except OSError as error:
            raise PyruncError(
                "writing", f"/proc/{pid}/{file}", reason(error), "are the mappings valid and disjoint?"
            ) from error


def give(pipe: Fd, pid: int, process: "Process") -> None:
    """A pipe that is a standard stream, to the user of a process, which has no name for the pipe's owner."""
    uid = process.get("user", {}).get("uid", 0)
    owner = ids.on_the_host(uid, ids.of_text(read_file(f"/proc/{pid}/uid_map")))
    if owner is not None:
        try:
            posix.fchown(pipe.number, owner, -1)
        except PermissionError:
            pass  # we are no root


def _write(pid: int, file: str, text: str) -> None:
    write_file(f"/proc/{pid}/{file}", text.encode())


def _program(name: str) -> "str | None":
    """Where the caller finds it himself, as he has no privileges that it could get; else where it usually is."""
    own = posix.environ.get(b"PATH", b"").decode("utf-8", "surrogateescape").split(":")
    places = [f"{directory}/{name}" for directory in (*own, *SEARCH) if directory.startswith("/")]
    return next((place for place in places if posix.access(place, posix.X_OK)), None)


def _by_helper(name: str, pid: int, mappings: "list[IDMapping]") -> None:
    """newuidmap(1): set-uid, and it lets a user have what /etc/subuid gives him."""
    path = _program(name)
    if path is None:
        raise PyruncError("mapping IDs", "", f"{name} is not installed", "install the package uidmap")
    arguments = [name, str(pid)]
    for mapping in mappings:
        arguments += [str(mapping["containerID"]), str(mapping["hostID"]), str(mapping["size"])]
    with pidfd_open(posix.posix_spawn(path, arguments, posix.environ)) as helper:
        if not has_ended(helper, HELPER_SECONDS):
            pidfd_send_signal(helper, SIGKILL)
            reap(helper)
            raise Overdue("mapping IDs", "", f"{name} has not ended in {HELPER_SECONDS:.0f} s")
        status = reap(helper)
    if status:
        raise PyruncError("mapping IDs", " ".join(arguments[2:]), f"{name} refused", "see /etc/subuid and /etc/subgid")

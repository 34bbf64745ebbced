"""User namespaces: the maps of IDs, and who may write them. user_namespaces(7)"""

import posix

from pyrunc.container import ids
from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping, Linux, Process

HELPERS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}


def write_maps(pid: int, linux: "Linux") -> None:
    """Write uid_map and gid_map of a process in a new user namespace. Raises PyruncError."""
    uids, gids = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    if posix.geteuid() and len(gids) == 1 and gids[0]["size"] == 1 and gids[0]["hostID"] == posix.getegid():
        _write(
            pid, "setgroups", "deny"
        )  # the kernel asks for this of a user without privileges who maps their own group
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
    """Give a pipe that is a standard stream to the user of a process. The process can't: the pipe's owner has no ID
    in its user namespace.
    """
    uid = process.get("user", {}).get("uid", 0)
    owner = ids.on_the_host(uid, ids.of_text(read_file(f"/proc/{pid}/uid_map")))
    if owner is not None:
        try:
            posix.fchown(pipe.number, owner, -1)
        except PermissionError:
            pass  # we are not root


def _write(pid: int, file: str, text: str) -> None:
    write_file(f"/proc/{pid}/{file}", text.encode())


def _by_helper(name: str, pid: int, mappings: "list[IDMapping]") -> None:
    """Have newuidmap(1) write the map: it is set-uid, and grants a user what /etc/subuid has for them."""
    from pyrunc.container import helper

    path = helper.find(name)
    if path is None:
        raise PyruncError("mapping IDs", "", f"{name} is not installed", "install the package uidmap")
    arguments = [name, str(pid)]
    for mapping in mappings:
        arguments += [str(mapping["containerID"]), str(mapping["hostID"]), str(mapping["size"])]
    status, _ = helper.run(path, arguments, "mapping IDs")
    if status:
        raise PyruncError("mapping IDs", " ".join(arguments[2:]), f"{name} refused", "see /etc/subuid and /etc/subgid")

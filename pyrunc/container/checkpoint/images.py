"""The images of mounts, cgroups and seccomp filters, which are checked before CRIU reads them.

They decide what CRIU mounts, and which folders and files of cgroups it makes, writes and gives away. CRIU believes
every word of them, and acts as the host's root before anybody can look at the result. So they are read here, and
refused if need be. CRIU gets the copies that were read: a later change of the files has no effect.
"""

import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_all
from pyrunc.protobuf import BOOL, BYTES, STRING, UINT32, Malformed, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.protobuf import Message, Values

MOUNTS, CGROUPS, FILTERS = "mountpoints-", "cgroup.img", "seccomp.img"
HEAD = 8  # two magic numbers
MOST = 1 << 24  # bytes of such an image; those that CRIU writes have some kilobytes
MOST_OF_PATH = 2048  # CRIU puts paths together in buffers of PATH_MAX, and does not count
MOST_OF_NAMES = 100  # CRIU puts options together in a buffer of 128 bytes

# Fields of CRIU's images/*.proto, as far as we look at them. A field is also a list here if its absence means something
# else than 0.
MOUNT: "Message" = {
    1: ("kind", UINT32), 6: ("root", BYTES), 7: ("place", BYTES), 9: ("options", BYTES), 13: ("is_external", BOOL),
    18: ("external", BYTES),
}  # fmt: skip
PROPERTY: "Message" = {1: ("name", BYTES)}
FOLDER: "Message" = {1: ("name", BYTES), 3: ("properties", [PROPERTY])}
FOLDER[2] = ("below", [FOLDER])
CONTROLLER: "Message" = {1: ("names", [STRING]), 2: ("folders", [FOLDER])}
MEMBER: "Message" = {1: ("name", STRING), 2: ("path", BYTES), 3: ("prefix", [UINT32])}
CGROUP: "Message" = {1: ("sets", [{2: ("members", [MEMBER])}]), 2: ("controllers", [CONTROLLER])}
FILTER: "Message" = {1: ("program", BYTES), 2: ("before", [UINT32]), 3: ("flags", UINT32)}
FILTER_AGAIN: "Message" = {**FILTER, 2: ("before", UINT32)}

PROC, SYSFS, TMPFS, DEVPTS, CGROUP_1, MQUEUE, CGROUP_2 = 1, 2, 5, 6, 12, 14, 23
# File systems that CRIU may make, as nothing of the host's is in them. 0 is a kind that it can't make. With all others
# (overlay, a disk's) the image's options or source would decide which part of the host they show.
MAY_BE_MADE = (0, PROC, SYSFS, TMPFS, DEVPTS, CGROUP_1, MQUEUE, CGROUP_2)
CRIUS_OWN = b"CRIU:"  # begins the keys of mounts that CRIU itself takes from outside, without asking us
KEPT_FLAGS = 2 | 4  # SECCOMP_FILTER_FLAG_LOG and _SPEC_ALLOW: the others only matter while a filter is installed


def vetted(
    folder: Fd, path: str, hierarchies: "list[str] | None", is_soft: bool, program: "bytes | None", flags: int
) -> "dict[str, bytes]":
    """Check the images, and return name -> the copy that CRIU is to read. Raises PyruncError.

    Args:
        hierarchies: those in which the container has a cgroup. None: CRIU is to leave cgroups alone, and the copy has
            none.
        is_soft: whether existing cgroups are left as they are (--manage-cgroups-mode soft).
        program, flags: the seccomp filter that is put below every other one. None: there is none.
    """
    names = posix.listdir(folder.number)
    mounts = [name for name in names if name.startswith(MOUNTS)]
    found = {}

    def look(name: str, check: "Callable[[list[bytes]], list[bytes]]") -> None:
        try:
            head, messages = _read(folder, name)
            found[name] = _written(head, check(messages))
        except Malformed as error:
            raise PyruncError("restoring", f"{path}/{name}", str(error), "its checkpoint was changed") from None
        except OSError as error:
            raise PyruncError("restoring", f"{path}/{name}", reason(error)) from error
        except RecursionError:
            raise PyruncError("restoring", f"{path}/{name}", "its messages lie too deep in each other") from None

    for name in mounts:
        look(name, lambda messages: _mounts(messages, len(mounts) == 1, hierarchies))
    if CGROUPS in names:
        look(CGROUPS, lambda messages: _cgroups(messages, hierarchies, is_soft))
    if FILTERS in names and program is not None:
        look(FILTERS, lambda messages: _filters(messages, program, flags))
    return found


def leaves_cgroups(copies: "dict[str, bytes]") -> bool:
    """Whether CRIU is to leave cgroups alone: the copy of their image is empty."""
    return len(copies.get(CGROUPS, b"")) <= HEAD


def _read(folder: Fd, name: str) -> "tuple[bytes, list[bytes]]":
    with open_at(folder, name, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK) as file:
        data = read_all(file, MOST + 1)
    if len(data) > MOST:
        raise Malformed("it is too large")
    messages, position = [], HEAD
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if size > len(data) - position:
            raise Malformed("it is cut off")
        messages.append(data[position : position + size])
        position += size
    return data[:HEAD], messages


def _written(head: bytes, messages: "list[bytes]") -> bytes:
    return head + b"".join(len(message).to_bytes(4, "little") + message for message in messages)


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "replace")


def _stays(path: bytes) -> bytes:
    """The path itself. Raises Malformed if it leads up, or is too long."""
    if b".." in path.split(b"/"):
        raise Malformed(f"a path leads up: {_shown(path)}")
    if len(path) > MOST_OF_PATH:
        raise Malformed("a path is too long")
    return path


def _mounts(messages: "list[bytes]", is_only: bool, hierarchies: "list[str] | None") -> "list[bytes]":
    """Refuse file systems that CRIU may not make. The root of the only mount namespace may be of any kind: the bundle's
    root file system takes its place."""
    for message in messages:
        mount = decode(MOUNT, message)
        place = _stays(mount["place"])
        is_whole = _stays(mount["root"]) == b"/"
        is_root = is_only and place in (b"/", b".", b"./")
        is_outside = (mount["is_external"] or mount["external"]) and not mount["external"].startswith(CRIUS_OWN)
        if is_whole and not is_root and not is_outside and mount["kind"] not in MAY_BE_MADE:
            kind = mount["kind"]
            raise Malformed(f"CRIU would make a file system at {_shown(place)} that shows what it likes (kind {kind})")
        if mount["kind"] in (CGROUP_1, CGROUP_2):
            _options(mount["options"], hierarchies or [])
    return messages


def _options(options: bytes, hierarchies: "list[str]") -> None:
    """Refuse options of a cgroup hierarchy that have a value, except for a known name. release_agent names a program
    that the kernel runs on the host, and another name makes another hierarchy."""
    known = {name.encode() for hierarchy in hierarchies for name in hierarchy.split(",")}
    for option in options.split(b","):
        if b"=" in option and option not in known:
            raise Malformed(f"a cgroup hierarchy has the option {_shown(option)}")


def _cgroups(messages: "list[bytes]", hierarchies: "list[str] | None", is_soft: bool) -> "list[bytes]":
    """Refuse cgroups outside of the one folder that each controller may have, which all processes are in or below. CRIU
    puts the container's cgroup in place of that folder (cg_root).

    Where all processes are in the folder itself there is nothing to make. Then, if `is_soft`, the image is emptied:
    CRIU would take long for nothing.
    """
    if hierarchies is None:
        return []
    entries = [decode(CGROUP, message) for message in messages]
    for entry in entries:
        members = [member for each in entry["sets"] for member in each["members"]]
        for controller in entry["controllers"]:
            _controller(controller, hierarchies, members)
        known = {name for controller in entry["controllers"] for name in controller["names"]}
        for member in members:
            if member["name"] not in known:
                name = _shown(member["name"].encode())
                raise Malformed(f"a process is in the cgroup of a controller {name} that it does not have")
    return [] if is_soft and all(map(_is_plain, entries)) else messages


def _is_plain(entry: "Values") -> bool:
    """Whether every process is in the top cgroup, with no cgroup below it and no cgroup namespace."""
    tops = {name: b"/" + each["folders"][0]["name"]
            for each in entry["controllers"] if each["folders"] for name in each["names"]}  # fmt: skip
    members = [member for each in entry["sets"] for member in each["members"]]
    below = any(folder["below"] for each in entry["controllers"] for folder in each["folders"])
    return not below and all(m["path"] == tops.get(m["name"]) and not m["prefix"] for m in members)


def _controller(controller: "Values", hierarchies: "list[str]", members: "list[Values]") -> None:
    names = controller["names"]
    if not any(set(names) <= set(each.split(",")) for each in hierarchies) or len(",".join(names)) > MOST_OF_NAMES:
        cause = f"it has a cgroup in a hierarchy of {_shown(','.join(names).encode())}, and the container has not"
        raise Malformed(f"{cause} (--manage-cgroups-mode ignore leaves its cgroups out)")
    if len(controller["folders"]) > 1:
        raise Malformed("it has processes in more than one cgroup (--manage-cgroups-mode ignore leaves them out)")
    for folder in controller["folders"]:
        top = b"/" + folder["name"]
        mine = [member for member in members if member["name"] in names]
        if not mine or not all(_is_within(_stays(member["path"]), top) for member in mine):
            raise Malformed(f"a cgroup is not that of its processes: {_shown(top)}")
        for member in mine:
            for prefix in member["prefix"]:
                if prefix == 0 or member["path"][prefix : prefix + 1] not in (b"", b"/") or prefix > len(top):
                    raise Malformed("the top of a cgroup namespace is none of its cgroups")
        _folder(folder, 0)


def _is_within(path: bytes, top: bytes) -> bool:
    return path.startswith(b"/") and (path + b"/").startswith(top.rstrip(b"/") + b"/")


def _folder(folder: "Values", length: int) -> None:
    parts = _stays(folder["name"]).split(b"/")
    if folder["name"] and (b"" in parts or b"." in parts):
        raise Malformed(f"no cgroup has the name {_shown(folder['name'])}")
    length += len(folder["name"]) + 1
    if length > MOST_OF_PATH:
        raise Malformed("a path of a cgroup is too long")
    for each in folder["properties"]:
        if b"/" in each["name"] or len(each["name"]) > MOST_OF_NAMES:
            raise Malformed(f"a cgroup has a file {_shown(each['name'])}")
    for below in folder["below"]:
        _folder(below, length)


def _filters(messages: "list[bytes]", program: bytes, flags: int) -> "list[bytes]":
    """Put the configuration's filter first in every chain. A call passes only if all filters of its chain let it pass:
    so nothing else in the chain can allow more."""
    again = []
    for message in messages:
        filters: list[Any] = decode({1: ("filters", [FILTER])}, message)["filters"]
        if any(before >= number for number, each in enumerate(filters) for before in each["before"]):
            raise Malformed("its filters are in no order")
        first = [each for each in filters if not each["before"]]
        if any(each["program"] != program for each in first):
            for each in first:
                each["before"] = [len(filters)]
            filters.append({"program": program, "before": [], "flags": flags & KEPT_FLAGS})
        again.append(_chain(filters))
    return again


def _chain(filters: "list[Any]") -> bytes:
    values = [{**each, "before": each["before"][-1] if each["before"] else None} for each in filters]
    return encode({1: ("filters", [FILTER_AGAIN])}, {"filters": values}, zeros=True)

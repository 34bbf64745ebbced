"""ID-mapped mounts: files show another owner than they have on disk. config.md#mounts, uidMappings; Linux 5.12

The kernel takes the mapping in the form of a user namespace. The runtime makes that before clone. The container's
process applies it (init.mounts.map_ids). If the file system belongs to the host, it asks the runtime to (tree_of).
"""

import posix

from pyrunc.container import ids, userns
from pyrunc.container.errand import Errand
from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.init.context import IN_INIT, ROOT
from pyrunc.init.mounts import map_ids
from pyrunc.init.namespaces import own
from pyrunc.init.rootfs import mount_on_itself
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import open_tree
from pyrunc.linux.mount_options import MountOptions
from pyrunc.linux.process import CLONE_NEWNS, CLONE_NEWUSER, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context
    from pyrunc.spec.types import IDMapping, Linux, Mount


MEMBERS = ("uids", "gids")
EXAMPLE = "as in idmap=uids=0-1000-1;gids=0-1000-1"
ROOTFS = "org.pyrunc.rootfs.idmap"  # the annotation


def prepare(context: "Context") -> None:
    """Make a namespace for every mount that asks for a mapping, and for the root if that does. Equal mappings share
    one.
    """
    known: dict[str, Fd] = {}
    entries: list[tuple[int, Mount]] = [*enumerate(context.config.get("mounts") or [])]
    if (context.config.get("annotations") or {}).get(ROOTFS) == "true":
        entries.append((ROOT, {"destination": "/", "options": ["idmap"]}))
    for index, entry in entries:
        options = MountOptions(entry.get("options") or [])
        if not (options.idmap or entry.get("uidMappings")):
            continue
        joined = _joined(context)
        if joined and not (entry.get("uidMappings") or options.mapping):
            context.idmaps[index] = open_at(None, joined, posix.O_RDONLY)
            continue
        uids, gids = _mappings(context, entry, options.mapping)
        key = ids.as_text(uids) + "/" + ids.as_text(gids)
        if key not in known:
            known[key] = namespace_of(uids, gids)
        context.idmaps[index] = known[key]


def _joined(context: "Context") -> str:
    """The path of the user namespace that the container joins: `idmap` without mappings means the mapping of that."""
    for namespace in context.config["linux"].get("namespaces") or []:
        if namespace["type"] == "user":
            return namespace.get("path") or ""
    return ""


def _mappings(context: "Context", entry: "Mount", option: str) -> "tuple[list[IDMapping], list[IDMapping]]":
    """The entry's own mappings, else the container's."""
    linux: Linux = context.config["linux"]
    if option:
        try:
            if entry.get("uidMappings"):
                raise ValueError("the mount has uidMappings too: which is meant?")
            return _of_option(option, linux)
        except ValueError as error:
            raise PyruncError(f"mounting on {entry['destination']}", f"idmap={option}", str(error), EXAMPLE) from error
    uids = entry.get("uidMappings") or linux.get("uidMappings") or []
    gids = entry.get("gidMappings") or linux.get("gidMappings") or []
    if not uids or not gids:
        cause = "the option idmap needs mappings: its own, or those of a user namespace of the container"
        raise PyruncError("mounting on", entry["destination"], cause)
    return uids, gids


def _of_option(option: str, linux: "Linux") -> "tuple[list[IDMapping], list[IDMapping]]":
    """crun's: `uids=FILE-HOST-SIZE#…;gids=…`. With `@` in front HOST is an ID in the container. Raises ValueError."""
    found: dict[str, list[IDMapping]] = {}
    for member in option.split(";"):
        kind, equals, text = member.partition("=")
        if kind not in MEMBERS or not equals or kind in found:
            raise ValueError(f"expected uids= and gids= once each, found {member}")
        known = linux.get("uidMappings") if kind == "uids" else linux.get("gidMappings")
        found[kind] = [_triplet(each, known or []) for each in text.split("#")]
    missing = [kind for kind in MEMBERS if kind not in found]
    if missing:
        raise ValueError(f"{missing[0]} is missing: nobody would own a file")
    return found["uids"], found["gids"]


def _triplet(text: str, known: "list[IDMapping]") -> "IDMapping":
    words = text.removeprefix("@").split("-")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and int(word) < 1 << 32 for word in words):
        raise ValueError(f"expected FILE-HOST-SIZE, found {text}")
    inside, host, size = map(int, words)
    if text.startswith("@"):
        there = ids.on_the_host(host, known, size)
        if there is None:
            raise ValueError(f"{host} is in no range of the container's user namespace")
        host = there
    return {"containerID": inside, "hostID": host, "size": size}


def namespace_of(uids: "list[IDMapping]", gids: "list[IDMapping]") -> Fd:
    """A user namespace with these mappings, that nothing lives in."""
    with Errand(lambda: None, CLONE_NEWUSER) as inside:
        userns.write_maps(inside.pid, {"uidMappings": uids, "gidMappings": gids})
        return open_at(None, own("user", inside.pid), posix.O_RDONLY)


def tree_of(context: "Context", index: int, pid: int) -> Fd:
    """Open the source of a bind as the container's process sees the file system, but with our rights; or mount its
    root.

    A child of ours does it in the mount namespace of `pid`: the source may lie in a mount that was just made there.
    """
    mounts = open_at(None, own("mount", pid), posix.O_RDONLY)

    def enter() -> Fd:
        setns(mounts, CLONE_NEWNS)
        return _root(context) if index == ROOT else _source(context, index)

    try:
        with mounts, Errand(enter) as there:
            assert there.brought is not None
            return there.brought
    except OSError as error:
        raise _refusal(context, index, reason(error)) from error


def _refusal(context: "Context", index: int, cause: str) -> StepError:
    if index == ROOT:
        hint = "its file system must have ID-mapped mounts: overlayfs has none" if ROOT in context.idmaps else ""
        return StepError(f"{IN_INIT}: mounting the root file system", context.rootfs, cause, hint)
    entry = context.config["mounts"][index]
    return StepError(f"{IN_INIT}: error mounting", f'"{entry["source"]}" to rootfs at "{entry["destination"]}"', cause)


def _root(context: "Context") -> Fd:
    return mount_on_itself(context.rootfs, context.idmaps.get(ROOT))


def _source(context: "Context", index: int) -> Fd:
    entry = context.config["mounts"][index]
    options = MountOptions(entry.get("options") or [])
    source = entry["source"] if entry["source"].startswith("/") else f"{context.bundle}/{entry['source']}"
    tree = open_tree(source, recursive=options.recursive, follow=not options.source_link)
    if index in context.idmaps:
        map_ids(tree, context.idmaps[index], options)
    return tree

"""ID-mapped mounts: what lies on disk as one owner's shows as another's. config.md#mounts, uidMappings; Linux 5.12

The kernel takes the mapping as a user namespace that has it, and lets only who owns the file system apply it. So the
runtime makes such a namespace, and for binds the mount too, before clone; the container's process attaches it.
"""

import posix

from pyrunc.container import userns
from pyrunc.errors import PyruncError, reason
from pyrunc.init.mounts import map_ids
from pyrunc.init.namespaces import own
from pyrunc.init.options import Options
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import open_tree
from pyrunc.linux.process import CLONE_NEWUSER, clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context
    from pyrunc.spec.types import IDMapping, Linux, Mount


def prepare(context: "Context") -> None:
    """For every mount that asks for it: its namespace, and for a bind its tree, mapped and detached."""
    known: dict[str, Fd] = {}
    for index, entry in enumerate(context.config.get("mounts") or []):
        options = Options(entry.get("options") or [])
        if not (options.idmap or entry.get("uidMappings")):
            continue
        uids, gids = _mappings(context, entry)
        key = userns.lines(uids) + "/" + userns.lines(gids)
        if key not in known:
            known[key] = namespace_of(uids, gids)
        context.idmaps[index] = known[key]
        if options.bind or entry.get("type") == "bind":
            context.mapped_trees[index] = _bind(context, entry, options, known[key])


def _mappings(context: "Context", entry: "Mount") -> "tuple[list[IDMapping], list[IDMapping]]":
    """The entry's own, else the container's: `idmap` without mappings means those of its user namespace."""
    linux: Linux = context.config["linux"]
    uids = entry.get("uidMappings") or linux.get("uidMappings") or []
    gids = entry.get("gidMappings") or linux.get("gidMappings") or []
    if not uids or not gids:
        cause = "the option idmap needs mappings: its own, or those of a user namespace of the container"
        raise PyruncError("mounting on", entry["destination"], cause)
    return uids, gids


def _bind(context: "Context", entry: "Mount", options: Options, namespace: Fd) -> Fd:
    source = entry.get("source") or ""
    path = source if source.startswith("/") else f"{context.bundle}/{source}"
    try:
        tree = open_tree(path, recursive=options.recursive)
        map_ids(tree, namespace, options)
    except OSError as error:
        hint = "does its file system support it? see mount_setattr(2)" if error.errno == 22 else ""
        raise PyruncError("mapping the IDs of", path, reason(error), hint) from error
    return tree


def namespace_of(uids: "list[IDMapping]", gids: "list[IDMapping]") -> Fd:
    """A user namespace with these mappings, that nothing lives in."""
    read, write = posix.pipe2(posix.O_CLOEXEC)
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pidfd is None:
        posix.close(write)
        posix.read(read, 1)
        posix._exit(0)
    with pidfd, Fd(read, "pipe"), Fd(write, "pipe") as release:
        try:
            userns.write_maps(pid, {"uidMappings": uids, "gidMappings": gids})
            return open_at(None, own("user", pid), posix.O_RDONLY)
        finally:
            release.close()
            posix.waitpid(pid, 0)

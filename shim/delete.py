"""delete: containerd calls it when a shim has gone. After a normal end of the shim nothing is left; after its death
everything is."""

import posix
import time

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import open_at, read_file
from pyrunc.protobuf import encode
from pyrunc.shim import messages
from pyrunc.shim.unmount import LOWER, unmount_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.state import StateRoot

KILLED = 137


def delete(flags: "dict[str, str]") -> bytes:
    """Remove what is left, and return DeleteResponse. The bundle is -bundle, or the working directory."""
    bundle = flags.get("bundle") or posix.getcwd()
    remove(bundle, flags["namespace"], flags["id"])
    if _shim_is_gone(bundle):
        from pyrunc.shim.companions import noted

        for id, its_bundle, root in noted(bundle):
            try:
                remove(its_bundle, flags["namespace"], id, root)
            except (PyruncError, OSError) as error:
                posix.write(2, f"{id}: {reason(error)}\n".encode("utf-8", "replace"))  # the others go all the same
    now = messages.timestamp(time.time_ns())
    return encode(messages.DELETED, {"pid": _pid(bundle), "exit_status": KILLED, "exited_at": now})


def remove(bundle: str, namespace: str, id: str, root: str = "") -> None:
    """Remove whatever there is of a container, even if it was not made completely."""
    root = root or _state_root(bundle, namespace)
    if posix.access(f"{root}/{id}", posix.F_OK):
        from pyrunc.container.container import Container
        from pyrunc.container.state import StateRoot

        if not _is_anothers(StateRoot(root), id, bundle):
            Container.delete(StateRoot(root), id, force=True)
    unmount_rootfs(bundle)


def unmount_rootfs(bundle: str) -> None:
    for place in (f"{bundle}/rootfs", f"{bundle}/rootfs{LOWER}"):
        unmount_all(place)


def _is_anothers(root: "StateRoot", id: str, bundle: str) -> bool:
    """Whether the container belongs to another bundle. Then it is why ours could not be made, and it runs on."""
    from pyrunc.container.state import StateDirectory

    try:
        with StateDirectory.open(root, id).fd as folder:
            record = StateDirectory(root, id, folder).load_record()
        with open_at(None, bundle, posix.O_PATH | posix.O_DIRECTORY) as ours:
            return record is not None and record["bundle"] != posix.readlink(f"/proc/self/fd/{ours.number}")
    except (PyruncError, OSError):
        return False  # it is damaged or in the making: `delete --force` knows what to do


def _shim_is_gone(bundle: str) -> bool:
    """Whether the shim is gone. If it was killed, its socket is removed."""
    try:
        address = read_file(f"{bundle}/address").decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return False
    path = address.removeprefix("unix://")
    if not posix.access(path, posix.F_OK):
        return True
    from pyrunc.shim.listener import was_left

    return was_left(path)


def _state_root(bundle: str, namespace: str) -> str:
    """The state root that Create has noted in the bundle."""
    try:
        data = read_file(f"{bundle}/options.json")
    except FileNotFoundError:
        return f"/run/containerd/pyrunc/{namespace}"
    from pyrunc.spec.jsonc import loads

    document = loads(data.decode("utf-8", "surrogateescape"))
    root = document.get("root") if isinstance(document, dict) else None
    if not isinstance(root, str):
        raise ValueError(f"{bundle}/options.json names no state root")
    return root


def _pid(bundle: str) -> int:
    try:
        return int(read_file(f"{bundle}/init.pid"))
    except (FileNotFoundError, ValueError):
        return 0

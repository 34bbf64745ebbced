"""Checkpoint, and Create from a checkpoint. A worker does both, as they take as long as CRIU does."""

import posix

from pyrunc.container.checkpoint.options import CheckpointOptions, RestoreOptions
from pyrunc.container.container import Container
from pyrunc.errors import UsageError
from pyrunc.linux.fd import Fd, open_at, unlink_quietly
from pyrunc.protobuf import Malformed, decode
from pyrunc.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.options import Options
    from pyrunc.container.state import StateRoot
    from pyrunc.log import Log
    from pyrunc.protobuf import Values

WORK = "criu-work"  # in the bundle: CRIU's log, which stays when it fails


def restore(root: "StateRoot", id: str, bundle: str, asked: "Options", request: "Values", found: "Values",
            log: "Log") -> None:  # fmt: skip
    """Restore a container. It is paused until Start lets it go on."""
    restoring = RestoreOptions(
        request["checkpoint"],
        work=found["criu_work_path"] or f"{bundle}/{WORK}",
        criu=found["criu_path"],
        paused=True,
        tcp_established=True,  # harmless: Checkpoint takes along only what it is asked to
        file_locks=True,
    )
    Container.restore(root, id, bundle, restoring, asked, log)
    _forget_work(found["criu_work_path"], bundle)


def let_go(container: Container) -> None:
    """Start a restored container."""
    container.resume()
    container.run_hooks("poststart", "running")


def checkpoint(container: Container, request: "Values", bundle: str, criu: str) -> None:
    """Write a checkpoint. Raises PyruncError, Malformed."""
    given = request["options"]
    if given is not None and given["type_url"].rpartition("/")[2] not in ("", messages.CHECKPOINT_OPTIONS_NAME):
        raise Malformed(f"options of type {given['type_url']} are none of a checkpoint")
    wanted = decode(messages.CHECKPOINT_OPTIONS, given["value"] if given else b"")
    for namespace in wanted["empty_namespaces"]:
        if namespace != "network":
            raise UsageError("empty_namespaces", f'namespace "{namespace}"', "is not supported")
    options = CheckpointOptions(
        request["path"] or wanted["image_path"],
        work=wanted["work_path"] or f"{bundle}/{WORK}",
        criu=criu,
        leave_running=not wanted["exit"],
        tcp_established=wanted["open_tcp"],
        external_sockets=wanted["external_unix_sockets"],
        shell_job=wanted["terminal"],
        file_locks=wanted["file_locks"],
        cgroups=wanted["cgroups_mode"],
        parent=wanted["parent_path"],
    )
    container.checkpoint(options)
    _forget_work(wanted["work_path"], bundle)


def _forget_work(given: str, bundle: str) -> None:
    """Remove our work folder, which nobody needs when all went well. CRIU leaves only files in it, and no folders."""
    if given:
        return
    with open_at(None, bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
        try:
            with open_at(folder, WORK, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW) as work:
                _empty(work)
            posix.rmdir(WORK, dir_fd=folder.number)
        except OSError:
            pass  # it goes with the bundle


def _empty(folder: Fd) -> None:
    for name in posix.listdir(folder.number):
        unlink_quietly(folder, name)

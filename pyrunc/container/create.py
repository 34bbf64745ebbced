"""create: from a bundle to a container that waits for start. runtime.md#create"""

import posix
import time

from pyrunc import cgroups
from pyrunc.container import launch, notify, prepare
from pyrunc.container.creation import Creation, listen_fds, maps_owners
from pyrunc.container.options import Options
from pyrunc.container.recorded import Recorded
from pyrunc.container.state import StateRoot, validate_id
from pyrunc.errors import ConfigError, words
from pyrunc.init.capabilities import CAP_SYS_ADMIN
from pyrunc.init.namespaces import is_same, own
from pyrunc.linux import nearby
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal
from pyrunc.linux.process import capget, set_dumpable
from pyrunc.log import Log, rfc3339
from pyrunc.spec import load, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.container.recorded import HookKind
    from pyrunc.spec.types import Config, Namespace

HOOKS_OF_CREATE: "tuple[HookKind, ...]" = ("prestart", "createRuntime", "createContainer")
# These annotations may make us wait: for a file that is a fifo, for somebody who does not accept, for a host's helper.
MAY_WAIT = (
    "run.oci.hooks.", "run.oci.pidfd_receiver", "run.oci.handler", "module.wasm.",
    "run.oci.delegate-cgroup",  # the kernel takes up to 60 ms to move a process
)  # fmt: skip


def create(
    root: StateRoot,
    container_id: str,
    bundle: str,
    options: "Options | None" = None,
    log: "Log | None" = None,
    config: "Config | None" = None,
) -> Recorded:
    """Make a container. Nothing is left when this raises.

    Args:
        config: a valid configuration, in place of the bundle's.
    """
    creation = plan(container_id, bundle, options or Options(), log or Log(), config)
    creation.run(root)
    return creation.container


def plan(
    container_id: str,
    bundle: str,
    options: Options,
    log: Log,
    config: "Config | None" = None,
    kind: "Callable[..., Creation] | None" = None,
) -> "Creation":
    """Check all that can be wrong with the configuration, the options and the host. Nothing is made.

    Args:
        kind: the class that makes it, where that is not Creation itself.
    """
    set_dumpable(False)
    with open_at(None, bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
        bundle = posix.readlink(f"/proc/self/fd/{folder.number}")
        config = config or read_config(folder, log, options.config)
    config["linux"] = config.get("linux") or {}
    for pointer, doubt, hint in rules.warnings(config):
        log.warning(f"config.json {pointer}: {doubt}{hint and '; '}{hint}")
    if config.get("annotations"):
        from pyrunc.container import annotations

        annotations.apply(config, options, log)
    process = config.get("process")
    take_master = prepare.receiver_of_master(options, bool(process and process.get("terminal")))
    take_pidfd = prepare.receiver_of_pidfd(options, "standard")
    _look_at_user_namespace(config)
    _look_at_mount_namespace(config, log)
    prepare.verify_preserved(options.preserve_fds + listen_fds())
    _verify_that_it_can_be_killed()
    rootfs = _rootfs(config, bundle)
    validate_id(container_id)
    record = _record(container_id, config, bundle, rootfs)
    if options.exit_record:
        record["exitRecord"] = True
    return (kind or Creation)(record, config, options, log, take_master, take_pidfd)


def read_config(bundle: Fd, log: Log, other: str = "") -> "Config":
    """Read config.json. `other`: the path of a file in place of the bundle's."""
    with log.step("create.read_config"):
        return load.config(bundle.number, other or "config.json")


def waits(config: "Config", options: Options, root: StateRoot) -> bool:
    """Whether making it may wait for somebody who need not answer: systemd, hooks, a filter's agent, resctrl, the
    network devices' driver, a file system outside of the bundle. Compiling a filter may also take long."""
    linux = config["linux"]
    hooks = config.get("hooks") or {}
    profile = linux.get("seccomp")
    return bool(
        options.systemd
        or notify.manager()
        or any(hooks.get(kind) for kind in HOOKS_OF_CREATE)
        or "/" in config["root"]["path"]
        or any(name.startswith(MAY_WAIT) for name in config.get("annotations") or {})
        or linux.get("intelRdt") is not None
        or linux.get("netDevices")
        or any(_may_hang(namespace) for namespace in linux.get("namespaces") or [])
        or maps_owners(config)
        or (profile and (profile.get("listenerPath") or not prepare.has_filter(profile, root)))
    )


def _may_hang(namespace: "Namespace") -> bool:
    """Whether a namespace may make us wait. In a user namespace the process asks us for more, such as device nodes. A
    path may lead anywhere."""
    path = namespace.get("path", "")
    if namespace["type"] == "user" or not path:
        return namespace["type"] == "user"
    parent, _, name = path.rpartition("/")
    if parent.startswith("/proc/") and parent.endswith("/ns") and parent[6:-3].isdecimal():
        return False  # the kernel resolves its links itself, and anew each time
    folder = nearby.folder(parent or "/")
    if folder is None:
        return True
    with folder:
        return not nearby.is_in(folder, name)


def _verify_that_it_can_be_killed() -> None:
    """Try the system calls that only start, kill and delete need. Without them nobody could remove the container."""
    with pidfd_open(posix.getpid()) as ourselves:
        pidfd_send_signal(ourselves, 0)


def _look_at_user_namespace(config: "Config") -> None:
    """Adopt the mappings of a user namespace that is joined. Refuse a caller without privileges who asks for no
    user namespace.
    """
    user = next((n for n in config["linux"].get("namespaces") or [] if n["type"] == "user"), None)
    if user is None and not capget()[0] & CAP_SYS_ADMIN:
        from pyrunc.container import unprivileged

        raise unprivileged.needs_user_namespace()
    if user is not None and user.get("path"):
        from pyrunc.container import joined

        joined.adopt(config["linux"], user["path"])


def _look_at_mount_namespace(config: "Config", log: Log) -> None:
    """Say that nothing is mounted or protected without a mount namespace of the container's own. Refuse to mask paths
    in the runtime's own namespace.

    A path that leads to the runtime's own namespace counts as none: see rules.paths_have_a_mount_namespace.
    """
    linux = config["linux"]
    mount = next((n for n in linux.get("namespaces") or [] if n["type"] == "mount"), None)
    if mount is not None and not mount.get("path"):
        return
    masks = [f"/linux/{name}" for name in ("maskedPaths", "readonlyPaths") if linux.get(name)]
    if mount is not None and masks:
        with launch.open_namespace(mount["path"]) as joined:
            if is_same(joined, own("mount")):
                cause = f"it needs a mount namespace, and {mount['path']} leads to the one that the runtime is in"
                raise ConfigError("config.json", masks[0], cause)
    unmet = [*masks, *(["/mounts"] if config.get("mounts") else []),
             *(["/root/readonly"] if config["root"].get("readonly") else [])]  # fmt: skip
    if unmet:
        log.warning(f"config.json {', '.join(unmet)}: ignored: it has no mount namespace of its own making")


def _record(container_id: str, config: "Config", bundle: str, rootfs: str) -> "dict[str, Any]":
    """state.json: what the other verbs need to know, most of them without reading the configuration."""
    namespaces = config["linux"].get("namespaces") or []
    return {
        "ociVersion": config["ociVersion"],
        "id": container_id,
        "pid": 0,
        "start": 0,
        "bundle": bundle,
        "rootfs": rootfs,
        "created": rfc3339(time.time_ns()),
        "annotations": config.get("annotations") or {},
        "owner": "",
        "uid": posix.geteuid(),
        "hooks": [kind for kind, hooks in (config.get("hooks") or {}).items() if hooks],
        "notify": bool(notify.manager()),
        "own_pids": any(n["type"] == "pid" and not n.get("path") for n in namespaces),
        "cgroup": {**cgroups.NONE},
    }


def _rootfs(config: "Config", bundle: str) -> str:
    """The root file system as an absolute path. Symlinks in it are followed now, on the host, and never again."""
    root = config["root"]["path"]
    path = root if root.startswith("/") else f"{bundle}/{root}"
    try:
        with open_at(None, path, posix.O_PATH | posix.O_DIRECTORY) as directory:
            return posix.readlink(f"/proc/self/fd/{directory.number}")
    except OSError as error:
        raise ConfigError("config.json", "/root/path", f"{path}: {words(error)}") from error

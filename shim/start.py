"""start: print the address of a shim for a container. If the container's pod has a shim, it is that one. Otherwise this
process becomes it."""

import posix
from _blake2 import blake2s

from pyrunc.linux.fd import Fd, open_at, read_file, replace_file
from pyrunc.protobuf import Malformed, decode
from pyrunc.shim import messages
from pyrunc.shim.bootstrap import answer
from pyrunc.shim.listener import listen
from pyrunc.spec.jsonc import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.protobuf import Message

SOCKETS = "/run/containerd/s"
GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")  # annotations: same value, same shim
LONGEST_INPUT = 1 << 20
DEBUG = -4  # as Go's log/slog counts
THREAD_GROUP = 1


def start(flags: "dict[str, str]") -> int:
    """Find or become a shim, and print its address. The working directory is the bundle. Only the address goes to
    standard output. containerd waits for the end of that, so a shim may not hold it."""
    asked, options = _input(flags["id"])
    folder = asked.get("socket_dir") or SOCKETS
    if asked.get("ttrpc_address") and not posix.environ.get(b"TTRPC_ADDRESS"):
        posix.environ[b"TTRPC_ADDRESS"] = asked["ttrpc_address"].encode()
    for flag, name in (("publish-binary", "containerd"), ("address", "grpc_address")):
        flags[flag] = flags.get(flag) or asked.get(name, "")
    if asked.get("log_level", 0) <= DEBUG:
        flags["debug"] = "true"
    if options.get("shim_per_namespace"):
        flags["shared"] = "true"
    group = "" if "shared" in flags else _group(flags["id"])
    name = "/".join((flags.get("address", "").rstrip("/"), flags["namespace"], group))
    path = f"{folder}/{blake2s(name.encode('utf-8', 'surrogateescape')).hexdigest()}"
    listener = listen(folder, path)
    if listener is not None:
        _prepare(options.get("shim_cgroup", ""))
    address = f"unix://{path}"
    said = answer(address, asked, int(flags.get("caller", 0)))
    with open_at(None, ".", posix.O_RDONLY | posix.O_DIRECTORY) as bundle:
        replace_file(bundle, "address", address.encode("utf-8", "surrogateescape"))
    posix.write(1, said)
    if listener is not None:
        _let_go(int(flags["ready"]))
        from pyrunc.shim.daemon import serve

        serve(listener, path, flags)
    return 0


def _group(container_id: str) -> str:
    document: Any = loads(read_file("config.json").decode("utf-8", "surrogateescape"))
    annotations = (document.get("annotations") if isinstance(document, dict) else None) or {}
    for key in GROUPS:
        if isinstance(annotations.get(key), str) and annotations[key]:
            group: str = annotations[key]
            return group
    return container_id


def _input(container_id: str) -> "tuple[dict[str, Any], dict[str, Any]]":
    """What standard input says: the parameters that containerd sends from 2.3 on, and the options.

    Earlier versions send the options alone, or nothing. Anything else is ignored: containerd may change it.
    """
    from pyrunc.linux.fd import read_all

    data = read_all(0, LONGEST_INPUT)
    if not data:
        return {}, {}
    asked = _decoded(messages.BOOTSTRAP, data)
    if asked.get("id") == container_id:
        given = [each["value"] for each in asked["extensions"]]
    else:
        asked, given = {}, [_decoded(messages.ANY, data)]
    return asked, _options([each for each in given if each])


def _decoded(message: "Message", data: bytes) -> "dict[str, Any]":
    try:
        return decode(message, data)
    except Malformed:
        return {}


def _options(given: "list[dict[str, Any]]") -> "dict[str, Any]":
    from pyrunc.shim.options import OF_START, known

    for each in given:
        try:
            found = known(each, OF_START)
        except Malformed:
            continue  # Create has them too, and says so
        if found is not None:
            return found
    return {}


def _prepare(cgroup: str) -> None:
    """Set up what this process needs as a shim, and what its containers inherit."""
    if posix.environ.get(b"SCHED_CORE"):
        from pyrunc.linux.process import PR_SCHED_CORE, PR_SCHED_CORE_CREATE, prctl

        try:
            prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, THREAD_GROUP)
        except OSError as error:
            raise ValueError(f"SCHED_CORE is set, but core scheduling is not to be had: {error.strerror}") from error
    if cgroup:
        from pyrunc import cgroups

        place = cgroups.place(cgroup if cgroup.startswith("/") else f"/{cgroup}", "shim")
        place.make()
        place.join(posix.getpid())


def _let_go(ready: int) -> None:
    """Let containerd go on. It has its answer and waits for the launcher, which waits for us (launcher/shim.h). Raises
    OSError if the launcher was killed meanwhile."""
    with Fd(posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)) as null:
        for number in (0, 1, 2):
            posix.dup2(null.number, number)
    with Fd(ready) as line:
        posix.write(line.number, b"1")

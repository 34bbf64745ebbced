"""Annotations that change how a container is made: crun's, under run.oci. This is loaded only where there is one.

What an annotation asks for becomes what config.json or an option would have said. An unknown annotation, or a value
without a meaning, changes nothing, as in crun. But it is an error where the container would lack some protection.
"""

import posix

from pyrunc.errors import ConfigError
from pyrunc.init.cgroup_mounts import FORCED
from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.container.options import Options
    from pyrunc.init.context import Step
    from pyrunc.log import Log
    from pyrunc.spec.types import Config, Process, TimeOffset

START = "run.oci."
HANDLER = "run.oci.handler"
CORE_SCHEDULING = "org.pyrunc.core_scheduling"
CLOCKS = {"monotonic": "monotonic", "1": "monotonic", "boottime": "boottime", "7": "boottime"}
CONTEXT_TYPES = ("context", "fscontext", "defcontext", "rootcontext")


def confinement(config: "Config") -> "tuple[Step, Step] | None":
    """Two more steps for every process of the container: see steps.confined. Raises ConfigError."""
    given = config.get("annotations") or {}
    if not any(name.startswith("org.pyrunc.landlock.") for name in given):
        return None
    from pyrunc.init import confine

    found = confine.confinement(given)
    return found.steps() if found is not None else None


def first_step(config: "Config", container_pid: int = 0) -> "Step | None":
    """A step that every process of the container does before all others."""
    if not _is_on((config.get("annotations") or {}).get(CORE_SCHEDULING, "")):
        return None
    from pyrunc.init import core

    return core.first_step(container_pid)


def _core_scheduling(_: "Config", __: "Options", value: str) -> None:
    if _is_on(value):
        from pyrunc.init import core

        core.verify()


def _is_on(value: str) -> bool:
    return value not in ("", "0", "false")


def apply(config: "Config", options: "Options", log: "Log") -> None:
    given = config.get("annotations") or {}
    confinement(config)  # errors in it are reported before anything is made
    if given.get(SUBGROUP) and not options.systemd:
        log.warning(f"config.json /annotations/{SUBGROUP}: there is no scope that it could be below: nothing is done")
    for name, value in given.items():
        work = KNOWN.get(name)
        if work is not None:
            work(config, options, value)


def _wrong(name: str, cause: str, hint: str = "") -> ConfigError:
    return ConfigError("config.json", f"/annotations/{name.replace('/', '~1')}", cause, hint)


def _handler(config: "Config", _: "Options", value: str) -> None:
    if not value:
        return
    from pyrunc.container import wasm

    if value not in wasm.HANDLERS:
        raise _wrong(HANDLER, f'there is no handler "{value}"', f"one of: {', '.join(wasm.HANDLERS)}")
    wasm.use(config, value, f"/annotations/{HANDLER}")


def _variant(config: "Config", _: "Options", value: str) -> None:
    """Have an engine of WebAssembly run the program of an image that is marked so. The kernel can't execute it."""
    from pyrunc.container import wasm

    if wasm.is_asked_for(config, value) and not (config.get("annotations") or {}).get(HANDLER):
        wasm.use(config, wasm.ANY, f"/annotations/{wasm.VARIANT.replace('/', '~1')}")


def _pidfd_receiver(_: "Config", options: "Options", value: str) -> None:
    options.pidfd_socket = options.pidfd_socket or value


def _time_offsets(config: "Config", _: "Options", value: str) -> None:
    """Read offsets in the form of /proc/PID/timens_offsets: a line for each clock, with seconds and nanoseconds.
    time_namespaces(7)"""
    name = f"{START}timens_offset"
    if not any(n["type"] == "time" and not n.get("path") for n in config["linux"].get("namespaces") or []):
        raise _wrong(name, "there is no new time namespace", 'add {"type": "time"} to linux.namespaces')
    offsets = config["linux"].setdefault("timeOffsets", {})
    for line in value.splitlines():
        words = line.split()
        if len(words) != 3 or words[0] not in CLOCKS or not all(map(_is_number, words[1:])):
            raise _wrong(name, f'"{line}" is not a clock, seconds and nanoseconds', "such as: boottime 86400 0")
        offset: TimeOffset = {"secs": int(words[1]), "nanosecs": int(words[2])}
        if CLOCKS[words[0]] == "monotonic":
            offsets["monotonic"] = offset
        else:
            offsets["boottime"] = offset


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdecimal()


def _fail_unknown(config: "Config", _: "Options", value: str) -> None:
    if not _is_on(value):
        return
    from pyrunc.seccomp import names

    profile = config["linux"].get("seccomp")
    rules = profile.get("syscalls") or [] if profile else []
    unknown = sorted({name for rule in rules for name in rule["names"] if not names.is_known(name)})
    if unknown:
        raise ConfigError("config.json", "/linux/seccomp/syscalls", f"unknown system calls: {', '.join(unknown)}")


def _keep_groups(config: "Config", _: "Options", value: str) -> None:
    process: Process = config.get("process") or {"cwd": "/"}
    if _is_on(value) and (process.get("user") or {"uid": 0}).get("additionalGids"):
        raise _wrong(KEEP_GROUPS, "it keeps the caller's groups, and additionalGids names others", "leave one out")


def _context_type(_: "Config", __: "Options", value: str) -> None:
    if value not in CONTEXT_TYPES:
        cause = f'"{value}" is none of {", ".join(CONTEXT_TYPES)}'
        raise _wrong(f"{START}mount_context_type", cause)


def _bpf(_: "Config", __: "Options", value: str) -> None:
    program(value)


def of_cgroup(given: "dict[str, str]") -> "tuple[str, str, bool]":
    """What annotations say of the container's cgroup: its path below systemd's scope; the path below that, which the
    container manages itself; and whether it also has a cgroup in name=systemd of v1."""
    return given.get(SUBGROUP, "").strip("/"), given.get(DELEGATED, "").strip("/"), bool(given.get(FORCED))


def _path_below(name: str, value: str) -> str:
    """A path below a cgroup. A path that leads out of it is refused."""
    path = value.strip("/")
    if any(
        part in ("", ".", "..") or len(part.encode("utf-8", "surrogateescape")) > MOST_IN_NAME or "\n" in part
        for part in path.split("/")
    ):
        raise _wrong(name, f'"{value}" is no path below a cgroup')
    return path


def _subgroup(_: "Config", options: "Options", value: str) -> None:
    if value and options.systemd:
        _path_below(SUBGROUP, value)


def _delegated(_: "Config", options: "Options", value: str) -> None:
    if not value:
        return
    _path_below(DELEGATED, value)
    _needs_cgroup(DELEGATED, options)
    from pyrunc.cgroups import hierarchy

    if not hierarchy.is_unified(hierarchy.find()):
        raise _wrong(DELEGATED, "cgroup v1 can't be delegated safely, and this host has its controllers there")


def _needs_cgroup(name: str, options: "Options") -> None:
    if options.no_cgroup:
        raise _wrong(name, "the container has no cgroup (--cgroup-manager disabled)")


def _force_v1(config: "Config", options: "Options", value: str) -> None:
    """Make the entry of `mounts` one of type cgroup, whatever it was."""
    if not value:
        return
    _needs_cgroup(FORCED, options)
    from pyrunc.cgroups import hierarchy
    from pyrunc.cgroups.files import NAMED
    from pyrunc.init.mounts import normal

    if not any(each.name == NAMED for each in hierarchy.find(named=True)):
        hint = "on the host: mount -t cgroup -o none,name=systemd cgroup FOLDER"
        raise _wrong(FORCED, "cgroup v1's hierarchy name=systemd is not mounted", hint)
    entries = [m for m in config.get("mounts") or [] if normal(m["destination"]) == normal(value)]
    if not entries:
        raise _wrong(FORCED, f"nothing in mounts has the destination {value}")
    for entry in entries:
        kept = [option for option in entry.get("options") or [] if option not in ("bind", "rbind")]
        entry.update({"type": "cgroup", "source": "cgroup", "options": kept})


KEEP_GROUPS = "run.oci.keep_original_groups"
SUBGROUP = "run.oci.systemd.subgroup"
DELEGATED = "run.oci.delegate-cgroup"
MOST_IN_NAME = 255  # NAME_MAX
BPF = "run.oci.seccomp_bpf_data"


def hook_outputs(annotations: "dict[str, str]", bundle: str) -> "tuple[Fd | None, Fd | None]":
    """Open the files that the output of hooks is appended to. A relative path starts at the bundle."""
    found: list[Fd | None] = []
    for stream in ("stdout", "stderr"):
        path = annotations.get(f"{START}hooks.{stream}")
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_NOCTTY
        found.append(open_at(None, path if path[:1] == "/" else f"{bundle}/{path}", flags, 0o644) if path else None)
    return found[0], found[1]


def program(value: str) -> bytes:
    """A BPF program in base64: struct sock_filter, 8 bytes each. Raises ConfigError."""
    import binascii

    try:
        code = binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error as error:
        raise _wrong(BPF, f"is not base64: {error}") from error
    if not code or len(code) % 8:
        raise _wrong(BPF, f"{len(code)} bytes are no BPF program: an instruction has 8")
    return code


KNOWN: "dict[str, Callable[[Config, Options, str], None]]" = {
    HANDLER: _handler,
    CORE_SCHEDULING: _core_scheduling,
    "module.wasm.image/variant": _variant,
    f"{START}pidfd_receiver": _pidfd_receiver,
    f"{START}timens_offset": _time_offsets,
    f"{START}seccomp_fail_unknown_syscall": _fail_unknown,
    f"{START}mount_context_type": _context_type,
    KEEP_GROUPS: _keep_groups,
    BPF: _bpf,
    SUBGROUP: _subgroup,
    DELEGATED: _delegated,
    FORCED: _force_v1,
}

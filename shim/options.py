"""What containerd's configuration says to a runtime, sent with Create and on `start`'s standard input."""

from pyrunc.protobuf import Malformed, decode
from pyrunc.shim import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.log import Log

RUNC = "containerd.runc.v1.Options"
GENERIC = "runtimeoptions.v1.Options"
STATE_ROOT = "/run/containerd/pyrunc"
# The generic form is a TOML text. It has the names that containerd's documentation uses for runc's options.
TOML = {
    "NoPivotRoot": "no_pivot_root", "NoNewKeyring": "no_new_keyring", "ShimCgroup": "shim_cgroup", "IoUid": "io_uid",
    "IoGid": "io_gid", "BinaryName": "binary_name", "Root": "root", "SystemdCgroup": "systemd_cgroup",
    "CriuPath": "criu_path", "CriuImagePath": "criu_image_path", "CriuWorkPath": "criu_work_path",
    "ShimPerNamespace": "shim_per_namespace",
}  # fmt: skip
OURS = {"shim_per_namespace": False}  # runc's options don't have these
OF_START = (b"ShimCgroup", b"ShimPerNamespace")


def options(given: "dict[str, Any] | None", log: "Log") -> "dict[str, Any]":
    """runc's options, whichever way they come. Those that don't come have their defaults. Raises Malformed."""
    if given is None or not given["type_url"]:
        return decode(messages.RUNC_OPTIONS, b"")
    found = known(given)
    if found is None:
        name = given["type_url"].rpartition("/")[2]
        log.warning(f"options of type {name} are none of this runtime's, and have no effect")
        return decode(messages.RUNC_OPTIONS, b"")
    if found["binary_name"]:
        log.warning(f'BinaryName = "{found["binary_name"]}" has no effect: the runtime is in this process')
    return found


def known(given: "dict[str, Any]", wanted: "tuple[bytes, ...]" = ()) -> "dict[str, Any] | None":
    """The options, decoded. None: they are of another type. `wanted`: a TOML text without any of these names is not
    read."""
    name = given["type_url"].rpartition("/")[2]
    if name == RUNC:
        return decode(messages.RUNC_OPTIONS, given["value"])
    if name == GENERIC:
        return _generic(decode(messages.RUNTIME_OPTIONS, given["value"]), wanted)
    return None


def _generic(given: "dict[str, Any]", wanted: "tuple[bytes, ...]") -> "dict[str, Any]":
    found = {**decode(messages.RUNC_OPTIONS, b""), **OURS}
    body, path = given["config_body"], given["config_path"]
    if not path and (not body or (wanted and not any(name in body for name in wanted))):
        return found
    try:
        if not body:
            from pyrunc.linux.fd import read_file

            body = read_file(path)
        document = read_toml(body.decode())
    except (OSError, ValueError) as error:
        raise Malformed(f"the runtime's options: {error}") from error
    for name, value in document.items():
        if name in TOML and isinstance(value, type(found[TOML[name]])):
            found[TOML[name]] = value
        elif name != "TypeUrl":
            raise Malformed(f'the runtime\'s options: {name} = "{value}" is none of them')
    return found


def read_toml(text: str) -> "dict[str, Any]":
    """Read a TOML text. tomllib is 20 modules, so a shim does without it if each line is what containerd writes: a name
    and a plain value. Raises ValueError."""
    found: dict[str, Any] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        name, equals, value = (part.strip(" ") for part in line.partition("="))
        if name or equals:
            plain = _plain_value(value)
            if not (equals and name.isascii() and name.isalnum()) or plain is None or name in found:
                import tomllib

                return tomllib.loads(text)
            found[name] = plain
    return found


def _plain_value(text: str) -> "bool | int | str | None":
    """A plain value. None: it is more than that."""
    if text in ("true", "false"):
        return text == "true"
    if text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0"):
        return int(text)
    inside = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return inside if quoted and inside.isprintable() and not {*inside} & {*"'\"\\"} else None


def state_root(found: "dict[str, Any]", namespace: str) -> str:
    return f"{found['root'] or STATE_ROOT}/{namespace}"

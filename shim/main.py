"""containerd-shim-pyrunc-v2: the command line that containerd calls."""

import posix

VALUES = ("namespace", "id", "address", "publish-binary", "bundle", "socket", "ready", "caller")
SWITCHES = ("debug", "v", "info", "h", "help")
HELP = """Usage: containerd-shim-pyrunc-v2 -namespace NAMESPACE -id ID -address SOCKET [OPTIONS] start|delete
containerd calls it, as its runtime io.containerd.pyrunc.v2.
  -namespace NAMESPACE    containerd's namespace
  -id ID                  the container
  -address SOCKET         containerd's own socket
  -publish-binary FILE    containerd's program
  -bundle DIR             of delete: the container's bundle
  -debug                  write more to the log
  -info                   say what the runtime supports, as protocol buffers
  -v                      show the version
"""


def main(words: "list[str]") -> int:
    try:
        flags, verb = parse(words)
        if "h" in flags or "help" in flags:
            return say(HELP.encode())
        if "v" in flags or "info" in flags:
            from pyrunc.shim import info

            return say(info.version() if "v" in flags else info.info())
        if not flags.get("namespace") or not flags.get("id"):
            raise ValueError("-namespace and -id are needed")
        if verb == "start":
            from pyrunc.shim.start import start

            return start(flags)
        if verb == "delete":
            from pyrunc.shim.delete import delete

            return say(delete(flags))
        raise ValueError(f'"{verb}" is no verb: start, delete')
    except Exception as error:  # whatever it is: containerd shows what is said here
        posix.write(2, f"containerd-shim-pyrunc-v2: {error or type(error).__name__}\n".encode("utf-8", "replace"))
        return 1


def parse(words: "list[str]") -> "tuple[dict[str, str], str]":
    """Flags as Go's package flag reads them: -name VALUE, -name=VALUE, with one dash or two."""
    flags: dict[str, str] = {}
    rest = [*words]
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in SWITCHES:
            if not equals or value.lower() in ("1", "t", "true"):
                flags[name] = "true"
        elif name in VALUES:
            if not equals:
                if not rest:
                    raise ValueError(f"-{name} needs a value")
                value = rest.pop(0)
            flags[name] = value
        else:
            raise ValueError(f"-{name} is no flag; -h lists them")
    return flags, rest[0] if rest else ""


def say(data: bytes) -> int:
    while data:
        data = data[posix.write(1, data) :]
    return 0

"""-v and -info: what this is."""

import posix
import sys

from pyrunc import __version__
from pyrunc.protobuf import decode, encode
from pyrunc.shim import messages

NAME = "io.containerd.pyrunc.v2"
LONGEST_INPUT = 1 << 20
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


def version() -> bytes:
    python = ".".join(str(number) for number in sys.version_info[:3])
    return f"containerd-shim-pyrunc-v2:\n  Version:  {__version__}\n  Python: {python}\n".encode()


def info() -> bytes:
    """RuntimeInfo: the features document of the runtime, and the options that came on standard input. The options
    change nothing."""
    from pyrunc.container.features import features
    from pyrunc.linux.fd import read_all
    from pyrunc.spec.jsonc import dumps

    options = None if posix.isatty(0) else decode(messages.ANY, read_all(0, LONGEST_INPUT))
    return encode(
        messages.RUNTIME_INFO,
        {
            "name": NAME,
            "version": {"version": __version__},
            "options": options if options and options["type_url"] else None,
            "features": {"type_url": FEATURES, "value": dumps(features()).encode()},
        },
    )

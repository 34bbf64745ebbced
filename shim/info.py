"""-v and -info: what this is."""

import sys

from pyrunc import __version__
from shim import messages
from shim.protobuf import encode

NAME = "io.containerd.pyrunc.v2"
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


def version() -> bytes:
    python = ".".join(str(number) for number in sys.version_info[:3])
    return f"containerd-shim-pyrunc-v2:\n  Version:  {__version__}\n  Python: {python}\n".encode()


def info() -> bytes:
    """RuntimeInfo, with the runtime's features document as it is. Standard input has options: they change nothing."""
    from pyrunc.cli.features import features
    from pyrunc.spec.jsonc import dumps

    document = {"type_url": FEATURES, "value": dumps(features()).encode()}
    return encode(messages.RUNTIME_INFO, {"name": NAME, "version": {"version": __version__}, "features": document})

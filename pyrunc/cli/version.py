"""pyrunc --version."""

import sys

from pyrunc import __version__
from pyrunc.cli.main import say

SPEC = "1.3.0"


def print_version() -> int:
    python = ".".join(map(str, sys.version_info[:3]))
    # Engines read the lines "commit:" and "spec:".
    lines = [f"pyrunc version {__version__}", f"commit: v{__version__}", f"spec: {SPEC}", f"python: {python}"]
    say("\n".join([*lines, *(f"{name}: {version}" for name, version in inside().items())]))
    return 0


def inside() -> "dict[str, str]":
    """What the image has in it besides Python, and which build it is; nothing of the ordinary program."""
    linked = sys.modules.get("pyrunc.image._linked")
    return linked.INSIDE if linked is not None else {}

"""pyrunc --version."""

from pyrunc import __version__
from pyrunc.cli.main import say

SPEC = "1.3.0"


def print_version() -> int:
    import sys

    python = ".".join(map(str, sys.version_info[:3]))
    # Engines read the lines "commit:" and "spec:".
    say(f"pyrunc version {__version__}\ncommit: v{__version__}\nspec: {SPEC}\npython: {python}")
    return 0

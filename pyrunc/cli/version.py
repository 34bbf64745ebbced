"""pyrunc --version."""

import sys

from pyrunc import SPECIFICATION, __version__, inside
from pyrunc.cli.call import say


def print_version() -> int:
    python = ".".join(map(str, sys.version_info[:3]))
    # Engines read the lines "commit:" and "spec:".
    lines = [f"pyrunc version {__version__}", f"commit: v{__version__}", f"spec: {SPECIFICATION}", f"python: {python}"]
    say("\n".join([*lines, *(f"{name}: {version}" for name, version in inside().items())]))
    return 0

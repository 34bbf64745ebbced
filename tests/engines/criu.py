"""CRIU for engines, which look for it in PATH: $PYRUNC_CRIU, or the one that is there."""

import os
import shutil
import subprocess

PROGRAM = os.environ.get("PYRUNC_CRIU") or shutil.which("criu")


def path(path: str) -> str:
    """With its folder in front."""
    return f"{os.path.dirname(PROGRAM)}:{path}" if PROGRAM else path


def works() -> bool:
    return PROGRAM is not None and not subprocess.run([PROGRAM, "check"], capture_output=True, timeout=60).returncode

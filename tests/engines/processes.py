"""Processes of engines: what they print, and which shims they have."""

import os
import subprocess
import tempfile
from pathlib import Path


def captured(
    command: list[str], stdin: bytes = b"", timeout: float = 60, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """The output goes to files: a process that it leaves behind must not hold a pipe of ours."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = subprocess.run(command, input=stdin, stdout=out, stderr=err, timeout=timeout, env=env).returncode
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def shims_beside(pid: int) -> list[int]:
    """pyrunc's, in the mount namespace of that process."""
    theirs = os.readlink(f"/proc/{pid}/ns/mnt")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text() == "containerd-shim\n" and os.readlink(folder / "ns/mnt") == theirs:
                found.append(int(folder.name))
        except OSError:
            continue
    return found

"""A CRIU that works here: $PYRUNC_CRIU, or the one in PATH. Debian 12's (3.17) does not on Linux 6."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.support.container import Container


@pytest.fixture(scope="session")
def criu():
    """Its folder, in which it is called criu."""
    program = os.environ.get("PYRUNC_CRIU") or shutil.which("criu")
    if program is None:
        pytest.skip("NOT TESTED: checkpoint and restore: there is no criu (PYRUNC_CRIU, or in PATH)")
    done = subprocess.run([program, "check"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"NOT TESTED: checkpoint and restore: {program} does not work here: {done.stderr.strip()[-200:]}")
    return str(Path(program).parent)


class Saved:
    """A container, and the checkpoint that is made of it."""

    def __init__(self, container: Container, criu: str, folder: Path) -> None:
        self.container = container
        self.runtime = container.runtime
        self.environment = {**os.environ, "PATH": f"{criu}:{os.environ['PATH']}"}
        self.images = folder / "images"
        self.work = folder / "work"

    @property
    def rootfs(self) -> Path:
        return self.container.bundle.path / "rootfs"

    @property
    def count(self) -> int:
        """Of the program that counts."""
        try:
            return int((self.rootfs / "tmp/count").read_text() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def counting(self, **how) -> "Saved":
        (self.rootfs / "tmp").mkdir(exist_ok=True)
        self.container.up("sh", "-c", COUNT, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **how})
        return self

    def verb(self, verb, *flags, id="", **how):
        how.setdefault("stdout", subprocess.DEVNULL) if verb == "restore" else None
        how.setdefault("timeout", 60)
        folders = ("--image-path", self.images, "--work-path", self.work)
        return self.runtime(verb, *folders, *flags, id or self.container.id, env=self.environment, **how)

    def checkpoint(self, *flags, **how):
        return self.verb("checkpoint", *flags, **how)

    def restore(self, *flags, **how):
        return self.verb("restore", "--detach", "--bundle", self.container.bundle.path, *flags, **how)

    def refused(self, *flags, **how) -> str:
        """`restore` fails, says why in its last line, and leaves nothing."""
        result = self.restore(*flags, check=False, **how)
        assert result.code == 1, repr(result)
        self.container.assert_gone()
        return result.err.splitlines()[-1]

    def assert_goes_on(self, wait_until) -> None:
        before = self.count
        wait_until(lambda: self.count > before, "it to count on")


COUNT = "i=0; while true; do i=$((i+1)); echo $i > /tmp/n; mv /tmp/n /tmp/count; sleep 0.02; done"


@pytest.fixture
def saved(container, criu, tmp_path):
    """Of a container with the given changes to its configuration."""

    def make(**changes) -> Saved:
        return Saved(container(**changes), criu, tmp_path)

    return make

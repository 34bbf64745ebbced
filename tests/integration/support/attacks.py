"""What attacks on a runtime have in common: an image's links that mean the host, descriptors that a caller leaked."""

import os
import shutil
from pathlib import Path
from typing import Any

from integration.support.container import Container


def without_mounts(c: Container, *destinations: str) -> Container:
    c.config["mounts"] = [mount for mount in c.config["mounts"] if mount["destination"] not in destinations]
    return c


def replace(c: Container, path: str, target: str | Path) -> Container:
    """Put a link into the image, in the place of what was there."""
    place = c.bundle.rootfs / path.lstrip("/")
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif place.exists() or place.is_symlink():
        place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return c


def forms(canary: Path) -> list[str]:
    """The ways in which a link of an image may mean a folder of the host."""
    return [
        str(canary),
        "../" * 40 + str(canary).lstrip("/"),
        f"/proc/self/root{canary}",
        f"/proc/1/root{canary}",
        f"/..{canary}",
    ]


FORMS = range(5)  # for parametrize, which has no canary yet


def leaking(folder: Path, first: int = 3, last: int = 64) -> dict[str, Any]:
    """For Popen: the caller has left a folder of the host open in all of these descriptors."""

    def arrange() -> None:
        top = os.dup2(os.open(folder, os.O_RDONLY), last + 50)
        for number in range(first, last + 1):
            os.dup2(top, number, inheritable=True)

    return {"preexec_fn": arrange, "close_fds": False}


def bound(source: str | Path, destination: str, *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}

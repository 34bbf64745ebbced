"""What the host has: cgroups, mounts, processes, files."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

BUSYBOX = shutil.which("busybox") or "/bin/busybox"


def hierarchies() -> dict[str, str]:
    """controller -> mount point; "" is that of v2."""
    found = {}
    for line in host_mounts():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found[""] = before.split()[4]
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, before.split()[4])
    return found


def unified() -> bool:
    """Whether cgroup v2 is the only version here."""
    return set(hierarchies()) == {""}


def controllers() -> set[str]:
    """The controllers that can limit a container here."""
    found = hierarchies()
    return set(Path(found[""], "cgroup.controllers").read_text().split()) if unified() else set(found)


def all_cgroups() -> set[str]:
    found, waiting = set(), [*set(hierarchies().values())]
    while waiting:
        folder = waiting.pop()
        found.add(folder)
        with contextlib.suppress(OSError):  # gone meanwhile, or deeper than a path can be
            waiting += [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    return found


def cgroups_of(name: str) -> list[str]:
    return sorted(path for path in all_cgroups() if name in path)


def host_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()


def mounts_of(text: str) -> list[str]:
    return [line for line in host_mounts() if text in line]


def in_its_file_system(path: str) -> str:
    """A path as mountinfo names the root of a mount: /tmp/x is /x where /tmp is a file system of its own."""
    mount_point = next(str(parent) for parent in (Path(path), *Path(path).parents) if parent.is_mount())
    return "/" + os.path.relpath(path, mount_point)


def processes_of(bundle: str) -> list[str]:
    """Living processes with a bundle's path in their command line or in the list of their mounts."""
    mounted = in_its_file_system(bundle)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            if stat.rpartition(")")[2].split()[0] in "ZX":
                continue
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if bundle in command or mounted in Path(f"/proc/{entry}/mountinfo").read_text(errors="replace"):
                found.append(f"process {entry}: {command}")
        except (FileNotFoundError, ProcessLookupError, PermissionError, OSError):
            continue
    return found


def inventory(path: Path) -> dict[str, tuple[int, int, int, bytes | str | None]]:
    """Everything in a folder: mode, owner, content."""
    found: dict[str, tuple[int, int, int, bytes | str | None]] = {}
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            place = os.path.join(folder, name)
            status = os.lstat(place)
            content: bytes | str | None = None
            if os.path.islink(place):
                content = os.readlink(place)
            elif os.path.isfile(place):
                content = Path(place).read_bytes()
            found[os.path.relpath(place, path)] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Nothing in this folder of the host's changes, and nothing comes to it."""
    before = inventory(path)
    yield
    assert inventory(path) == before


def mount_at(text, place):
    """(options, root, type, source, superblock options) of the last mount at a place in a mountinfo."""
    found = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if fields[4] == place:
            kind, source, options = [*after.split(" ", 2), "", ""][:3]
            found = (set(fields[5].split(",")), fields[3], kind, source, set(options.split(",")), fields[6:])
    assert found is not None, f"nothing is mounted at {place}:\n{text}"
    return found

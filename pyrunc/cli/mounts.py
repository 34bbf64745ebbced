"""pyrunc mounts add|remove ID FILE: give a running container mounts, and take them away again. As crun."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call
from pyrunc.container import late_mounts
from pyrunc.container.container import Container
from pyrunc.errors import ConfigError, UsageError
from pyrunc.linux.fd import read_all, read_file
from pyrunc.spec import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.spec.types import Mount

MEMBERS = {"destination": str, "type": str, "source": str, "options": list}

USAGE = Usage(
    "mounts",
    "add|remove ID FILE",
    "give a running container mounts, or take them away again",
    least=3,
    most=3,
    details="""FILE has an object with `mounts` as in config.json, or that list alone; - is standard input. Bind mounts
and tmpfs can be added, all of a file or none. What was added can be removed, by its destination.""",
)


def main(call: Call) -> None:
    what, container_id, source = call.arguments.rest
    work = {"add": late_mounts.add, "remove": late_mounts.remove}.get(what)
    if work is None:
        raise UsageError("mounts", f'"{what}"', "is neither add nor remove")
    data = read_all(0, load.LARGEST) if source == "-" else read_file(source)
    entries = _entries(data, "standard input" if source == "-" else source)
    work(Container.load(call.state_root, container_id, call.log), entries)


def _entries(data: bytes, name: str) -> "list[Mount]":
    document: Any = load.parse(data, name)[1]
    found = document.get("mounts") if isinstance(document, dict) else document
    if not isinstance(found, list) or not found:
        raise ConfigError("reading", name, "expected a list of mounts, or an object with such")
    for index, entry in enumerate(found):
        pointer = f"/mounts/{index}"
        if not isinstance(entry, dict) or not str(entry.get("destination", "")).startswith("/"):
            raise ConfigError(name, pointer, "expected an object with a destination, an absolute path")
        for member, value in entry.items():
            if member not in MEMBERS or not isinstance(value, MEMBERS[member]):
                raise ConfigError(name, f"{pointer}/{member}", f"is none of {', '.join(MEMBERS)}, or of another type")
        if not all(isinstance(option, str) for option in entry.get("options", [])):
            raise ConfigError(name, f"{pointer}/options", "expected texts")
    return found

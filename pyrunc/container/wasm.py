"""Run WebAssembly as a container's program by an engine of the host, as crun's annotations ask for it.

The engine's command is bound into the container with its libraries from the host: the image may have others, or none.
The engine becomes the container's program, with all limits of one, and the module is its argument. All of this is done
by changing config.json: no other part of the runtime knows of it.
"""

import posix
from _stat import S_ISREG

from pyrunc.container import helper
from pyrunc.errors import ConfigError, PyruncError
from pyrunc.linux.fd import Fd, open_at, read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, Mount, Process

# The command of an engine: its name, its arguments before the module, and those for each variable of the environment,
# {name} and {value}. Each engine gives the module the container's environment and its whole root file system.
ENGINES: "dict[str, tuple[str, list[str], list[str]]]" = {
    "wasmtime": ("wasmtime", ["run", "--dir", "/"], ["--env", "{name}"]),
    "wasmedge": ("wasmedge", ["--dir", "/:/"], ["--env", "{name}={value}"]),
    "wamr": ("iwasm", ["--dir=/"], ["--env={name}={value}"]),
}
ANY = "wasm"
HANDLERS = (ANY, *ENGINES)
VARIANT = "module.wasm.image/variant"
PLACE = "pyrunc.wasm"
READ_ONLY = ["bind", "ro", "nosuid", "nodev"]
HEADERS = 4096  # bytes: more than the headers of any program take
PT_INTERP = 3


def is_asked_for(config: "Config", variant: str) -> bool:
    """Whether an engine has marked the image as WebAssembly. compat: always; compat-smart: by the program's name."""
    process: Process = config.get("process") or {"cwd": "/"}
    words = process.get("args") or [""]
    return variant == "compat" or (variant == "compat-smart" and words[0].endswith((".wasm", ".wat")))


def use(config: "Config", handler: str, pointer: str) -> None:
    """Have an engine run the module that is the container's program. Raises ConfigError.

    Args:
        handler: one of HANDLERS.
        pointer: to the annotation that asks for it, for errors.
    """
    process = config.get("process")
    words = process.get("args") if process else None
    if process is None or not words:
        return  # there is nothing to run
    if words[0].startswith("-"):
        raise ConfigError("config.json", "/process/args/0", "the engine would take this module's name for a flag")
    mounts = next((n for n in config["linux"].get("namespaces") or [] if n["type"] == "mount"), None)
    if mounts is None or mounts.get("path"):
        raise ConfigError("config.json", pointer, "the engine needs a mount namespace of the container's own")
    name, engine = _installed(handler, pointer)
    _, before, variable = ENGINES[name]
    dev = any(mount["destination"] == "/dev" and mount.get("type") == "tmpfs" for mount in config.get("mounts") or [])
    folder = f"/dev/{PLACE}" if dev else f"/{PLACE}"
    command = [f"{folder}/{name}", *before]
    for text in process.get("env") or []:
        key, _, value = text.partition("=")
        command += [word.format(name=key, value=value) for word in variable]
    loader, files = _needs(engine, pointer)
    if loader:
        command = [f"{folder}/{PLACE}.loader", "--library-path", folder, *command]
        files[f"{PLACE}.loader"] = loader
    files[name] = engine
    process["args"] = [*command, *words]
    made: "list[Mount]" = [
        {"destination": f"{folder}/{file}", "type": "bind", "source": source, "options": [*READ_ONLY]}
        for file, source in files.items()
    ]
    config["mounts"] = [*(config.get("mounts") or []), *made]


def _installed(handler: str, pointer: str) -> "tuple[str, str]":
    names = [*ENGINES] if handler == ANY else [handler]
    for name in names:
        path = helper.find(ENGINES[name][0])
        if path is not None:
            return name, path
    wanted = " or ".join(ENGINES[name][0] for name in names)
    raise ConfigError("config.json", pointer, f"no engine of WebAssembly is installed: {wanted}", "is it in PATH?")


def _needs(engine: str, pointer: str) -> "tuple[str, dict[str, str]]":
    """The loader of an engine, and its libraries by their names. "" and none for one that is linked statically.

    We ask the loader itself. It runs no code of the engine, which would be a program of the host's in any case.
    """
    try:
        with open_at(None, engine, posix.O_RDONLY | posix.O_NONBLOCK) as file:
            loader = _loader(file)
        if not loader:
            return "", {}
        status, text = helper.run(loader, [loader, "--list", engine], "looking for the libraries of the engine")
    except (OSError, ValueError, PyruncError) as error:
        raise ConfigError("config.json", pointer, f"{engine}: {error}") from error
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        if arrow:
            found[name] = place.rpartition(" (")[0]
    if status or not all(place.startswith("/") and "/" not in name for name, place in found.items()):
        raise ConfigError("config.json", pointer, f"{engine}: not all of its libraries are on this host")
    return loader, found


def _loader(file: Fd) -> str:
    """The program interpreter of an ELF file; "": it has none. Raises ValueError. elf(5)"""
    if not S_ISREG(posix.fstat(file.number).st_mode):
        raise ValueError("is no file")
    data = read_all(file, HEADERS)
    if data[:4] != b"\x7fELF" or data[4:6] != b"\x02\x01":
        raise ValueError("is no ELF program of 64 bits")

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    start, size, count = number(32, 8), number(54, 2), number(56, 2)
    for at in range(start, start + size * count, size or HEADERS):
        if number(at, 4) == PT_INTERP:
            place, length = number(at + 8, 8), number(at + 32, 8)
            return posix.pread(file.number, length, place).rstrip(b"\0").decode("utf-8", "surrogateescape")
    return ""

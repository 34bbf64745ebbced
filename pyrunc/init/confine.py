"""Landlock: a process gives up what it may reach, for ever and for all that comes of it. Loaded where it is asked for.

    org.pyrunc.landlock.paths   rx /usr, r /etc, rw /tmp     all else of the file system is out of reach
    org.pyrunc.landlock.tcp     bind 80, connect 443         all other ports are; with an empty text all
    org.pyrunc.landlock.scope   signals, abstract-sockets    those of processes outside are

Rights are r (read), x (execute), w (write, make, remove, rename) and i (ioctl of devices).
"""

from pyrunc.errors import ConfigError
from pyrunc.init import credentials
from pyrunc.init.context import Context, Step, step
from pyrunc.linux import landlock, path
from pyrunc.linux.fd import Fd
from pyrunc.linux.path import file_type

START = "org.pyrunc.landlock."
S_IFDIR = 0o040000
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
TREE = 0b1_1111_1111 << 4  # REMOVE_DIR … MAKE_SYM
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
RIGHTS = {
    "r": READ_FILE | READ_DIR,
    "x": EXECUTE,
    "w": WRITE_FILE | TREE | REFER | TRUNCATE,
    "i": IOCTL_DEV,
}
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the others are of folders alone
PORTS = {"bind": 1, "connect": 2}
SCOPES = {"abstract-sockets": 1, "signals": 2}
# The version that has all that an annotation promises, and the Linux that has it. With less, something stays open.
NEEDED = {"paths": (5, "6.10"), "tcp": (4, "6.7"), "scope": (6, "6.12")}
HIGHEST_PORT = 65535


class Confinement:
    """What the annotations say.

    Attributes:
        paths: (rights, path), in order; None: the file system is not confined. ports, likewise: (rights, port).
        ruleset: what `prepare` has made of them.
    """

    __slots__ = ("paths", "ports", "ruleset", "scopes")

    def __init__(self, annotations: "dict[str, str]") -> None:
        """Raises ConfigError: it is not understood, or this kernel can't do it."""
        abi = landlock.abi()
        given = [name.removeprefix(START) for name in annotations if name.startswith(START)]
        for name in given:
            if name not in NEEDED:
                raise _wrong(name, "is none of paths, tcp and scope")
            least, since = NEEDED[name]
            if abi < least:
                found = f"Landlock {abi}" if abi else "no Landlock"
                raise _wrong(name, f"it takes Landlock {least} (Linux {since}), and this kernel has {found}")
        texts = {name: annotations[START + name] for name in given}
        self.paths = [_path(each) for each in _items(texts["paths"])] if "paths" in texts else None
        self.ports = [_port(each) for each in _items(texts["tcp"])] if "tcp" in texts else None
        self.ruleset: Fd | None = None
        self.scopes = 0
        for each in _items(texts.get("scope", "")):
            if each not in SCOPES:
                raise _wrong("scope", f'"{each}" is none of {", ".join(SCOPES)}')
            self.scopes |= SCOPES[each]

    def steps(self) -> "tuple[Step, Step]":
        return step("preparing the rules of Landlock")(self.prepare), step("confining itself by Landlock")(self.confine)

    def prepare(self, context: Context) -> None:
        """While the process is root still: it can reach every path that is named."""
        root = context.root
        assert root is not None
        handled = 0
        if self.paths is not None:
            handled = RIGHTS["r"] | RIGHTS["x"] | RIGHTS["w"] | RIGHTS["i"]
        ports = 0 if self.ports is None else PORTS["bind"] | PORTS["connect"]
        self.ruleset = landlock.create_ruleset(handled, ports, self.scopes)
        for rights, name in self.paths or ():
            with path.resolve(root, name) as place:
                rights &= handled if file_type(place) == S_IFDIR else handled & OF_FILES
                landlock.allow_beneath(self.ruleset, rights, place)
        for rights, port in self.ports or ():
            landlock.allow_port(self.ruleset, rights, port)

    def confine(self, context: Context) -> None:
        """Before a seccomp filter, which may forbid it. As that it takes no_new_privs or CAP_SYS_ADMIN."""
        assert self.ruleset is not None
        with self.ruleset:
            landlock.restrict_self(self.ruleset)
        if context.bpf is None:
            credentials.finish_capabilities(context)


def confinement(annotations: "dict[str, str]") -> "Confinement | None":
    return Confinement(annotations) if any(name.startswith(START) for name in annotations) else None


def _items(text: str) -> "list[str]":
    return [each.strip() for each in text.split(",") if each.strip()]


def _path(text: str) -> "tuple[int, str]":
    letters, _, name = text.partition(" ")
    name = name.strip()
    if not name.startswith("/") or not letters or letters.strip("".join(RIGHTS)):
        raise _wrong("paths", f'"{text}" is not some of rwxi and an absolute path')
    rights = 0
    for letter in letters:
        rights |= RIGHTS[letter]
    return rights, name


def _port(text: str) -> "tuple[int, int]":
    what, _, number = text.partition(" ")
    number = number.strip()
    if what not in PORTS or not (number.isascii() and number.isdecimal()) or int(number) > HIGHEST_PORT:
        raise _wrong("tcp", f'"{text}" is not bind or connect and a port')
    return PORTS[what], int(number)


def _wrong(name: str, cause: str) -> ConfigError:
    return ConfigError("config.json", f"/annotations/{START}{name}", cause)

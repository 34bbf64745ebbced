"""Read and check config.json, and the parts of it that `exec --process` and `update --resources` take.

This is on the path of every create: it imports no json, re or os. A document goes through the C scanner, the checker
that is compiled from the schemas, and rules.py. If one of them refuses it, report.py is imported to explain why.
"""

import posix

from pyrunc.errors import ConfigError, words
from pyrunc.spec import _checker, jsonc, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, cast

    from pyrunc.spec.types import Config, Process, Resources
else:

    def cast(_kind, value):
        """typing.cast, without typing."""
        return value


LARGEST = 8 << 20  # Docker's largest are some 20 KB; JSON of 8 MiB needs some 100 MB as objects
BLOCK = 1 << 16
NEWLINE = "\n"
RESOURCES = {"blockIO", "cpu", "devices", "hugepageLimits", "memory", "network", "pids", "rdma", "unified"}
FILE_TYPE = 0o170000
REGULAR = 0o100000
FLAGS = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY  # a FIFO must not hang us


def config(bundle_fd: int, name: str = "config.json") -> "Config":
    """The configuration in the directory `bundle_fd`, valid by schema and rules; ConfigError otherwise."""
    return cast("Config", _checked(read(bundle_fd, name), name, "config", _checker.config, rules.config))


def config_of(text: bytes, name: str = "config.json") -> "Config":
    """The same of a text that was read already."""
    return cast("Config", _checked(text, name, "config", _checker.config, rules.config))


def process(text: bytes, name: str = "process.json") -> "Process":
    """What `exec --process` reads: config.json's `process` by itself."""
    return cast("Process", _checked(text, name, "process", _checker.process, rules.process))


def resources(text: bytes, name: str = "resources") -> "Resources":
    """What `update --resources` reads: config.json's `linux.resources` by itself."""
    return cast("Resources", _checked(text, name, "resources", _checker.resources, rules.resources))


def read(directory: int, name: str) -> bytes:
    """The bytes of a regular file that is not too large."""
    try:
        number = posix.open(name, FLAGS, dir_fd=directory)
    except OSError as error:
        hint = ""
        if name == "config.json":
            hint = f"{_path_of(directory)} is no bundle, a folder with config.json in it; --bundle DIR names another"
        raise ConfigError("reading", name, words(error), hint) from error
    try:
        if posix.fstat(number).st_mode & FILE_TYPE != REGULAR:
            raise ConfigError("reading", name, "this is not a regular file")
        blocks = []
        size = 0
        while block := posix.read(number, BLOCK):
            blocks.append(block)
            size += len(block)
            if size > LARGEST:
                raise ConfigError("reading", name, f"it is larger than {LARGEST >> 20} MiB")
    except OSError as error:
        raise ConfigError("reading", name, words(error)) from error
    finally:
        posix.close(number)
    return b"".join(blocks)


def _path_of(directory: int) -> str:
    try:
        return posix.readlink(f"/proc/self/fd/{directory}")
    except OSError:
        return "this folder"


def parse(data: bytes, name: str) -> tuple[str, object]:
    """The text of a file, and the value that it says in JSON."""
    try:
        text = data.decode()
        return text, jsonc.loads(text)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        where = f"{name}:{before.count(NEWLINE) + 1}:{len(before) - before.rfind(NEWLINE)}"
        cause = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError(where, "", cause, "JSON is UTF-8") from None
    except jsonc.BadJSON as error:
        raise ConfigError(f"{name}:{error.line}:{error.column}", "", f"not JSON: {error.cause}") from None


def _limits(document: object, kind: str) -> "dict[str, Any]":
    """The limits in a document: linux.resources of config.json, or the document itself; {} if there are none."""
    if kind == "config":
        linux = document.get("linux") if isinstance(document, dict) else None
        document = linux.get("resources") if isinstance(linux, dict) else None
    return document if isinstance(document, dict) and kind != "process" else {}


def _checked(
    data: bytes,
    name: str,
    kind: str,
    follows_schema: "Callable[[object], bool]",
    problems: "Callable[[Any], list[rules.Problem]]",
) -> object:
    """The document in `data`, or ConfigError if anything is wrong with it."""
    text, document = parse(data, name)
    if "\\u" in text and ("\\u0000" in text or "\\ud" in text or "\\uD" in text):
        from pyrunc.spec import report

        if unfit := report.unfit_strings(document):
            raise report.error(name, text, unfit)
    limits = _limits(document, kind)
    if not RESOURCES.issuperset(limits):
        from pyrunc.spec import lenient

        lenient.respell(limits)
    if not follows_schema(document):
        from pyrunc.spec import lenient

        strict = lenient.tolerated(document)
        if not follows_schema(strict):
            from pyrunc.spec import report

            raise report.error(name, text, report.against_schema(strict, kind))
    if found := problems(document):
        from pyrunc.spec import report

        raise report.error(name, text, report.against_rules(found))
    return document

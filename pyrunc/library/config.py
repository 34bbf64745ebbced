"""The configuration of a container: config.json of the specification, with small verbs for what people change."""

import copy
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

from pyrunc.container.state import is_root_of_host
from pyrunc.errors import ConfigError, UsageError, words
from pyrunc.library import given, profile
from pyrunc.library.rootfs import FILES, FOLDERS
from pyrunc.spec import default as defaults
from pyrunc.spec import jsonc, load
from pyrunc.spec.rules import CAPABILITIES
from pyrunc.spec.types import Config as Document
from pyrunc.spec.types import Seccomp

StrPath = str | os.PathLike[str]
Size = int | str
UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
CPU_PERIOD = 100_000  # microseconds
LEAST_QUOTA, MOST_QUOTA = 1000, 10**12  # the kernel's limits
PLACES = {*FOLDERS, *FILES}  # where the root file system of the host's /usr has places for mounts


class Problem(ConfigError):
    """One mistake in a configuration, as `pyrunc validate` words it: where, what, and what to do."""


class Invalid(ConfigError):
    """A configuration does not follow the specification.

    Attributes:
        problems: all mistakes, in the order of the document.
    """

    def __init__(self, problems: "list[Problem]") -> None:
        first = problems[0]
        super().__init__(first.operation, first.subject, first.cause, first.hint)
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return Invalid, (self.problems,)


def size(value: Size, name: str) -> int:
    """A number of bytes, from 268435456, "256m" or "1.5 GiB"."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", value.lower()) if isinstance(value, str) else None
    if match is None:
        raise UsageError(name, repr(value), "is no size", 'a number of bytes, or "256m", "1.5g"')
    return int(float(match[1]) * 1024 ** UNITS[match[2]])


def cpu_quota(count: float) -> int:
    """The CPU time of so many CPUs, in microseconds for each period."""
    return max(LEAST_QUOTA, min(int(given.above_zero(count, "cpus") * CPU_PERIOD), MOST_QUOTA))


def _text_of_capability(name: Any) -> str:
    return given.text(name, "capabilities")


class Config:
    """A configuration. Each verb returns a changed copy and leaves this one as it was.

    Attributes:
        document: config.json of the specification. The caller may change it.
    """

    __slots__ = ("_plan", "document")

    def __init__(self, document: "Mapping[str, Any] | None" = None) -> None:
        """Take a document as json.load() gives it, or else what `pyrunc spec` writes, without a terminal."""
        self.document: dict[str, Any]
        self._plan: dict[str, Any] | None = None
        if document is not None:
            self.document = copy.deepcopy(given.mapping(document, "configuration"))
            return
        rootless = not is_root_of_host()
        made = defaults.default(rootless, os.geteuid(), os.getegid())
        made["process"]["terminal"] = False
        self.document = cast("dict[str, Any]", made)

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a file, or the config.json of a bundle. A relative root file system is looked for beside the file."""
        file = Path(given.path(path, "configuration"))
        if file.is_dir():
            file = file / "config.json"
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ConfigError("reading", str(file), words(error)) from error
        document = load.parse(text, str(file))[1]
        if not isinstance(document, dict):
            raise ConfigError("reading", str(file), "is no JSON object")
        made = cls(document)
        root = made.document.get("root")
        if isinstance(root, dict) and isinstance(root.get("path"), str):
            root["path"] = os.path.join(file.parent.absolute(), root["path"])
        return made

    def _changed(self) -> Self:
        other = type(self)(self.document)
        other._plan = copy.deepcopy(self._plan)
        return other

    def _member(self, *names: str) -> "dict[str, Any]":
        """An object of the document. It is made if it is missing."""
        at = self.document
        for name in names:
            found = at.get(name)
            if found is None:
                found = at[name] = {}
            if not isinstance(found, dict):
                raise ConfigError("config.json", "/" + "/".join(names), "is no object")
            at = found
        return at

    def _list(self, at: "dict[str, Any]", name: str) -> "list[Any]":
        """A copy of a list in an object of the document. The caller puts it back."""
        found = at.get(name) or []
        if not isinstance(found, list) or (name != "env" and not all(isinstance(each, dict) for each in found)):
            raise ConfigError("config.json", f"…/{name}", "is no list of objects" if name != "env" else "is no list")
        return [*found]

    # --- the process

    def args(self, *words: StrPath) -> Self:
        """The program and its arguments."""
        other = self._changed()
        other._member("process")["args"] = [given.path(word, "args") for word in words]
        return other

    def env(self, variables: "Mapping[str, str] | None" = None, /, **more: str) -> Self:
        """Variables of its environment. Each is added, or replaces the one of the same name."""
        other = self._changed()
        process = other._member("process")
        new = {**given.variables(variables or {}), **given.variables(more)}
        old = [text for text in self._list(process, "env") if str(text).partition("=")[0] not in new]
        process["env"] = [*old, *(f"{name}={value}" for name, value in new.items())]
        return other

    def cwd(self, path: str) -> Self:
        other = self._changed()
        other._member("process")["cwd"] = given.place(path, "cwd")
        return other

    def terminal(self, on: bool = True, rows: int = 24, columns: int = 80) -> Self:
        """Give it a terminal: see Process.terminal."""
        other = self._changed()
        process = other._member("process")
        process["terminal"] = on
        process.pop("consoleSize", None)
        if on:
            process["consoleSize"] = {"height": rows, "width": columns}
        mounts = self._list(other.document, "mounts")
        if on and not any(mount.get("type") == "devpts" for mount in mounts):
            options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
            made = {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
            other.document["mounts"] = [*mounts, made]
        return other

    def user(self, uid: int, gid: int | None = None, groups: Iterable[int] = ()) -> Self:
        """The user and groups that it runs as, as numbers in the container. Without `gid`, the group is `uid` too."""
        other = self._changed()
        other._member("process")["user"] = {
            "uid": given.whole(uid, "user", 0), "gid": given.whole(uid if gid is None else gid, "user", 0),
            "additionalGids": [given.whole(group, "user", 0) for group in given.several(groups, "groups")],
        }  # fmt: skip
        return other

    def capabilities(self, *names: str) -> Self:
        """The capabilities that it has and can get: "CAP_NET_BIND_SERVICE" or "net_bind_service". No name: none."""
        other = self._changed()
        full = [name if name.startswith("CAP_") else f"CAP_{name.upper()}" for name in map(_text_of_capability, names)]
        for name in full:
            if name not in CAPABILITIES:
                raise UsageError("capabilities", name, "there is no such capability")
        sets = dict.fromkeys(("bounding", "effective", "permitted"), full)
        other._member("process")["capabilities"] = sets
        return other

    def rlimit(self, name: str, soft: int, hard: int | None = None) -> Self:
        """A limit of setrlimit(2): "RLIMIT_NOFILE" or "nofile"."""
        other = self._changed()
        process = other._member("process")
        name = given.text(name, "rlimit")
        full = name if name.startswith("RLIMIT_") else f"RLIMIT_{name.upper()}"
        old = [each for each in self._list(process, "rlimits") if each.get("type") != full]
        process["rlimits"] = [*old, {"type": full, "soft": soft, "hard": soft if hard is None else hard}]
        return other

    # --- what it sees

    def root(self, path: StrPath, readonly: bool = True) -> Self:
        """Use a folder itself as its root file system: what it writes there stays."""
        other = self._changed()
        other.document["root"] = {"path": os.path.abspath(given.path(path, "root")), "readonly": bool(readonly)}
        other._plan = None
        return other

    def layers(self, *folders: StrPath, write: Size = 0) -> Self:
        """Stack folders as its root file system, as layers of an image, the first one lowest. They stay as they are.

        Args:
            write: how much it may write; that is thrown away with the container. 0: it is read-only.
        """
        if not folders:
            raise UsageError("layers", "", "there is none")
        return self._put_together({"kind": "layers", "layers": [_folder(each) for each in folders]}, write)

    def tar(self, path: StrPath, write: Size = 0) -> Self:
        """Use the contents of a tar, compressed or not, as `docker export` makes it. A program unpacks it only once.

        Args:
            write: as of `layers`.
        """
        absolute = os.path.abspath(given.path(path, "tar"))
        if not os.path.isfile(absolute):
            raise UsageError("tar", absolute, "there is no such file")
        return self._put_together({"kind": "tar", "tar": absolute}, write)

    def _put_together(self, plan: "dict[str, Any]", write: Size) -> Self:
        other = self._changed()
        room = size(write, "write")
        other._plan = {**plan, "size": room or 1 << 20}  # read-only, it still needs room for mount points
        other.document["root"] = {"path": "rootfs", "readonly": not room}
        return other

    def mount(self, source: StrPath, destination: str, write: bool = False) -> Self:
        """Mount a file or a folder of the host. It is read-only unless `write`; device nodes and setuid do nothing."""
        place = os.path.abspath(given.path(source, "mount"))
        if not os.path.exists(place):
            raise UsageError("mount", place, "there is no such file or folder")
        options = ["rbind", "nosuid", "nodev", "rw" if write else "rro"]
        return self._mounted({"destination": destination, "type": "bind", "source": place, "options": options})

    def tmpfs(self, destination: str, limit: Size = "64m") -> Self:
        """A fresh folder in memory that everybody may write to."""
        options = ["nosuid", "nodev", "mode=1777", f"size={size(limit, 'tmpfs')}"]
        made = {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}
        return self._mounted(made)

    def _mounted(self, mount: "dict[str, Any]") -> Self:
        other = self._changed()
        given.place(mount["destination"], "mount")
        other.document["mounts"] = [*self._list(other.document, "mounts"), mount]
        if other._plan is not None and other._plan["kind"] == "usr" and mount["destination"].strip("/") not in PLACES:
            other._plan["more"] = True
        return other

    def hostname(self, name: str) -> Self:
        other = self._changed()
        other.document["hostname"] = given.text(name, "hostname")
        return other

    def network(self, kind: Literal["none", "host"]) -> Self:
        """With "none" it has only a loopback device of its own. With "host" it has the host's network."""
        if kind not in ("none", "host"):
            raise UsageError("network", repr(kind), 'is neither "none" nor "host"')
        other = self._changed()
        linux = other._member("linux")
        linux["namespaces"] = [each for each in self._list(linux, "namespaces") if each.get("type") != "network"]
        if kind == "none":
            linux["namespaces"].append({"type": "network"})
        return other

    # --- what limits it

    def memory(self, limit: Size) -> Self:
        """Limit its memory, in bytes or as "256m". It may not swap."""
        other = self._changed()
        value = size(limit, "memory")
        other._member("linux", "resources", "memory").update(limit=value, swap=value)
        return other

    def cpus(self, count: float) -> Self:
        """Limit its CPU time to that of so many CPUs: 0.5 is half of one."""
        other = self._changed()
        quota = cpu_quota(count)
        other._member("linux", "resources", "cpu").update(quota=quota, period=CPU_PERIOD)
        return other

    def pids(self, limit: int) -> Self:
        """Limit its processes and threads to so many."""
        other = self._changed()
        other._member("linux", "resources", "pids")["limit"] = given.whole(limit, "pids", 1)
        return other

    def seccomp(self, rules: "Seccomp | Mapping[str, Any] | Literal['default'] | None") -> Self:
        """Set the seccomp profile: as linux.seccomp of config.json, "default" for that of `run`, or None for none."""
        other = self._changed()
        linux = other._member("linux")
        linux.pop("seccomp", None)
        if rules == "default":
            linux["seccomp"] = profile.default(os.uname().machine)
        elif rules is not None:
            linux["seccomp"] = copy.deepcopy(rules)
        return other

    # --- whether it is valid

    def validate(self) -> Self:
        """Check the document. Raises Invalid, which lists every mistake. Making a container checks it too."""
        from pyrunc.spec import _checker, lenient, report, rules

        try:
            text = jsonc.dumps_pretty(self.document)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError("config.json", "", f"it has a value that JSON has not: {error}") from error
        document = load.parse(text.encode("utf-8", "surrogatepass"), "config.json")[1]
        found = [*report.unfit_strings(document)]
        strict = lenient.tolerated(document)
        if not _checker.config(strict):
            found += report.against_schema(strict, "config")
        else:
            found += report.against_rules(rules.config(cast("Document", document)))
        lines = sorted(report.lines("config.json", text, found), key=lambda line: line.offset)
        if lines:
            raise Invalid([Problem(line.where, line.pointer, line.cause, line.hint) for line in lines])
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and (self.document, self._plan) == (other.document, other._plan)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        process = self.document.get("process")
        return f"Config(args={process.get('args') if isinstance(process, dict) else None!r})"


def _folder(path: StrPath) -> str:
    place = os.path.abspath(given.path(path, "layers"))
    if not os.path.isdir(place):
        raise UsageError("layers", place, "there is no such folder")
    return place

"""How a controller's properties become writes: a table of (property, file, conversion)."""

import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Row = tuple[str, str, Callable[[Any], str]]
    Write = tuple[str, str]  # a control file, and one write(2) to it
    Also = Callable[[str, Any], Iterable[Write]]

# Engines write zeros for what they leave alone. Of these a zero is a wish.
ZERO_COUNTS = ("burst", "idle", "swappiness")
EINVAL, ENOENT = 22, 2


class Limits:
    """One controller of one version of cgroups.

    Args:
        name: of the member of linux.resources that holds its properties.
        rows: (property, file, conversion to text), in the order in which they are to be written.
        also: what a table can't say: writes that go before those of the rows, from the directory and the properties.
        controller: where the kernel's name is another one.
        covers: the properties that `also` sees to; none named: all.
        missing: the properties that this version of cgroups has nothing for.
    """

    __slots__ = ("also", "controller", "covers", "missing", "name", "rows")

    def __init__(
        self,
        name: str,
        rows: "tuple[Row, ...]",
        also: "Also | None" = None,
        controller: str = "",
        covers: "tuple[str, ...]" = (),
        missing: "tuple[str, ...]" = (),
    ) -> None:
        self.name = name
        self.rows = rows
        self.also = also
        self.controller = controller or name
        self.covers = covers
        self.missing = missing

    def are_asked_for_in(self, values: "Any") -> bool:
        """Whether there is something to limit. Engines write empty objects and zeros for what they leave alone."""
        names = (*(key for key, _, _ in self.rows), *self.covers)
        if names and isinstance(values, dict):
            return any(_says_something(values.get(name)) for name in names)
        return _says_something(values)

    def writes(self, directory: str, values: "Any") -> "list[Write]":
        """What to write, in order. What can't be done is refused, never ignored."""
        for key in self.missing:
            if values.get(key):
                raise PyruncError("linux.resources", f"{self.name}.{key}", "cgroup v2 has nothing like it")
        found = [*self.also(directory, values)] if self.also is not None else []
        for key, file, convert in self.rows:
            value = values.get(key)
            if key == "shares" and values.get("idle") == 1:
                continue  # an idle cgroup has none
            if value or (value == 0 and key in ZERO_COUNTS and posix.access(f"{directory}/{file}", posix.F_OK)):
                found.append((file, convert(value)))
        return found


def _says_something(value: "Any") -> bool:
    if isinstance(value, dict):
        return any(_says_something(member) for member in value.values())
    return bool(value)


def write_all(directory: str, writes: "list[Write]") -> None:
    """Write them in order; those that the kernel finds invalid as things stand, once more after the others.

    Limits that bound each other (memory and memory with swap, quota, period and burst, idle and shares) can grow or
    shrink in one order only, which depends on what they were.
    """
    refused: list[tuple[str, str, PyruncError]] = []
    for file, value in writes:
        try:
            write(directory, file, value)
        except PyruncError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != EINVAL:
                raise
            refused.append((file, value, error))
    if refused and len(refused) == len(writes):
        raise refused[0][2]
    if refused:
        write_all(directory, [(file, value) for file, value, _ in refused])


def write(directory: str, file: str, value: str) -> None:
    """One value into one control file. Raises PyruncError, which names both and what the kernel said."""
    try:
        write_file(f"{directory}/{file}", value.encode())
    except OSError as error:
        hint = ""
        if error.errno == ENOENT:
            hint = "the kernel or the parent cgroup does not offer this controller"
        raise PyruncError(
            f'writing "{value}" to cgroup file', f"{directory}/{file}", posix.strerror(error.errno or 0), hint
        ) from error


def read(directory: str, file: str) -> str:
    try:
        return read_file(f"{directory}/{file}").decode().strip()
    except OSError as error:
        raise PyruncError("reading cgroup file", f"{directory}/{file}", reason(error)) from error


def or_max(value: int) -> str:
    """-1 is "no limit", which v2 and pids spell max."""
    return "max" if value < 0 else str(value)

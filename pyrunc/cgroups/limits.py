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

# Engines write zeros for what they leave alone. Of these a zero is a wish; of the last two one that a kernel which does
# not know them fulfils.
ZERO_COUNTS = ("swappiness", "burst", "idle")
ZERO_GOES_WITHOUT = ZERO_COUNTS[1:]
EINVAL, ENOENT = 22, 2


class Limits:
    """One controller of one version of cgroups.

    Args:
        name: of the member of linux.resources that holds its properties.
        rows: (property, file, conversion to text), in the order in which they are to be written.
        also: what a table can't say: writes that go before those of the rows, from the directory and the properties.
        controller: where the kernel's name is another one.
        covers: the properties that `also` sees to; none named, and no rows: all.

    Attributes:
        properties: what it has something for, "" for the member as it is. What no controller of a version of cgroups
            has, but one of the other version, is refused: see make.plan.
    """

    __slots__ = ("also", "controller", "name", "properties", "rows")

    def __init__(
        self,
        name: str,
        rows: "tuple[Row, ...]",
        also: "Also | None" = None,
        controller: str = "",
        covers: "tuple[str, ...]" = (),
    ) -> None:
        self.name = name
        self.rows = rows
        self.also = also
        self.controller = controller or name
        self.properties = (*(key for key, _, _ in rows), *covers) or ("",)

    def writes(self, directory: str, values: "Any") -> "list[Write]":
        """What to write, in order.

        Args:
            directory: of the controller; "" where this host has none, for whom it is to know what would be written.
        """
        found = [*self.also(directory, values)] if self.also is not None else []
        for key, file, convert in self.rows:
            value = values.get(key)
            if key == "shares" and values.get("idle") == 1:
                continue  # an idle cgroup has none
            if value or (value == 0 and key in ZERO_COUNTS and not _goes_without(directory, key, file)):
                found.append((file, convert(value)))
        return found


def _goes_without(directory: str, key: str, file: str) -> bool:
    return key in ZERO_GOES_WITHOUT and not posix.access(f"{directory}/{file}", posix.F_OK)


def missing(property: str, unified: bool) -> PyruncError:
    """Nothing that is asked for is ignored."""
    return PyruncError("invalid configuration: linux.resources", property, f"cgroup v{1 + unified} has nothing like it")


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

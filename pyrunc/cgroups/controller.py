"""A controller: a table from properties of linux.resources to control files, and functions that read what it counts.

Each controller is a file of this folder (memory.py, cpu.py, …) with a CONTROLLER; controllers.py lists them.
"""

import posix

from pyrunc.errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyrunc.cgroups.counters import Values
    from pyrunc.cgroups.files import Write

    File = tuple[str, Callable[[Any], str | list[str]]]
    Function = Callable[[str, Any], Iterable[Write]]
    Limit = tuple[str, File | Function | None, File | Function | None]


class Controller:
    """One controller of the kernel's, as v1 and as v2 have it.

    Args:
        member: the member of linux.resources with its properties.
        name: what the kernel calls it; `name_v2`, where v2 calls it otherwise.
        limits: a row for each property, in the order in which they are written: (property, on v1, on v2). The property
            "" is the whole member. On v1 and on v2 stands one of these:
            - (file, conversion): the text to write; a list of texts is as many writes.
            - a function of the controller's directory and the member, which yields writes: for what a file and a
              conversion can't say. One that stands in several rows is called once, for all of them.
            - None: this version has nothing like it. A configuration that asks for it is refused.
        zeros: the properties for which 0 is a limit. For all others 0 means "leave it alone": engines write that.
        harmless_zeros: those of `zeros` that are 0 anyway on a kernel without the file.
        statistics: two functions that read what it has counted, on v1 and on v2. They take directories.
        counted_by: the controllers of v1 whose directories the function for v1 takes.
    """

    __slots__ = ("counted_by", "harmless_zeros", "limits", "member", "names", "statistics", "zeros")

    def __init__(
        self,
        member: str,
        name: str,
        limits: "tuple[Limit, ...]",
        name_v2: str = "",
        zeros: "tuple[str, ...]" = (),
        harmless_zeros: "tuple[str, ...]" = (),
        statistics: "tuple[Callable[..., Values], Callable[..., Values]] | None" = None,
        counted_by: "tuple[str, ...]" = (),
    ) -> None:
        self.member = member
        self.names = (name, name_v2 or name)
        self.limits = limits
        self.zeros = zeros
        self.harmless_zeros = harmless_zeros
        self.statistics = statistics
        self.counted_by = counted_by or (name,)

    def writes(self, unified: bool, directory: str, values: "Any") -> "list[Write]":
        """What to write for the member of linux.resources, in order. Raises PyruncError for what can't be had.

        Args:
            unified: whether on v2.
            directory: the controller's; "" where this host has none, to learn whether anything would be written.
        """
        found: list[Write] = []
        called: list[Function] = []
        for name, on_v1, on_v2 in self.limits:
            place, value = on_v2 if unified else on_v1, values.get(name) if name else values
            if place is None:
                if value:
                    raise missing(f"{self.member}.{name}".rstrip("."), unified)
            elif not isinstance(place, tuple):
                if place not in called:
                    called.append(place)
                    found += place(directory, values)
            elif value or (value == 0 and self._is_limit(name, f"{directory}/{place[0]}")):
                text = place[1](value)
                found += [(place[0], line) for line in ([text] if isinstance(text, str) else text)]
        return found

    def _is_limit(self, name: str, file: str) -> bool:
        """Whether 0 is a limit for this property."""
        return name in self.zeros and (name not in self.harmless_zeros or posix.access(file, posix.F_OK))


def missing(name: str, unified: bool) -> PyruncError:
    """The error for a limit that only the other version of cgroups has."""
    return PyruncError("invalid configuration: linux.resources", name, f"cgroup v{1 + unified} has nothing like it")


def or_max(value: int) -> str:
    """The text for a limit. -1 is "no limit", for which v2 and pids have the word max."""
    return "max" if value < 0 else str(value)

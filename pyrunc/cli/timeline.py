"""--timeline FILE: what a verb did when, in Chrome's trace format (Perfetto opens it); - is a table on standard error.

Steps are those that --debug tells. System calls are timed by a wrapper around every function that makes one, in this
process and in the container's, which inherits it; those that took less than 0.1 ms are not told. All this is loaded,
and wrapped, when it is asked for.
"""

import fcntl
import posix
import sys
import time

from pyrunc import log as logs
from pyrunc.cli.arguments import Arguments
from pyrunc.errors import UsageError, printable
from pyrunc.linux import _kernel
from pyrunc.linux.fd import Fd, open_at, write_all, write_message
from pyrunc.log import Log
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SHORTEST = 100_000  # nanoseconds
# What returns twice, or never; and what makes no system call.
NOT_TIMED = {
    "_exit", "abort", "execv", "execve", "fork", "fork1", "forkpty", "fspath", "major", "makedev", "minor",
    "posix_spawn", "posix_spawnp", "reset_signals", "strerror", "sys_clone", "sys_clone3", "sys_filter_and_execve",
}  # fmt: skip


class Timeline(Log):
    """A log that keeps what each step took."""

    __slots__ = ("child", "events", "inner", "parent")

    def __init__(self, inner: Log) -> None:
        super().__init__(inner.file, inner.json, inner.debug_on, inner.warnings_on)
        self.is_elsewhere = inner.is_elsewhere
        self.inner = inner
        self.steps_on = True
        self.parent = self.child = posix.getpid()
        self.events: list[tuple[int, str, int, int]] = []  # pid, name, began, ended

    def write(self, level: str, text: str) -> None:
        self.inner.write(level, text)

    def took(self, name: str, began: int, ended: int) -> None:
        super().took(name, began, ended)
        self.events.append((self.parent, name, began, ended))

    def child_took(self, pid: int, name: str, began: int, ended: int) -> None:
        super().took(name, began, ended)
        self.child = pid
        self.events.append((pid, name, began, ended))


def record(timeline: Timeline, name: str, file: "Fd | None", verb: "Callable[[], int | None]") -> "int | None":
    """The verb, with a timeline that is written when it is over, however it ends."""
    began = time.time_ns()
    time_calls()
    try:
        return verb()
    finally:
        if posix.getpid() == timeline.parent:
            timeline.took(f"pyrunc {name}", began, time.time_ns())
            timeline.events += [(timeline.parent, *each) for each in logs.calls]
            write(timeline, file)


def open_file(arguments: Arguments) -> "Fd | None":
    """Where it goes to; None: to standard error."""
    if "exit-record" in arguments.given:
        raise UsageError("--timeline", "", "can't be had with --exit-record", "the process that stays writes none")
    place = arguments.text("timeline")
    return None if place == "-" else open_at(None, place, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o644)


def write(timeline: Timeline, file: "Fd | None") -> None:
    events = sorted(timeline.events, key=lambda event: (event[2], -event[3]))
    if file is None:
        write_message(2, (table(events, timeline.parent) + "\n").encode("utf-8", "backslashreplace"))
        return
    with file:
        write_all(file, trace(events, timeline.parent).encode("utf-8", "surrogateescape"))


def trace(events: "list[tuple[int, str, int, int]]", parent: int) -> str:
    """JSON Object Format of Chrome's tracing: complete events, in microseconds."""
    found: list[dict[str, Any]] = []
    for pid in sorted({parent, *(pid for pid, *_ in events)}):
        name = "runtime" if pid == parent else "container's process"
        found.append({"name": "process_name", "ph": "M", "pid": pid, "tid": pid, "args": {"name": name}})
    for pid, name, began, ended in events:
        kind = "system call" if "(" in name else "step"
        found.append(
            {
                "name": printable(name),
                "cat": kind,
                "ph": "X",
                "ts": began / 1000,
                "dur": (ended - began) / 1000,
                "pid": pid,
                "tid": pid,
            }
        )
    return dumps({"traceEvents": found, "displayTimeUnit": "ms"})


def table(events: "list[tuple[int, str, int, int]]", parent: int) -> str:
    """When, for how long, who, what; what happened within another stands below it."""
    start = min((began for _, _, began, _ in events), default=0)
    lines = ["      at ms   took ms  by       what"]
    within: dict[int, list[int]] = {}
    for pid, name, began, ended in events:
        ends = within.setdefault(pid, [])
        while ends and ends[-1] <= began:
            ends.pop()
        who = "runtime" if pid == parent else "process"
        at, took = (began - start) / 1e6, (ended - began) / 1e6
        lines.append(f"{at:11.3f} {took:9.3f}  {who:<8} {'  ' * len(ends)}{printable(name)}")
        ends.append(ended)
    return "\n".join(lines)


# System calls


def time_calls() -> None:
    """Put the wrapper around functions of C: they are looked up by name each time."""
    for module in (posix, fcntl):
        for name, function in [*vars(module).items()]:
            if callable(function) and not isinstance(function, type) and name not in NOT_TIMED:
                setattr(module, name, timed(name, function))
    timed_lib = Lib(_kernel.lib)
    for module in [*sys.modules.values()]:
        if getattr(module, "lib", None) is _kernel.lib and module is not _kernel:
            vars(module)["lib"] = timed_lib
    _kernel.lib = timed_lib  # type: ignore[assignment]  # for who imports it later


class Lib:
    """The extension's functions, timed."""

    def __init__(self, lib: "Any") -> None:
        self._lib = lib

    def __getattr__(self, name: str) -> "Any":
        function = getattr(self._lib, name)
        found = function if name in NOT_TIMED or not name.startswith("sys_") else timed(name[4:], function)
        setattr(self, name, found)
        return found


def timed(name: str, function: "Callable[..., Any]") -> "Callable[..., Any]":
    def call(*arguments: "Any", **named: "Any") -> "Any":
        began = time.time_ns()
        try:
            return function(*arguments, **named)
        finally:
            ended = time.time_ns()
            if ended - began >= SHORTEST:
                logs.calls.append((f"{name}({'' if name == 'write' else _words(arguments)})", began, ended))

    return call


def _words(arguments: "tuple[Any, ...]") -> str:
    """The texts among what a call was given: paths, most of them; nothing that was written or would be unreadable."""
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in arguments]
    return ", ".join(each[:80] for each in texts if isinstance(each, str) and each and each.isprintable())

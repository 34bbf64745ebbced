"""Where warnings and debugging go: standard error or `--log`, as text or as JSON lines. The form is runc's (logrus)."""

import posix
import time

from pyrunc.errors import printable
from pyrunc.linux.fd import Fd, write_all, write_message

# System calls that took long, as --timeline has them noted: what, when it began and ended. Else none.
calls: "list[tuple[str, int, int]]" = []


class Log:
    """Args:
    file: where lines go; None is standard error.
    json: one JSON object a line: engines read the last one of level "error".
    debug: whether lines of level "debug" are written.
    warnings: the same of level "warning".

    Attributes:
        is_elsewhere: whether lines go to another place than standard error.
        steps_on: whether anybody wants to know what each step takes.
    """

    __slots__ = ("debug_on", "file", "is_elsewhere", "json", "steps_on", "warnings_on")

    def __init__(
        self, file: "Fd | None" = None, json: bool = False, debug: bool = False, warnings: bool = True
    ) -> None:
        self.file = file
        self.json = json
        self.debug_on = debug
        self.steps_on = debug
        self.warnings_on = warnings
        self.is_elsewhere = file is not None

    def debug(self, text: str) -> None:
        if self.debug_on:
            self.write("debug", text)

    def step(self, name: str) -> "Timed":
        """To be entered for as long as the step takes."""
        return Timed(self, name)

    def took(self, name: str, began: int, ended: int) -> None:
        """A step, and its time in nanoseconds since the epoch. A container's process says so of its own."""
        self.debug(f"step {name}: {(ended - began) // 1000} µs")

    def child_took(self, _: int, name: str, began: int, ended: int) -> None:
        """The same, by the process of that number."""
        self.took(name, began, ended)

    def warning(self, text: str) -> None:
        if self.warnings_on:
            self.write("warning", text)

    def error(self, text: str) -> None:
        self.write("error", text)

    def write(self, level: str, text: str) -> None:
        now = rfc3339()
        if self.json:
            from pyrunc.spec.jsonc import dumps

            line = dumps({"level": level, "msg": text, "time": now})
        else:
            line = f'time="{now}" level={level} msg={quoted(text)}'
        try:
            data = (line + "\n").encode("utf-8", "backslashreplace")
            if self.file is None:
                write_message(2, data)  # another process may have told it not to wait
            else:
                write_all(self.file, data)  # a shim's own does not: what its fifo has no room for is lost
        except OSError:
            pass  # a log that can't be written must not keep a container from being stopped


class Timed:
    """A part of a verb, which is told to the log when it is over, by an error too."""

    __slots__ = ("began", "log", "name")

    def __init__(self, log: Log, name: str) -> None:
        self.log = log
        self.name = name

    def __enter__(self) -> None:
        self.began = time.time_ns()

    def __exit__(self, *_: object) -> None:
        if self.log.steps_on:
            self.log.took(self.name, self.began, time.time_ns())


def quoted(text: str) -> str:
    """Between quotes and in one line."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def rfc3339(nanoseconds: "int | None" = None) -> str:
    """The time in UTC. With nanoseconds since the epoch: to the nanosecond, as state.json and `list` show it."""
    if nanoseconds is None:
        t = time.gmtime()
        fraction = ""
    else:
        t = time.gmtime(nanoseconds // 10**9)
        fraction = f".{nanoseconds % 10**9:09d}".rstrip("0").rstrip(".")
    return f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}T{t[3]:02d}:{t[4]:02d}:{t[5]:02d}{fraction}Z"


def open_log(path: str) -> Fd:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_SYNC | posix.O_CLOEXEC
    return Fd(posix.open(path, flags, 0o644), path)

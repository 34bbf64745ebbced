"""`pyrunc.run`: run one program in a container of its own, as subprocess.run runs one on the host."""

import hashlib
import math
import os
import time
from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

from pyrunc.errors import PyruncError, UsageError
from pyrunc.library import client, given
from pyrunc.library.config import Config, StrPath
from pyrunc.library.errors import OutputLimitExceeded, TimeoutExpired, WorkerError
from pyrunc.library.job import GONE, TOO_LATE
from pyrunc.library.result import Result, result
from pyrunc.library.sandbox import Options, sandbox
from pyrunc.library.streams import DEVNULL, PIPE, Exchange, File, Streams, Text, remaining
from pyrunc.spec.jsonc import dumps

OUTPUT_LIMIT = 64 << 20
OF_HOST_ALONE = {"kind": "usr", "more": False}  # the plan of the host's own /usr and no further mount
MOST_WORDS = 8192  # characters of a program and its arguments, which are sent in one message after start
GRACE_SECONDS = 5.0  # the worker ends a run on time, and has this long to say so; then we go on without it


class Running:
    """One run, on the program's side: what `run`, `Pool` and aio have in common."""

    __slots__ = ("args", "coming", "exchange", "input", "is_ready", "limit", "line", "streams", "text", "timeout")

    def __init__(
        self, config: Config, *, input: Any, stdin: File, stdout: File, stderr: File, text: Text,
        timeout: float | None, output_limit: int | None, hold: bool = False, state_root: str | None = None,
    ) -> None:  # fmt: skip
        if input is not None and stdin is not None:
            raise UsageError("run", "", "stdin and input can't both be given")
        if timeout is not None and timeout != math.inf:
            given.above_zero(timeout, "timeout")
        process = config.document.get("process")
        self.args: list[str] = [*(process.get("args") or [])] if isinstance(process, dict) else []
        if isinstance(process, dict) and process.get("terminal"):
            raise UsageError("run", "", "it has no terminal to give", "Container.create and exec have")
        self.text = text
        self.timeout = timeout = given.seconds(timeout)
        self.is_ready = False
        self.coming: Any = None  # aio's: the object that hears that it is ready
        self.exchange: Exchange | None = None
        self.limit = None if output_limit is None else given.whole(output_limit, "output_limit", 0)
        self.input = text.encoded(input)
        if stdin is None:
            stdin = PIPE if input is not None or hold else DEVNULL
        self.streams = Streams(stdin, stdout, stderr)
        message = {
            "verb": "run", "id": "", "root": client.state_root(state_root), "config": config.document,
            "rootfs": config._plan, "timeout": timeout, "hold": hold, "args": self.args,
            "ahead": "" if hold else kind_of(config, self.args),
        }  # fmt: skip
        try:
            self.line = client.request(message, self.streams.child)
        except BaseException:
            self.streams.close()
            raise
        self.streams.sent()

    @property
    def name(self) -> str:
        return self.args[0] if self.args else "run"

    def hear_ready(self, seconds: float) -> None:
        """Wait until the container of a held run waits for start. If it can't be made, raises why."""
        if not self.is_ready:
            self.line.receive(seconds, self.name)
            self.is_ready = True

    def go(self, left: float | None) -> None:
        """Let a held run go on, for at most so many seconds."""
        self.timeout = None if left is None else max(0.001, left)
        self.line.tell({"timeout": self.timeout})

    def is_over(self, seconds: float) -> bool:
        """Whether its container is removed within that time. If so, our ends are closed too."""
        while client.wait_for(self.line, seconds):
            try:
                self.line.receive(None, self.name)
            except PyruncError:
                self.close()
                return True
        return False

    def exchange_begins(self) -> Exchange:
        """Begin the exchange, which closes stdin from here on."""
        stdin, *outputs = self.streams.ours
        self.streams.ours[0] = -1
        self.exchange = Exchange(stdin, self.input, outputs, self.limit)
        return self.exchange

    def finish(self, told: "dict[str, Any] | None") -> "Result[Any]":
        """The result, or the error.

        Args:
            told: what the worker says of the run; None: it said nothing in time.
        """
        assert self.exchange is not None
        out, err = (self._output(number) for number in self.streams.ours[1:])
        name = self.name
        if self.exchange.too_much:
            assert self.limit is not None
            raise OutputLimitExceeded(name, self.limit, out, err)
        if told is not None and told["why"] not in ("", TOO_LATE, GONE):
            raise WorkerError(name, "", f"it was killed: {told['why']}")
        if told is None or told["why"]:
            raise TimeoutExpired(name, self.timeout or 0.0, out, err)
        return result(self.args, told, out, err)

    def _output(self, number: int) -> Any:
        if number < 0:
            return None
        assert self.exchange is not None
        data = self.exchange.outputs[number]
        if self.exchange.too_much and self.text.on:
            return bytes(data).decode(self.text.encoding, "replace")
        return self.text.decoded(data)

    def close(self) -> None:
        self.line.close()
        self.close_streams()

    def close_streams(self) -> None:
        if self.exchange is not None:
            self.exchange.close()
        self.streams.close()


def kind_of(config: Config, args: list[str]) -> str:
    """The kind of a run, which may use a container that was made ahead for the same kind.

    It covers all of the configuration but the program, and which files the container sees. "": no container may be made
    ahead, as it would keep something of the caller's own in use.
    """
    document = config.document
    profile = document["linux"].get("seccomp") or {}
    if config._plan != OF_HOST_ALONE or profile.get("listenerPath") or os.geteuid():
        return ""
    if any(each["type"] == "user" for each in document["linux"]["namespaces"]) or sum(map(len, args)) > MOST_WORDS:
        return ""
    process = {**document["process"], "args": []}
    try:
        files = [os.stat(each["source"]) for each in document["mounts"] if each["type"] == "bind"]
        text = dumps({**document, "process": process, "files": [[file.st_dev, file.st_ino] for file in files]})
        program = "".join(args).encode()
    except (OSError, UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return ""
    return (
        "" if b"\0" in program else hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    )


def complete(running: Running, key: str = "result", keep_line: bool = False) -> "Result[Any]":
    """Wait until a run is over and all that it wrote is here.

    Args:
        key: the message that says so. "result": its container is removed. "made": its program has ended.
    """
    exchange = running.exchange_begins()
    try:
        deadline = None if running.timeout is None else time.monotonic() + running.timeout + GRACE_SECONDS
        told = None
        while told is None and not exchange.too_much:
            left = remaining(deadline)
            if left == 0.0:
                break
            if not exchange.turn(left, running.line.fileno()) and client.wait_for(running.line, 0):
                told = running.line.receive(None, running.name)[0][key]
        if told is None:
            running.line.call_off()
            told = _last_words(running, key)
        while not exchange.done and exchange.reading and exchange.turn(0):
            pass  # nobody writes any more
        return running.finish(told)
    finally:
        running.close_streams()
        if not keep_line:
            running.line.close()


def _last_words(running: Running, key: str) -> "dict[str, Any] | None":
    try:
        told: dict[str, Any] = running.line.receive(GRACE_SECONDS, running.name)[0][key]
        return told
    except TimeoutExpired:
        return None


@overload
def run(
    args: Sequence[StrPath], *, input: str | None = None, stdin: File = None, stdout: File = PIPE, stderr: File = PIPE,
    text: Literal[True], encoding: str | None = None, errors: str | None = None, timeout: float | None = None,
    check: bool = False, output_limit: int | None = OUTPUT_LIMIT, state_root: str | None = None,
    **options: Unpack[Options],
) -> Result[str]: ...  # fmt: skip
@overload
def run(
    args: Sequence[StrPath], *, input: "bytes | bytearray | memoryview | None" = None, stdin: File = None,
    stdout: File = PIPE, stderr: File = PIPE, text: Literal[False] = False, encoding: None = None, errors: None = None,
    timeout: float | None = None, check: bool = False, output_limit: int | None = OUTPUT_LIMIT,
    state_root: str | None = None, **options: Unpack[Options],
) -> Result[bytes]: ...  # fmt: skip


def run(
    args: Sequence[StrPath], *, input: Any = None, stdin: File = None, stdout: File = PIPE, stderr: File = PIPE,
    text: bool = False, encoding: str | None = None, errors: str | None = None, timeout: float | None = None,
    check: bool = False, output_limit: int | None = OUTPUT_LIMIT, state_root: str | None = None,
    **options: Unpack[Options],
) -> Result[Any]:  # fmt: skip
    """Run a program in a container of its own, and wait for its end. Nothing is left of it when this returns.

    docs/library.md has the arguments. Raises TimeoutExpired, OutputLimitExceeded, with `check` ProcessFailed, and what
    makes a container impossible.
    """
    running = Running(
        sandbox(args, **options), input=input, stdin=stdin, stdout=stdout, stderr=stderr,
        text=Text(text, encoding, errors), timeout=timeout, output_limit=output_limit, state_root=state_root,
    )  # fmt: skip
    found = complete(running)
    return found.check_returncode() if check else found

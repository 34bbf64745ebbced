"""Standard streams, as subprocess takes them: PIPE, DEVNULL, STDOUT, a file or its number, or our own."""

import codecs
import io
import os
import select
import subprocess
import time
from typing import IO, Any

from pyrunc.errors import PyruncError, UsageError

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
File = int | IO[Any] | None
CHUNK = 1 << 16


class Streams:
    """The standard streams of one process.

    Attributes:
        child: the descriptors that it gets, in order.
        ours: our ends of its pipes, -1 where there is none.
    """

    __slots__ = ("_opened", "child", "ours")

    def __init__(self, stdin: File, stdout: File, stderr: File) -> None:
        self._opened: list[int] = []
        self.ours = [-1, -1, -1]
        self.child: list[int] = []
        try:
            for number, file in enumerate((stdin, stdout, stderr)):
                self.child.append(self._of_child(number, file))
        except BaseException:
            self.close()
            raise

    def _of_child(self, number: int, file: File) -> int:
        if file is None:
            return self._own(number)
        if file == PIPE:
            read, write = os.pipe()
            theirs, self.ours[number] = (read, write) if number == 0 else (write, read)
            self._opened.append(theirs)
            return theirs
        if file == DEVNULL:
            return self._null()
        if file == STDOUT:
            if number != 2:
                raise UsageError("STDOUT", "", "it is for stderr alone")
            return self.child[1]
        if isinstance(file, int):
            found = file
        else:
            try:
                found = file.fileno()
            except (AttributeError, OSError, ValueError):
                raise UsageError(
                    ("stdin", "stdout", "stderr")[number], repr(file), "is no file that a process can have",
                    "PIPE, DEVNULL, a file, or its number",
                ) from None  # fmt: skip
        try:
            os.fstat(found)
        except (OSError, OverflowError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise UsageError(("stdin", "stdout", "stderr")[number], str(found), words) from None
        return found

    def _own(self, number: int) -> int:
        try:
            os.fstat(number)
        except OSError:
            return self._null()
        return number

    def _null(self) -> int:
        null = os.open(os.devnull, os.O_RDWR)
        self._opened.append(null)
        return null

    def sent(self) -> None:
        """Close our copies of the process's ends, which it has now. They would keep its readers waiting."""
        for number in self._opened:
            os.close(number)
        self._opened.clear()

    def close(self) -> None:
        self.sent()
        for stream, number in enumerate(self.ours):
            if number >= 0:
                os.close(number)
                self.ours[stream] = -1


class Text:
    """How bytes become text, as in subprocess. `on`: whether they do."""

    __slots__ = ("encoding", "errors", "on")

    def __init__(self, text: bool | None, encoding: str | None, errors: str | None) -> None:
        self.on = bool(text or encoding or errors)
        self.encoding = encoding or "utf-8"
        self.errors = errors or "strict"
        try:
            codecs.lookup(self.encoding), codecs.lookup_error(self.errors)
        except (LookupError, TypeError) as error:
            raise UsageError("encoding", repr(encoding), str(error)) from None

    def encoded(self, input: Any) -> bytes:
        if input is None:
            return b""
        if self.on and isinstance(input, str):
            try:
                return input.encode(self.encoding, self.errors)
            except UnicodeEncodeError as error:
                raise UsageError("input", "", f"has a character that {self.encoding} has not: {error.reason}") from None
        if isinstance(input, str):
            raise UsageError("input", "", "is text, and the streams are bytes", "give text=True")
        try:
            return bytes(memoryview(input))
        except TypeError:
            raise UsageError("input", repr(type(input)), "is neither bytes nor text") from None

    def decoded(self, data: "bytes | bytearray | None") -> Any:
        if data is None or not self.on:
            return None if data is None else bytes(data)
        try:
            text = bytes(data).decode(self.encoding, self.errors)
        except UnicodeDecodeError as error:
            cause = f"it is no text of the encoding {self.encoding}: {error.reason}"
            raise PyruncError("output", "", cause, 'errors="replace" takes it all the same, as do bytes') from error
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def file(self, number: int, mode: str) -> IO[Any] | None:
        """Our end of a pipe, as a file."""
        if number < 0:
            return None
        raw: IO[Any] = open(number, mode + "b", -1)  # noqa: SIM115
        if not self.on:
            return raw
        return io.TextIOWrapper(raw, self.encoding, self.errors, write_through=mode == "w")


class Exchange:
    """Writes a process's input and reads its output, both at once, until all is done.

    Attributes:
        outputs: what came so far, by descriptor.
        too_much: there is more than the limit.
    """

    __slots__ = ("_input", "_left", "_limit", "_stdin", "outputs", "too_much")

    def __init__(self, stdin: int, input: bytes, outputs: list[int], limit: int | None = None) -> None:
        self._stdin = stdin
        self._input = memoryview(input)
        self._limit = limit
        self._left = [number for number in outputs if number >= 0]
        self.outputs: dict[int, bytearray] = {number: bytearray() for number in self._left}
        self.too_much = False
        if stdin >= 0:
            os.set_blocking(stdin, False)

    def turn(self, seconds: float | None, line: int = -1) -> bool:
        """Wait until there is something to do, and do it. False: nothing came, or something came on the line.

        Args:
            line: a socket to watch too.
        """
        poll = select.poll()
        for number in self._left:
            poll.register(number, select.POLLIN)
        if self._stdin >= 0:
            poll.register(self._stdin, select.POLLOUT)
        if line >= 0:
            poll.register(line, select.POLLIN)
        happened = poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
        for number, _ in happened:
            if number == self._stdin:
                self.write()
            elif number != line:
                self.read(number)
        return bool(happened) and all(number != line for number, _ in happened)

    def write(self) -> None:
        try:
            self._input = self._input[os.write(self._stdin, self._input[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = self._input[:0]  # the process reads no more
        if not self._input:
            self._stdin_done()

    def _stdin_done(self) -> None:
        number, self._stdin = self._stdin, -1
        os.close(number)

    def close(self) -> None:
        """Close stdin. The others are not ours."""
        if self._stdin >= 0:
            self._stdin_done()

    def read(self, number: int) -> None:
        data = os.read(number, CHUNK)
        if not data:
            self._left.remove(number)
            return
        self.outputs[number] += data
        if self._limit is not None and sum(map(len, self.outputs.values())) > self._limit:
            over = sum(map(len, self.outputs.values())) - self._limit
            del self.outputs[number][-over:]
            self.too_much = True
            self._left.clear()

    @property
    def stdin(self) -> int:
        """The descriptor that is written to; -1: all is written."""
        return self._stdin

    @property
    def reading(self) -> list[int]:
        return self._left

    @property
    def done(self) -> bool:
        return not self._left and self._stdin < 0


def remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())

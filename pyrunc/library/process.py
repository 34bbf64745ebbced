"""A process in a container, with the methods of subprocess.Popen."""

import os
import signal
import threading
import time
from typing import IO, Any, Self

from pyrunc.errors import PyruncError, UsageError
from pyrunc.library import given
from pyrunc.library.client import Line
from pyrunc.library.errors import TimeoutExpired, WorkerError
from pyrunc.library.result import Result, returncode
from pyrunc.library.streams import Exchange, Streams, Text, remaining
from pyrunc.linux.fd import Fd


class Process:
    """A process that waits for start, runs, or has ended.

    Attributes:
        args: the program and its arguments.
        pid: its number on the host.
        stdin, stdout, stderr: our ends of its pipes, as files; None where it has none.
        terminal: its terminal's other side; None: it has none.
        owned: it is the first one of a container that belongs to the program.
        returncode: its exit status; -N: signal N ended it; None: it has not ended, or nobody has asked yet.
    """

    def __init__(self, line: Line, streams: Streams, text: Text, args: list[str]) -> None:
        """Wait on the line of the request until the process is there. If it can't be made, raises why."""
        self._line = line
        self._text = text
        self.args = args
        self.owned = False  # if so, closing the line removes the container
        self.returncode: int | None = None
        self._exchange: Exchange | None = None
        self._streams = streams
        self._turn = threading.Lock()  # only one thread hears of the end; it tells the others
        message, fds = line.receive(None, args[0] if args else "process")
        self.made: dict[str, Any] = message["made"]
        self.pid: int = self.made["pid"]
        self._pidfd = fds[0]
        self.terminal = Terminal(fds[1]) if len(fds) > 1 else None
        ours, streams.ours = streams.ours, [-1, -1, -1]
        self.stdin: IO[Any] | None = text.file(ours[0], "w")
        self.stdout: IO[Any] | None = text.file(ours[1], "r")
        self.stderr: IO[Any] | None = text.file(ours[2], "r")

    # --- its end

    def poll(self) -> int | None:
        """Its returncode, or None if it has not ended."""
        try:
            return self.wait(0)
        except TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and return its returncode. Raises TimeoutExpired."""
        timeout = given.seconds(timeout)
        if self.returncode is None:
            self._hear_of_end(timeout)
        assert self.returncode is not None
        return self.returncode

    def _hear_of_end(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._is_of_parent:
            self._line.receive(timeout, self._name)  # it raises; a lock that was held when we forked stays held
        if not self._turn.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutExpired(self._name, timeout or 0.0)
        try:
            if self.returncode is None:
                self._ended(self._line.receive(remaining(deadline), self._name)[0])
        except TimeoutExpired:
            raise TimeoutExpired(self._name, timeout or 0.0) from None
        except WorkerError as error:
            raise WorkerError(self._name, "", "nobody knows how it has ended", "the worker has died") from error
        finally:
            self._turn.release()

    @property
    def _is_of_parent(self) -> bool:
        """Whether we are a fork, and the process is our parent's."""
        return self._line.pid != os.getpid()

    def _ended(self, message: dict[str, Any]) -> None:
        self.returncode = returncode(message["ended"])
        self._pidfd.close()
        if not self.owned:
            self._line.close()

    @property
    def _name(self) -> str:
        return self.args[0] if self.args else f"process {self.pid}"

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write input, read all output, and wait for the end. After TimeoutExpired, call it again without input:
        nothing is lost."""
        exchange = self._begin(input)
        timeout = given.seconds(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not exchange.done:
            if not exchange.turn(remaining(deadline)):
                raise TimeoutExpired(self._name, timeout or 0.0, *self._so_far(exchange))
        found = self._so_far(exchange)
        self.wait(remaining(deadline))
        return found

    def _begin(self, input: Any) -> Exchange:
        if self._exchange is not None:
            if input is not None:
                raise UsageError("communicate", "", "its input was given before")
            return self._exchange
        data = self._text.encoded(input)
        if data and self.stdin is None:
            raise UsageError("communicate", "", "it has no stdin to write to", "stdin=PIPE")
        numbers = [file.fileno() if file is not None and not file.closed else -1
                   for file in (self.stdin, self.stdout, self.stderr)]  # fmt: skip
        stdin = -1
        if self.stdin is not None and not self.stdin.closed:
            self._quietly_flush()
            stdin = os.dup(numbers[0])
            self._quietly_close(self.stdin)
        self._exchange = Exchange(stdin, data, numbers[1:])
        return self._exchange

    def _quietly_flush(self) -> None:
        try:
            assert self.stdin is not None
            self.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def _quietly_close(self, file: IO[Any]) -> None:
        try:
            file.close()
        except BrokenPipeError:
            pass

    def _so_far(self, exchange: Exchange) -> tuple[Any, Any]:
        files = (self.stdout, self.stderr)
        numbers = [file.fileno() if file is not None and not file.closed else -1 for file in files]
        out, err = (self._text.decoded(exchange.outputs.get(number)) for number in numbers)
        return out, err

    def result(self, stdout: Any = None, stderr: Any = None) -> "Result[Any]":
        """Wait for its end, and return the result. What it used is left out: only its container knows."""
        return Result(self.args, self.wait(), stdout, stderr, False, 0.0, 0.0, 0)

    # --- signals

    def send_signal(self, number: "int | str") -> None:
        """Send a signal. If the process has ended, nothing happens, as in subprocess."""
        if self.returncode is not None or self._pidfd.number < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd.number, signal_number(number))
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise PyruncError("signalling", self._name, "we may not") from error

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    # --- scope

    def close(self) -> None:
        """Close our ends of its streams. The process goes on."""
        for file in (self.stdin, self.stdout, self.stderr, self.terminal):
            if file is not None:
                try:
                    file.close()
                except (BrokenPipeError, OSError):
                    pass
        if self._exchange is not None:
            self._exchange.close()
        self._line.close()
        self._pidfd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Wait for its end, as subprocess does. After an error it is killed first."""
        if self._is_of_parent:
            return self.close()
        if kind is not None:
            self.kill()
        if self.stdin is not None:
            self._quietly_close(self.stdin)
        try:
            self.wait()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"Process({self.args!r}, pid={self.pid}, returncode={self.returncode})"


class Terminal:
    """Our side of a process's terminal: what we write is typed, what we read is shown."""

    __slots__ = ("_master",)

    def __init__(self, master: Fd) -> None:
        self._master = master

    def fileno(self) -> int:
        return self._master.number

    def read(self, size: int = 1 << 16) -> bytes:
        """Read what there is, at most `size` bytes; b"" when nobody has the terminal any more."""
        try:
            return os.read(self._master.number, size)
        except OSError:
            return b""

    def write(self, data: bytes) -> int:
        return os.write(self._master.number, data)

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self._master.number, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        self._master.close()


def signal_number(given: "int | str") -> int:
    """The number of a signal, given as 15, signal.SIGTERM, "TERM", "SIGTERM" or "term"."""
    if isinstance(given, str):
        name = given.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        found = getattr(signal, name, None)
        if isinstance(found, signal.Signals):
            return int(found)
    elif isinstance(given, int) and not isinstance(given, bool) and 0 <= int(given) < signal.NSIG:
        return int(given)
    raise UsageError("signal", repr(given), "there is no such signal", '"TERM", or its number')

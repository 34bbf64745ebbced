"""Containers that are made ahead and wait for start: a request costs only a start."""

import collections
import os
import threading
import time
from typing import Any, Self, Unpack

from pyrunc.errors import PyruncError, UsageError
from pyrunc.library import given
from pyrunc.library.config import Config
from pyrunc.library.errors import TimeoutExpired
from pyrunc.library.result import Result
from pyrunc.library.running import OUTPUT_LIMIT, Running, complete
from pyrunc.library.sandbox import Options, sandbox
from pyrunc.library.streams import PIPE, File, Text

READY_SECONDS = 60.0
END_SECONDS = 10.0


class Pool:
    """A number of containers of one configuration, each for one run. A used one is replaced at once.

    Only the input differs from run to run. A container is used once, so no request meets what another has left.
    """

    def __init__(
        self, config: "Config | list[str]", size: int, *, text: bool = False, encoding: str | None = None,
        errors: str | None = None, stdout: File = PIPE, stderr: File = PIPE, output_limit: int | None = OUTPUT_LIMIT,
        state_root: str | None = None, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        """Ask for the containers, without waiting for them.

        Args:
            config: a configuration, or the program and its arguments, with the options that `run` takes.
        """
        given.whole(size, "size of the pool", 1)
        if isinstance(config, Config):
            if options:
                raise UsageError("pool", ", ".join(options), "a configuration has that itself")
            self.config = config
        else:
            self.config = sandbox(config, **options)
        self.size = size
        self._made: dict[str, Any] = {
            "stdout": stdout, "stderr": stderr, "output_limit": output_limit, "state_root": state_root,
            "text": Text(text, encoding, errors),
        }  # fmt: skip
        self._waiting: collections.deque[Running] = collections.deque()
        self._leaving: collections.deque[Running] = collections.deque()
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        for _ in range(size):
            self._waiting.append(self._another())

    def _another(self) -> Running:
        """Ask for one more container, without waiting for it."""
        return Running(self.config, input=None, stdin=None, timeout=None, hold=True, **self._made)

    def ready(self) -> Self:
        """Wait until all containers wait for start. If one can't be made, raises why."""
        for running in self._those_waiting():
            with self._lock:
                if running in self._waiting:
                    running.hear_ready(READY_SECONDS)
        return self

    def _those_waiting(self) -> "list[Running]":
        """The containers that nobody has taken."""
        with self._lock:
            return [*self._waiting]

    def run(self, input: Any = None, *, timeout: float | None = None, check: bool = False) -> "Result[Any]":
        """Run as pyrunc.run does, but without waiting until the container is removed."""
        if timeout is not None:
            given.above_zero(timeout, "timeout")
        running = self._take()
        began = time.monotonic()
        try:
            running.input = running.text.encoded(input)
            running.hear_ready(READY_SECONDS if timeout is None else timeout)
            running.go(None if timeout is None else timeout - (time.monotonic() - began))
            found = complete(running, "made", keep_line=True)
        except TimeoutExpired as error:
            raise TimeoutExpired(running.name, timeout or 0.0, error.stdout, error.stderr) from None
        finally:
            self._replace(running)
        return found.check_returncode() if check else found

    def _take(self) -> Running:
        with self._lock:
            if self._closed:
                raise UsageError("pool", "", "it is closed")
            if self._waiting:
                return self._waiting.popleft()
        return self._another()  # there are more requests at once than containers

    def _replace(self, used: Running) -> None:
        used.line.call_off()
        with self._lock:
            self._leaving.append(used)
            short = not self._closed and len(self._waiting) < self.size
        if short:
            try:
                another = self._another()
            except PyruncError:
                return  # the next request gets the error
            with self._lock:
                if not self._closed:
                    self._waiting.append(another)
                    another = None  # type: ignore[assignment]
            if another is not None:
                another.close()
        self._let_go()

    def _let_go(self, seconds: float = 0.0) -> None:
        """Let go of the runs whose containers are removed. With `seconds`, wait for that long, then close the rest."""
        deadline = time.monotonic() + seconds
        with self._lock:
            leaving, self._leaving = self._leaving, collections.deque()
        still = [running for running in leaving if not running.is_over(max(0.0, deadline - time.monotonic()))]
        if seconds:
            for running in still:
                running.close()
            return
        with self._lock:
            self._leaving.extend(still)

    def close(self) -> None:
        """Remove the containers that wait, and wait until all are removed."""
        if self._pid != os.getpid():
            return  # we are a fork: the containers are our parent's
        self._call_off()
        self._let_go(END_SECONDS)

    def _call_off(self) -> None:
        """Call off the containers that wait. No other will wait after this."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, collections.deque()
        for running in waiting:
            running.exchange_begins()
            running.line.call_off()
            with self._lock:
                self._leaving.append(running)

    def _is_leaving(self) -> bool:
        """Whether a container is not removed yet."""
        self._let_go()
        with self._lock:
            return bool(self._leaving)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

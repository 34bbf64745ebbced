"""The library for asyncio: the same, awaited. docs/library.md

No thread is used: the sockets of requests and the pipes of processes are watched by the event loop.
"""

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Self, Unpack, overload

from pyrunc.container.checkpoint.options import CheckpointOptions, RestoreOptions
from pyrunc.errors import NoSuchContainer, UsageError
from pyrunc.library import client, given
from pyrunc.library import container as blocking
from pyrunc.library.config import Config, Size, StrPath
from pyrunc.library.errors import TimeoutExpired, WorkerError
from pyrunc.library.pool import END_SECONDS, READY_SECONDS
from pyrunc.library.pool import Pool as BlockingPool
from pyrunc.library.process import Process as BlockingProcess
from pyrunc.library.process import Terminal, signal_number
from pyrunc.library.result import Result
from pyrunc.library.running import GRACE_SECONDS, OUTPUT_LIMIT, Running
from pyrunc.library.sandbox import Options, sandbox
from pyrunc.library.streams import DEVNULL, PIPE, File, Streams, Text, remaining

__all__ = ["Container", "Pool", "Process", "run"]


async def _readable(number: int) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    come: asyncio.Future[None] = loop.create_future()
    loop.add_reader(number, _came, come)
    try:
        await come
    finally:
        loop.remove_reader(number)


def _came(come: "asyncio.Future[None]") -> None:
    if not come.done():
        come.set_result(None)


async def _writable(number: int) -> None:
    loop = asyncio.get_running_loop()
    come: asyncio.Future[None] = loop.create_future()
    loop.add_writer(number, _came, come)
    try:
        await come
    finally:
        loop.remove_writer(number)


async def _receive(line: client.Line, what: str) -> tuple[dict[str, Any], list[Any]]:
    if line.fileno() >= 0:
        await _readable(line.fileno())
    return line.receive(None, what)


class _Hearing:
    """Hears the next message on a line for all who wait for it: a loop takes only one reader of a socket."""

    def __init__(self, line: client.Line, what: str) -> None:
        self._line = line
        self._what = what
        self._heard: asyncio.Future[dict[str, Any] | None] | None = None
        self._waiting = 0

    async def message(self) -> dict[str, Any] | None:
        """The next message. None: `stop` was called, and it won't be heard here."""
        loop = asyncio.get_running_loop()
        if self._heard is None:
            if self._line.fileno() < 0:
                return self._line.receive(None, self._what)[0]  # raises why not
            self._heard = loop.create_future()
            loop.add_reader(self._line.fileno(), self._hear, self._heard)
        heard = self._heard
        self._waiting += 1
        try:
            return await asyncio.shield(heard)
        finally:
            self._waiting -= 1
            if not self._waiting and not heard.done():
                self._leave(heard)
                self._heard = None

    def _hear(self, heard: "asyncio.Future[dict[str, Any] | None]") -> None:
        self._leave(heard)
        try:
            heard.set_result(self._line.receive(None, self._what)[0])
        except Exception as error:
            heard.set_exception(error)

    def _leave(self, heard: "asyncio.Future[dict[str, Any] | None]") -> None:
        heard.get_loop().remove_reader(self._line.fileno())

    def stop(self) -> None:
        """Stop hearing: somebody else reads the line now."""
        heard = self._heard
        if heard is not None and not heard.done():
            self._leave(heard)
            heard.set_result(None)


async def _ask(message: dict[str, Any], what: str) -> Any:
    with client.request(message) as line:
        return (await _receive(line, what))[0]["result"]


# --- run


@overload
async def run(
    args: Sequence[StrPath], *, input: str | None = None, stdin: File = None, stdout: File = PIPE, stderr: File = PIPE,
    text: Literal[True], encoding: str | None = None, errors: str | None = None, timeout: float | None = None,
    check: bool = False, output_limit: int | None = OUTPUT_LIMIT, state_root: str | None = None,
    **options: Unpack[Options],
) -> Result[str]: ...  # fmt: skip
@overload
async def run(
    args: Sequence[StrPath], *, input: "bytes | bytearray | memoryview | None" = None, stdin: File = None,
    stdout: File = PIPE, stderr: File = PIPE, text: Literal[False] = False, encoding: None = None, errors: None = None,
    timeout: float | None = None, check: bool = False, output_limit: int | None = OUTPUT_LIMIT,
    state_root: str | None = None, **options: Unpack[Options],
) -> Result[bytes]: ...  # fmt: skip


async def run(
    args: Sequence[StrPath], *, input: Any = None, stdin: File = None, stdout: File = PIPE, stderr: File = PIPE,
    text: bool = False, encoding: str | None = None, errors: str | None = None, timeout: float | None = None,
    check: bool = False, output_limit: int | None = OUTPUT_LIMIT, state_root: str | None = None,
    **options: Unpack[Options],
) -> Result[Any]:  # fmt: skip
    """pyrunc.run, awaited. When it is cancelled, it kills what runs, and ends when nothing is left of that."""
    running = Running(
        sandbox(args, **options), input=input, stdin=stdin, stdout=stdout, stderr=stderr,
        text=Text(text, encoding, errors), timeout=timeout, output_limit=output_limit, state_root=state_root,
    )  # fmt: skip
    try:
        found = await _complete(running)
    finally:
        running.close()
    return found.check_returncode() if check else found


async def _complete(running: Running, key: str = "result") -> "Result[Any]":
    exchange = running.exchange_begins()
    for number in exchange.reading:
        os.set_blocking(number, False)
    end: asyncio.Future[Any] = asyncio.ensure_future(_receive(running.line, running.name))
    flows = [asyncio.ensure_future(_flow_in(exchange)), *(_flow(exchange, number) for number in exchange.reading)]
    flowing: asyncio.Future[Any] = asyncio.gather(*flows)
    deadline = None if running.timeout is None else time.monotonic() + running.timeout + GRACE_SECONDS
    told = None
    try:
        try:
            await asyncio.wait({end, flowing}, timeout=remaining(deadline), return_when=asyncio.FIRST_COMPLETED)
            if not end.done() and not exchange.too_much:
                await asyncio.wait({end}, timeout=remaining(deadline))
            if not end.done():
                running.line.call_off()
                await asyncio.wait({end}, timeout=GRACE_SECONDS)
        except asyncio.CancelledError:
            running.line.call_off()
            await asyncio.wait({end}, timeout=GRACE_SECONDS)
            raise
        if end.done():
            told = end.result()[0][key]
            _read_the_rest(exchange)
        return running.finish(told)
    finally:
        end.cancel()
        flowing.cancel()
        await asyncio.gather(end, flowing, return_exceptions=True)


def _flow(exchange: Any, number: int) -> "asyncio.Future[None]":
    async def flow() -> None:
        while number in exchange.reading:
            await _readable(number)
            if number in exchange.reading:
                try:
                    exchange.read(number)
                except BlockingIOError:
                    continue
        if exchange.too_much:
            raise _TooMuchError

    return asyncio.ensure_future(flow())


def _read_the_rest(exchange: Any) -> None:
    """Read what is left: nobody writes any more. The end of a pipe may not come, as a fork of the program may have its
    other end."""
    for number in [*exchange.reading]:
        try:
            while number in exchange.reading:
                exchange.read(number)
        except BlockingIOError:
            continue


class _TooMuchError(Exception):
    """There is too much output. It is raised so that nobody waits for the other streams."""


async def _flow_in(exchange: Any) -> None:
    while exchange.stdin >= 0:
        await _writable(exchange.stdin)
        exchange.write()


class Pool:
    """pyrunc.Pool, awaited."""

    def __init__(
        self, config: "Config | list[str]", size: int, *, text: bool = False, encoding: str | None = None,
        errors: str | None = None, stdout: File = PIPE, stderr: File = PIPE, output_limit: int | None = OUTPUT_LIMIT,
        state_root: str | None = None, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        self._inner = BlockingPool(
            config, size, text=text, encoding=encoding, errors=errors, stdout=stdout, stderr=stderr,
            output_limit=output_limit, state_root=state_root, **options,
        )  # fmt: skip

    async def ready(self) -> Self:
        for running in self._inner._those_waiting():
            await _hear_ready(running, READY_SECONDS)
        return self

    async def run(self, input: Any = None, *, timeout: float | None = None, check: bool = False) -> "Result[Any]":
        if timeout is not None:
            given.above_zero(timeout, "timeout")
        running = self._inner._take()
        began = time.monotonic()
        try:
            running.input = running.text.encoded(input)
            await _hear_ready(running, READY_SECONDS if timeout is None else timeout)
            running.go(None if timeout is None else timeout - (time.monotonic() - began))
            found = await _complete(running, "made")
        except TimeoutExpired as error:
            raise TimeoutExpired(running.name, timeout or 0.0, error.stdout, error.stderr) from None
        finally:
            if running.coming is not None:
                running.coming.stop()
            running.close_streams()
            self._inner._replace(running)
        return found.check_returncode() if check else found

    async def close(self) -> None:
        for running in self._inner._those_waiting():
            if running.coming is not None:
                running.coming.stop()
        self._inner._call_off()
        deadline = time.monotonic() + END_SECONDS
        while self._inner._is_leaving() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        self._inner._let_go(0.001)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.close())


async def _hear_ready(running: Running, seconds: float) -> None:
    """Wait until the container waits for start, or until somebody else hears of it."""
    if running.is_ready:
        return
    if running.coming is None:
        running.coming = _Hearing(running.line, running.name)
    try:
        async with asyncio.timeout(seconds):
            running.is_ready = bool(await running.coming.message())
    except TimeoutError:
        raise TimeoutExpired(running.name, seconds) from None


# --- processes


class Process:
    """pyrunc.Process, awaited; its streams are asyncio's.

    Attributes:
        args, pid, terminal, returncode: as in pyrunc.Process.
        stdin: an asyncio.StreamWriter; stdout, stderr: asyncio.StreamReader; None where it has none.
    """

    def __init__(self, inner: BlockingProcess) -> None:
        self._inner = inner
        self.args = inner.args
        self.pid = inner.pid
        self.terminal: Terminal | None = inner.terminal
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._end = _Hearing(inner._line, self._name)

    @classmethod
    async def _of(
        cls, message: dict[str, Any], args: list[str], terminal: bool, files: tuple[File, File, File]
    ) -> Self:
        streams = Streams(*((DEVNULL,) * 3 if terminal else files))
        try:
            line = client.request(message, streams.child)
            streams.sent()
            try:
                await _readable(line.fileno())
                made = cls(BlockingProcess(line, streams, Text(False, None, None), args))
            except BaseException:
                line.abandon()
                raise
        except BaseException:
            streams.close()
            raise
        try:
            await made._connect()
        except BaseException:
            line.abandon()
            made.close()
            raise
        return made

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("stdout", "stderr"):
            file = getattr(self._inner, name)
            if file is not None:
                reader = asyncio.StreamReader()
                pipe = file.detach() if hasattr(file, "detach") else file
                setattr(self._inner, name, None)
                transport, _ = await loop.connect_read_pipe(
                    functools.partial(asyncio.StreamReaderProtocol, reader), pipe
                )
                setattr(self, name, reader)
                self._transports.append(transport)
        if self._inner.stdin is not None:
            pipe = self._inner.stdin.detach() if hasattr(self._inner.stdin, "detach") else self._inner.stdin
            self._inner.stdin = None
            writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
            self.stdin = asyncio.StreamWriter(writing, protocol, None, loop)
            self._transports.append(writing)

    @property
    def returncode(self) -> int | None:
        return self._inner.returncode

    async def wait(self, timeout: float | None = None) -> int:
        inner, timeout = self._inner, given.seconds(timeout)
        if inner.returncode is None:
            try:
                async with asyncio.timeout(timeout):
                    message = await self._end.message()
            except TimeoutError:
                raise TimeoutExpired(self._name, timeout or 0.0) from None
            except WorkerError as error:
                raise WorkerError(self._name, "", "nobody knows how it has ended", "the worker has died") from error
            if inner.returncode is None:
                if message is None:
                    raise UsageError(self._name, "", "it was closed")
                inner._ended(message)
        assert inner.returncode is not None
        return inner.returncode

    @property
    def _name(self) -> str:
        return self.args[0] if self.args else f"process {self.pid}"

    async def communicate(self, input: bytes | None = None) -> "tuple[bytes | None, bytes | None]":
        async def feed() -> None:
            if self.stdin is not None:
                try:
                    if input:
                        self.stdin.write(input)
                        await self.stdin.drain()
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it reads no more
                self.stdin.close()

        async def drain(reader: asyncio.StreamReader | None) -> bytes | None:
            return None if reader is None else await reader.read()

        if input and self.stdin is None:
            raise UsageError("communicate", "", "it has no stdin to write to", "stdin=PIPE")
        _, out, err = await asyncio.gather(feed(), drain(self.stdout), drain(self.stderr))
        await self.wait()
        return out, err

    def send_signal(self, number: "int | str") -> None:
        self._inner.send_signal(number)

    def terminate(self) -> None:
        self._inner.terminate()

    def kill(self) -> None:
        self._inner.kill()

    def close(self) -> None:
        self._end.stop()
        for transport in self._transports:
            transport.close()
        self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._inner._is_of_parent:
            return self.close()
        if kind is not None:
            self.kill()
        if self.stdin is not None:
            self.stdin.close()
        try:
            await asyncio.shield(self.wait())
        finally:
            self.close()


# --- containers


class Container:
    """pyrunc.Container, awaited."""

    def __init__(self, id: str, root: str, process: Process | None = None) -> None:
        self.id = id
        self.root = root
        self.process = process

    @classmethod
    async def create(
        cls, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, *, stdin: File = DEVNULL,
        stdout: File = None, stderr: File = None, state_root: "StrPath | None" = None,
    ) -> Self:  # fmt: skip
        root = client.state_root(state_root)
        message, args, terminal = blocking.creation(config, id, root)
        made = await Process._of(message, args, terminal, (stdin, stdout, stderr))
        return cls(made._inner.made["id"], root, made)

    @classmethod
    async def run(cls, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, **options: Any) -> Self:
        container = await cls.create(config, id, **options)
        try:
            await container.start()
        except BaseException:
            await asyncio.shield(container.delete(force=True))
            raise
        return container

    @classmethod
    async def restore(
        cls, images: StrPath, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, *,
        stdin: File = DEVNULL, stdout: File = None, stderr: File = None, state_root: "StrPath | None" = None,
        **how: Any,
    ) -> Self:  # fmt: skip
        root = client.state_root(state_root)
        message, args, terminal = blocking.creation(config, id, root)
        message["restore"] = blocking.verified(RestoreOptions, images, how)
        made = await Process._of(message, args, terminal, (stdin, stdout, stderr))
        return cls(made._inner.made["id"], root, made)

    @classmethod
    async def load(cls, id: str, state_root: "StrPath | None" = None) -> Self:
        root = client.state_root(state_root)
        await _ask({"verb": "load", "root": root, "id": given.text(id, "ID")}, "load")
        return cls(id, root)

    @classmethod
    async def list(cls, state_root: "StrPath | None" = None) -> "list[Self]":
        root = client.state_root(state_root)
        return [cls(state["id"], root) for state in await _ask({"verb": "list", "root": root}, "list")]

    async def _ask(self, verb: str, **more: Any) -> Any:
        return await _ask({"verb": verb, "root": self.root, "id": self.id, **more}, self.id)

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = await self._ask("state")
        return state

    async def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = await self._ask("stats")
        return stats

    async def ps(self) -> blocking.Numbers:
        pids: blocking.Numbers = await self._ask("ps")
        return pids

    async def events(self, interval: float = 5.0) -> AsyncIterator[dict[str, Any]]:
        given.above_zero(interval, "interval")
        message = {"verb": "events", "root": self.root, "id": self.id, "interval": interval}
        with client.request(message) as line:
            while "event" in (told := (await _receive(line, self.id))[0]):
                yield told["event"]

    async def start(self) -> Self:
        await self._ask("start")
        return self

    async def kill(self, number: "int | str" = "KILL", all: bool = False) -> None:
        await self._ask("kill", signal=signal_number(number), all=all)

    async def wait(self, timeout: float | None = None) -> int | None:
        timeout = given.seconds(timeout)
        if self.process is not None:
            return await self.process.wait(timeout)
        try:
            async with asyncio.timeout(timeout):
                await self._ask("await")
        except TimeoutError:
            raise TimeoutExpired(self.id, timeout or 0.0) from None
        except NoSuchContainer:
            pass
        return None

    async def checkpoint(self, images: StrPath, **how: Any) -> None:
        await self._ask("checkpoint", options=blocking.verified(CheckpointOptions, images, how))

    async def pause(self) -> None:
        await self._ask("pause")

    async def resume(self) -> None:
        await self._ask("resume")

    async def exec(
        self, args: Sequence[StrPath], *, stdin: File = DEVNULL, stdout: File = None, stderr: File = None,
        terminal: bool = False, env: Mapping[str, str] | None = None, cwd: str | None = None,
        user: int | tuple[int, int] | None = None,
    ) -> Process:  # fmt: skip
        process = blocking.further_process(args, terminal, env, cwd, user)
        message = {"verb": "exec", "root": self.root, "id": self.id, "process": process}
        return await Process._of(message, process["args"], terminal, (stdin, stdout, stderr))

    async def update(
        self, *, memory: Size | None = None, cpus: float | None = None, pids: int | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        await self._ask("update", resources=blocking.changes(memory, cpus, pids, resources))

    async def delete(self, force: bool = False) -> None:
        await self._ask("delete", force=force)
        if self.process is not None:
            try:
                await self.process.wait(2.0)
            except (TimeoutExpired, WorkerError, UsageError):
                pass  # nobody knows it
            self.process._end.stop()
            self.process._inner._line.close()

    async def __aenter__(self) -> Self:
        blocking.own(self.id, None if self.process is None else self.process._inner)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process._inner._is_of_parent:
            return
        await asyncio.shield(self.delete(force=True))
        if self.process is not None:
            self.process.close()

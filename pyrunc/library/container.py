"""A container, from create to delete. Any thread may use it."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

from pyrunc.container.checkpoint.options import CheckpointOptions, RestoreOptions
from pyrunc.errors import NoSuchContainer, StateError, UsageError
from pyrunc.library import client, given
from pyrunc.library.config import CPU_PERIOD, Config, Size, StrPath, cpu_quota, size
from pyrunc.library.process import Process, signal_number
from pyrunc.library.streams import DEVNULL, File, Streams, Text
from pyrunc.spec.types import Resources

Numbers: TypeAlias = list[int]  # in the class, `list` is a verb
Words: TypeAlias = list[str]


class Container:
    """One container. Made by `create` or `run`, found by `load` or `list`.

    In a `with` block it belongs to the program. It is killed and removed at the end of the block, or when the program
    ends, however that happens. Otherwise it stays until it is deleted, by us or by the command `pyrunc delete`.

    Attributes:
        id: its name.
        root: its state root.
        process: its first process; None if another program made the container.
    """

    def __init__(self, id: str, root: str, process: Process | None = None) -> None:
        self.id = id
        self.root = root
        self.process = process
        self._owned = False

    # --- making and finding

    @classmethod
    def create(
        cls, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, *, stdin: File = DEVNULL,
        stdout: File = None, stderr: File = None, text: bool = False, encoding: str | None = None,
        errors: str | None = None, state_root: "StrPath | None" = None,
    ) -> Self:  # fmt: skip
        """Make a container that waits for `start`.

        Args:
            config: a Config, the document itself, or the path of a bundle.
            id: its name; None: a new one.
            stdin, stdout, stderr, text, encoding, errors: as for subprocess.Popen, except that stdin is DEVNULL.
        """
        root = client.state_root(state_root)
        message, args, terminal = creation(config, id, root)
        made = _process(message, args, terminal, (stdin, stdout, stderr), Text(text, encoding, errors))
        return cls(made.made["id"], root, made)

    @classmethod
    def run(cls, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, **options: Any) -> Self:
        """`create` and `start`. If it can't be started, it is removed."""
        container = cls.create(config, id, **options)
        try:
            container.start()
        except BaseException:
            container.delete(force=True)
            raise
        return container

    @classmethod
    def restore(
        cls, images: StrPath, config: "Config | Mapping[str, Any] | StrPath", id: str | None = None, *,
        stdin: File = DEVNULL, stdout: File = None, stderr: File = None, text: bool = False,
        encoding: str | None = None, errors: str | None = None, state_root: "StrPath | None" = None, **how: Any,
    ) -> Self:  # fmt: skip
        """Make a container from a checkpoint. It goes on where it was. Needs CRIU.

        Args:
            images: the folder that `checkpoint` has written.
            config: as for `create`. The container may do what this configuration grants.
            how: options as RestoreOptions has them: tcp_established, file_locks, … (container/checkpoint/options.py).
        """
        root = client.state_root(state_root)
        message, args, terminal = creation(config, id, root)
        message["restore"] = verified(RestoreOptions, images, how)
        made = _process(message, args, terminal, (stdin, stdout, stderr), Text(text, encoding, errors))
        return cls(made.made["id"], root, made)

    @classmethod
    def load(cls, id: str, state_root: "StrPath | None" = None) -> Self:
        """Find an existing container, whoever made it. Raises NoSuchContainer."""
        root = client.state_root(state_root)
        client.ask({"verb": "load", "root": root, "id": given.text(id, "ID")}, "load")
        return cls(id, root)

    @classmethod
    def list(cls, state_root: "StrPath | None" = None) -> "list[Self]":
        """All containers of the state root."""
        root = client.state_root(state_root)
        return [cls(state["id"], root) for state in client.ask({"verb": "list", "root": root}, "list")]

    # --- what it is

    def state(self) -> dict[str, Any]:
        """Its state, as `pyrunc state` prints it: id, pid, status, bundle, rootfs, created, …"""
        state: dict[str, Any] = self._ask("state")
        return state

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        status: str = self.state()["status"]
        return status

    @property
    def pid(self) -> int:
        """The host's PID of its first process; 0 when that has ended."""
        pid: int = self.state()["pid"]
        return pid

    @property
    def config(self) -> Config:
        """The configuration that it was made with, including what `update` has changed since."""
        return Config(self._ask("config"))

    def stats(self) -> dict[str, Any]:
        """What it uses: the member "data" of what `pyrunc events --stats` prints."""
        stats: dict[str, Any] = self._ask("stats")
        return stats

    def ps(self) -> Numbers:
        """The host's PIDs of its processes."""
        pids: Numbers = self._ask("ps")
        return pids

    def events(self, interval: float = 5.0) -> Iterator[dict[str, Any]]:
        """Its events, until it ends: {"type": "stats", …} every `interval` seconds, and {"type": "oom", …} when the
        kernel kills for want of memory."""
        given.above_zero(interval, "interval")
        line = client.request({"verb": "events", "root": self.root, "id": self.id, "interval": interval})
        return _events(line, self.id)

    # --- what it does

    def start(self) -> Self:
        """Let it run its program. Returns once the program runs."""
        self._ask("start")
        return self

    def kill(self, number: "int | str" = "KILL", all: bool = False) -> None:
        """Send a signal to its first process, or to all its processes. Raises NotRunning."""
        self._ask("kill", signal=signal_number(number), all=all)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until its first process ends, and return its returncode. None: another program made the container, so
        nobody here knows. Raises TimeoutExpired."""
        timeout = given.seconds(timeout)
        if self.process is not None:
            return self.process.wait(timeout)
        try:
            self._ask("await", timeout=timeout)
        except NoSuchContainer:
            pass
        return None

    def pause(self) -> None:
        self._ask("pause")

    def resume(self) -> None:
        self._ask("resume")

    def exec(
        self, args: Sequence[StrPath], *, stdin: File = DEVNULL, stdout: File = None, stderr: File = None,
        text: bool = False, encoding: str | None = None, errors: str | None = None, terminal: bool = False,
        env: Mapping[str, str] | None = None, cwd: str | None = None, user: int | tuple[int, int] | None = None,
    ) -> Process:  # fmt: skip
        """Run a further process in it. What isn't given is as for its first process."""
        process = further_process(args, terminal, env, cwd, user)
        message = {"verb": "exec", "root": self.root, "id": self.id, "process": process}
        return _process(message, process["args"], terminal, (stdin, stdout, stderr), Text(text, encoding, errors))

    def update(
        self, *, memory: Size | None = None, cpus: float | None = None, pids: int | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Change its limits. After an error none is changed.

        Args:
            resources: limits as in linux.resources of config.json.
        """
        self._ask("update", resources=changes(memory, cpus, pids, resources))

    def checkpoint(self, images: StrPath, **how: Any) -> None:
        """Write it to the folder `images`. Then it is deleted, unless leave_running=True. Needs CRIU.

        Args:
            how: options as CheckpointOptions has them (container/checkpoint/options.py).
        """
        self._ask("checkpoint", options=verified(CheckpointOptions, images, how))

    def delete(self, force: bool = False) -> None:
        """Remove it. With `force` it is killed first, and it is no error if it is already gone."""
        self._ask("delete", force=force)
        if self.process is not None:
            self._hear_of_end()
            self.process._line.close()

    def _hear_of_end(self) -> None:
        """Wait for the returncode of the first process, which has ended."""
        assert self.process is not None
        try:
            self.process.wait(2.0)
        except Exception:
            pass  # nobody knows it

    def _ask(self, verb: str, timeout: float | None = None, **more: Any) -> Any:
        return client.ask({"verb": verb, "root": self.root, "id": self.id, **more}, self.id, timeout)

    # --- scope

    def __enter__(self) -> Self:
        own(self.id, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process._is_of_parent:
            return  # we are a fork made in the block: the container is our parent's
        self.delete(force=True)
        if self.process is not None:
            self.process.close()

    def __repr__(self) -> str:
        return f"Container({self.id!r})"


def verified(kind: Callable[..., object], images: StrPath, how: dict[str, Any]) -> dict[str, Any]:
    """Check options of a checkpoint, for sending. Raises TypeError. The worker has another working directory, so paths
    become absolute."""
    options = {**how, "images": os.path.abspath(os.fspath(images))}
    if how.get("work"):
        options["work"] = os.path.abspath(os.fspath(how["work"]))
    kind(**options)
    if how.get("status_fd") is not None:
        raise TypeError("status_fd is of the command line")
    return options


def creation(
    config: "Config | Mapping[str, Any] | StrPath", id: str | None, root: str
) -> tuple[dict[str, Any], Words, bool]:
    """The request to create a container, its program and arguments, and whether it has a terminal."""
    if isinstance(config, str | os.PathLike):
        config = Config.load(config)
    elif not isinstance(config, Config):
        config = Config(config)
    process = config.document.get("process")
    if not isinstance(process, dict):
        process = {}
    if id is not None:
        given.text(id, "ID")
    message = {"verb": "create", "root": root, "id": id or "", "config": config.document, "rootfs": config._plan}
    return message, [*(process.get("args") or [])], bool(process.get("terminal"))


def further_process(
    args: Sequence[StrPath], terminal: bool, env: Mapping[str, str] | None, cwd: str | None,
    user: int | tuple[int, int] | None,
) -> dict[str, Any]:  # fmt: skip
    process: dict[str, Any] = {"args": given.words(args, "exec"), "terminal": bool(terminal)}
    if env:
        process["env"] = [f"{name}={value}" for name, value in given.variables(env).items()]
    if cwd is not None:
        process["cwd"] = given.place(cwd, "cwd")
    if user is not None:
        uid, gid = given.user(user)
        process["user"] = {"uid": uid, "gid": gid}
    return process


def changes(
    memory: Size | None, cpus: float | None, pids: int | None, resources: Mapping[str, Any] | None
) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(given.mapping(resources or {}, "resources"))
    unknown = {*map(str, found)} - {*Resources.__annotations__}
    if unknown:
        raise UsageError("resources", ", ".join(sorted(unknown)), "there is no such member")
    if memory is not None:
        value = size(memory, "memory")
        found.setdefault("memory", {}).update(limit=value, swap=value)
    if cpus is not None:
        found.setdefault("cpu", {}).update(quota=cpu_quota(cpus), period=CPU_PERIOD)
    if pids is not None:
        found.setdefault("pids", {})["limit"] = given.whole(pids, "pids", 1)
    return found


def own(id: str, process: Process | None) -> None:
    """Make the container belong to the program from here on."""
    if process is None:
        raise StateError("container", f'"{id}"', "another program has made it", "delete it when it is to go")
    process.owned = True
    process._line.tell({"own": True})


def _process(
    message: dict[str, Any], args: Words, terminal: bool, files: "tuple[File, File, File]", text: Text
) -> Process:
    if terminal:
        files = (DEVNULL, DEVNULL, DEVNULL)
    streams = Streams(*files)
    try:
        line = client.request(message, streams.child)
        streams.sent()
        try:
            return Process(line, streams, text, args)
        except BaseException:
            line.abandon()
            raise
    except BaseException:
        streams.close()
        raise


def _events(line: client.Line, id: str) -> Iterator[dict[str, Any]]:
    with line:
        while True:
            message = line.receive(None, id)[0]
            if "event" not in message:
                return
            yield message["event"]

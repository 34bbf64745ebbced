"""A task is a container with its processes; a process has streams, a pid, and at its end a status."""

import posix
import time

from pyrunc.container.container import Container
from pyrunc.container.exec import execute
from pyrunc.container.options import Options
from pyrunc.container.state import StateRoot
from pyrunc.errors import PyruncError
from pyrunc.linux.fd import open_at, replace_file
from pyrunc.spec.jsonc import dumps
from shim import mounts, options
from shim.ends import open_ends
from shim.streams import Streams
from shim.unmount import unmount_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.container.events import Legacy, Unified
    from pyrunc.log import Log
    from pyrunc.spec.types import Process as Spec
    from shim.loop import Loop
    from shim.streams import StandardStreams

OPTIONS_FILE = "options.json"  # for `delete`, which nobody tells them
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
ROOTFS = "rootfs"
NOT_STARTED = 255


class Process:
    """The container's first, or one that exec added (`exec_id`).

    Attributes:
        pid: 0 until it is made.
        status: as a shell shows it, once it has ended and its end was told.
        waiters: whom to tell.
    """

    __slots__ = ("ended_at", "exec_id", "pid", "spec", "started", "status", "streams", "task", "waiters")

    def __init__(self, task: "Task", exec_id: str, streams: Streams, spec: "Spec | None" = None) -> None:
        self.task = task
        self.exec_id = exec_id
        self.streams = streams
        self.spec = spec
        self.pid = 0
        self.started = False
        self.status: int | None = None
        self.ended_at = 0
        self.waiters: list[Callable[[Process], None]] = []

    @property
    def is_running(self) -> bool:
        return self.pid > 0 and self.status is None

    def state(self) -> int:
        if self.status is not None:
            return STOPPED
        if not self.started:
            return CREATED
        return PAUSED if self.task.paused else RUNNING

    def end(self, status: int, at: int) -> None:
        self.status = status
        self.ended_at = at
        if self.streams.input is not None:
            self.streams.input.end()
        waiters, self.waiters = self.waiters, []
        for tell in waiters:
            tell(self)


class Task:
    """Attributes:
    init: its first process.
    execs: the others, by their ID.
    held: of a first process that has ended before the others: (status, when), told when they have ended too.
    """

    __slots__ = (
        "bundle", "container", "execs", "held", "id", "init", "log", "loop", "namespace", "no_new_keyring", "oom",
        "owner", "paused", "root", "standard",
    )  # fmt: skip

    container: Container
    init: Process

    def __init__(self, loop: "Loop", log: "Log", standard: "StandardStreams", namespace: str, id: str) -> None:
        self.loop = loop
        self.log = log
        self.standard = standard
        self.namespace = namespace
        self.id = id
        self.bundle = ""
        self.execs: dict[str, Process] = {}
        self.held: tuple[int, int] | None = None
        self.paused = False
        self.oom: Legacy | Unified | None = None

    # --- its life

    def create(self, request: "dict[str, Any]") -> None:
        """All of it, or nothing. Raises PyruncError."""
        found = options.options(request["options"], self.log)
        self.bundle = request["bundle"]
        self.root = StateRoot(options.state_root(found, self.namespace))
        self.owner = (found["io_uid"], found["io_gid"])
        self.no_new_keyring = found["no_new_keyring"]
        with open_at(None, self.bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            replace_file(folder, OPTIONS_FILE, dumps({"root": self.root.path}).encode("utf-8", "surrogateescape"))
        mounts.mount_all(request["rootfs"], f"{self.bundle}/{ROOTFS}")
        try:
            streams = self._streams(request)
            try:
                self._open(streams)
                self._make(streams, found)
            except BaseException:
                streams.close()
                raise
        except BaseException:
            unmount_all(f"{self.bundle}/{ROOTFS}")
            raise
        self.init = Process(self, "", streams)
        self.init.pid = self.container.pid
        self._watch_memory()

    def _streams(self, request: "dict[str, Any]") -> Streams:
        names = request["stdin"], request["stdout"], request["stderr"]
        return Streams(self.loop, names, request["terminal"])

    def _open(self, streams: Streams) -> None:
        stdin, stdout, stderr = streams.names
        names = stdin, stdout, "" if streams.terminal else stderr
        streams.take(open_ends(names, (self.id, self.namespace)), self.owner)

    def _make(self, streams: Streams, found: "dict[str, Any]") -> None:
        asked = Options(
            pid_file=f"{self.bundle}/init.pid",
            console=streams.take_master if streams.terminal else None,
            no_pivot=found["no_pivot_root"],
            no_new_keyring=self.no_new_keyring,
            systemd=found["systemd_cgroup"],
        )
        self.standard.lend(streams.child)
        try:
            self.container = Container.create(self.root, self.id, self.bundle, asked, self.log)
        finally:
            self.standard.lend([])
        streams.started()

    def start(self) -> None:
        if self.init.started:
            raise PyruncError("cannot start an already running container", self.id)
        self.container.start()
        self.init.started = True

    def add(self, request: "dict[str, Any]") -> Process:
        """A process that is to start later."""
        from pyrunc.spec import load

        spec = load.process(request["spec"]["value"] if request["spec"] else b"")
        spec["terminal"] = request["terminal"]
        process = Process(self, request["exec_id"], self._streams(request), spec)
        self.execs[process.exec_id] = process
        return process

    def start_exec(self, process: Process) -> None:
        assert process.spec is not None
        streams = process.streams
        asked = Options(console=streams.take_master if streams.terminal else None, no_new_keyring=self.no_new_keyring)
        try:
            self._open(streams)
            self.standard.lend(streams.child)
            process.pid = execute(self.container, process.spec, asked)
            process.started = True
        except BaseException:
            process.end(NOT_STARTED, time.time_ns())  # who waits for it need not wait
            raise
        finally:
            self.standard.lend([])
            streams.started()

    def pause(self) -> None:
        self.container.pause()
        self.paused = True

    def resume(self) -> None:
        self.container.resume()
        self.paused = False

    def kill(self, process: Process, signal: int, everybody: bool) -> None:
        if process is self.init:
            self.container.kill(signal, everybody)
            self.paused = self.paused and signal != 9
        else:
            posix.kill(process.pid, signal)  # nobody else's: we have not waited for it

    # --- its end

    def ended(self, process: Process, status: int) -> "list[Process]":
        """A process has ended. Which ends can be told now: the first process's after those of all others."""
        now = time.time_ns()
        if process is self.init:
            if not self.container.record["own_pids"]:
                self.container.cgroup.kill()  # no PID 1 has taken the others along
            self.held = status, now
            told = []
        else:
            process.end(status, now)
            told = [process]
        if self.held is not None and not any(each.is_running for each in self.execs.values()):
            self.init.end(*self.held)
            self.held = None
            told.append(self.init)
        return told

    def remove(self) -> None:
        """When its first process has ended."""
        self._forget_memory()
        Container.delete(self.root, self.id, log=self.log)
        self.container.directory.fd.close()  # a task and its processes know each other: they are collected some time
        unmount_all(f"{self.bundle}/{ROOTFS}")
        for process in [self.init, *self.execs.values()]:
            process.streams.close()

    # --- memory

    def _watch_memory(self) -> None:
        from pyrunc.container.events import Legacy, Unified

        try:
            cgroup = self.container.cgroup
            self.oom = Unified(cgroup) if cgroup.unified else Legacy(cgroup)
        except (PyruncError, OSError) as error:
            self.log.debug(f"container {self.id}: nobody will tell when it runs out of memory: {error}")

    def _forget_memory(self) -> None:
        if self.oom is not None:
            for fd, _ in self.oom.pollable():
                self.loop.unwatch(fd)
            self.oom = None

    def memory_kills(self) -> int:
        if self.oom is None:
            return 0
        kills = self.oom.kills()
        if self.oom.is_over():
            self._forget_memory()
        return kills

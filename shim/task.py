"""A task is a container with its processes. A process has streams, a pid, and at its end a status.

Nothing that is done here at once waits for anybody. What may wait is done by a worker or led by the loop (starting.py,
leading.py).
"""

import posix
import time
from _signal import SIGKILL

from pyrunc.container import create
from pyrunc.container.container import Container
from pyrunc.container.options import Options
from pyrunc.container.state import StateDirectory, StateRoot
from pyrunc.errors import NoSuchContainer, PyruncError, reason
from pyrunc.linux.fd import open_at, replace_file, unlink_quietly
from pyrunc.shim import companions, options
from pyrunc.shim.streams import Streams
from pyrunc.shim.turns import Turns
from pyrunc.shim.unmount import unmount_all
from pyrunc.shim.worker import ENDS, MASTER
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.cgroups.oom import Watch
    from pyrunc.linux.fd import Fd
    from pyrunc.log import Log
    from pyrunc.shim.loop import Loop, Timer
    from pyrunc.shim.streams import StandardStreams
    from pyrunc.shim.worker import Line
    from pyrunc.spec.types import Config
    from pyrunc.spec.types import Process as Spec

READER_NANOSECONDS = 500_000_000  # the news of an end waits so long for the reader of the output
OPTIONS_FILE = "options.json"  # for `delete`, which gets the options from nobody else
DELETED_FILE = "deleted"  # the answer to `delete` of a container that was deleted (launcher/shim.h)
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
ROOTFS = "rootfs"


class Process:
    """The container's first process, or one that exec added (`exec_id`).

    Attributes:
        pid: 0 until it is made and we have heard of that.
        asked: its start was asked for.
        starting: there is or may be a process whose start is not answered yet. Its end is told after that.
        ending: the container's other processes are being killed. Its end is told after that, too.
        stop: ends the start, for a given reason.
        end: (status as a shell shows it, when), from the moment when we know it.
        told: whether its end was told.
        waiters: are called with its end.
    """

    __slots__ = (
        "asked", "end", "ending", "exec_id", "pid", "spec", "started", "starting", "stop", "streams", "task", "told",
        "waiters",
    )  # fmt: skip

    def __init__(self, task: "Task", exec_id: str, streams: Streams, spec: "Spec | None" = None) -> None:
        self.task = task
        self.exec_id = exec_id
        self.streams = streams
        self.spec = spec
        self.pid = 0
        self.asked = False
        self.started = False
        self.starting = self.ending = False
        self.stop: Callable[..., None] | None = None
        self.end: tuple[int, int] | None = None
        self.told = False
        self.waiters: list[Callable[[Process], None]] = []

    @property
    def status(self) -> "int | None":
        return self.end[0] if self.end is not None and self.told else None

    @property
    def ended_at(self) -> int:
        return self.end[1] if self.end is not None and self.told else 0

    @property
    def is_running(self) -> bool:
        return self.pid > 0 and not self.told

    @property
    def is_tellable(self) -> bool:
        """Whether its end can be told: it has ended, its start was told, and the reader of its output is not behind.

        containerd's client stops reading when it hears of an end (client/task.go, Delete: Cancel). What it has not read
        by then is lost.
        """
        has_ended = self.end is not None and not (self.told or self.starting or self.ending)
        return has_ended and not (self.waits_for_readers and not self.streams.taken)

    @property
    def waits_for_readers(self) -> bool:
        if self.end is None or self.told or self.starting or self.ending:
            return False
        return 0 <= time.time_ns() - self.end[1] < READER_NANOSECONDS

    def state(self) -> int:
        if self.told:
            return STOPPED
        if not self.started:
            return CREATED
        return PAUSED if self.task.paused else RUNNING


class Task:
    """A container with its processes.

    Attributes:
        made: whether Create has been answered.
        init: its first process.
        execs: the others, by their ID.
        turns: the turns of the verbs that change it.
        restored: it was made from a checkpoint, and is paused until it is started.
        is_near: its bundle is not on a server's file system.
        telling: the timer after which we look again whether an end can be told.
    """

    __slots__ = (
        "bundle", "container", "criu", "execs", "id", "init", "is_near", "log", "loop", "made", "namespace",
        "no_new_keyring", "oom", "owner", "paused", "restored", "standard", "telling", "turns",
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
        self.is_near = False
        self.made = False
        self.execs: dict[str, Process] = {}
        self.paused = False
        self.restored = False
        self.oom: Watch | None = None
        self.telling: Timer | None = None
        self.turns = Turns(loop)

    # --- its making

    def streams(self, request: "dict[str, Any]") -> Streams:
        names = request["stdin"], request["stdout"], request["stderr"]
        return Streams(self.loop, names, request["terminal"])

    def read_config(self, log: "Log") -> "Config":
        with open_at(None, self.bundle, posix.O_RDONLY | posix.O_DIRECTORY) as bundle:
            return create.read_config(bundle, log)

    def note(self, found: "dict[str, Any]") -> StateRoot:
        """Write down where its state will be, before anything of it is made. After a shim was killed, `delete` needs
        that."""
        root = StateRoot(options.state_root(found, self.namespace))
        with open_at(None, self.bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            unlink_quietly(folder, DELETED_FILE)
            replace_file(folder, OPTIONS_FILE, dumps({"root": root.path}).encode("utf-8", "surrogateescape"))
        companions.note(self.id, self.bundle, root.path)
        return root

    def options_of(self, found: "dict[str, Any]", console: "Callable[[Fd], None] | None") -> Options:
        return Options(
            pid_file=f"{self.bundle}/init.pid",
            console=console,
            no_pivot=found["no_pivot_root"],
            no_new_keyring=found["no_new_keyring"],
            systemd=found["systemd_cgroup"],
        )

    def create(self, line: "Line", found: "dict[str, Any]", request: "dict[str, Any]", streams: Streams) -> None:
        """Make the container, in a worker: all of it, or nothing. Raises PyruncError."""
        from pyrunc.shim import mounts

        root = self.note(found)
        try:
            with line.log.step("create.mount_rootfs"):
                mounts.mount_all(request["rootfs"], f"{self.bundle}/{ROOTFS}")
            with line.log.step("create.open_streams"):
                self.open_streams(line, streams)
            streams.own((found["io_uid"], found["io_gid"]))
            asked = self.options_of(
                found, (lambda master: line.say(MASTER, None, [master])) if streams.terminal else None
            )
            self.standard.lend(streams.child)
            if self.read_config(line.log).get("hooks"):
                line.runs_hooks()
            if request["checkpoint"]:
                from pyrunc.shim import checkpoints

                checkpoints.restore(root, self.id, self.bundle, asked, request, found, line.log)
            else:
                Container.create(root, self.id, self.bundle, asked, line.log)
        except BaseException:
            unmount_all(f"{self.bundle}/{ROOTFS}")
            companions.forget(self.id, self.bundle)
            raise

    def open_streams(self, line: "Line", streams: Streams) -> None:
        """Open the ends of a process's streams, in a worker."""
        from pyrunc.shim.ends import READER_SECONDS, open_ends

        line.say(ENDS, None, open_ends(streams.to_open, (self.id, self.namespace), READER_SECONDS))

    def adopt(self, container: Container, init: Process, found: "dict[str, Any]") -> None:
        """Take over a container that was made with these options."""
        self.owner = (found["io_uid"], found["io_gid"])
        self.no_new_keyring = found["no_new_keyring"]
        self.criu = found["criu_path"]
        self.container = container
        self.init = init
        self.init.pid = container.pid
        self.made = True

    def add(self, request: "dict[str, Any]") -> Process:
        """Add a process, which starts later."""
        from pyrunc.spec import load

        spec = load.process(request["spec"]["value"] if request["spec"] else b"")
        spec["terminal"] = request["terminal"]
        process = Process(self, request["exec_id"], self.streams(request), spec)
        self.execs[process.exec_id] = process
        return process

    def kept(self) -> "list[Fd | None]":
        """What a worker needs of the shim's descriptors."""
        return [self.container.directory.fd]

    # --- in a worker

    def opened_again(self, line: "Line") -> Container:
        """The container, opened with a descriptor of the worker's own. A lock taken by the shim's descriptor would be
        the shim's too, and stay when the worker is killed."""
        directory = self.container.directory
        own = StateDirectory(directory.root, directory.id, open_at(directory.fd, ".", posix.O_RDONLY))
        container = Container(own, self.container.record, line.log)
        container.known_config = self.container.known_config
        return container

    def delete(self, line: "Line") -> None:
        """Delete the container, even if somebody else has done so: its root file system is still mounted here."""
        try:
            if "poststop" in self.container.record["hooks"]:
                line.runs_hooks()
            Container.delete(self.container.directory.root, self.id, log=line.log)
        except NoSuchContainer:
            pass
        companions.forget(self.id, self.bundle)
        with line.log.step("delete.unmount_rootfs"):
            unmount_all(f"{self.bundle}/{ROOTFS}")

    # --- at once

    def delete_at_once(self, log: "Log") -> bool:
        """Delete the container if that waits for nobody. Returns whether it is deleted, by us or by somebody else."""
        if not self.is_near:
            return False
        try:
            if not self.container.delete_at_once(log):
                return False
        except NoSuchContainer:
            pass
        companions.forget(self.id, self.bundle)
        return True

    def note_deleted(self, address: str, answer: bytes) -> None:
        """Note that nothing is left, for `delete`, which is about to come. Otherwise it would look."""
        if not self.is_near:
            return
        try:
            with open_at(None, self.bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
                replace_file(folder, DELETED_FILE, address.encode("utf-8", "surrogateescape") + b"\0" + answer)
        except OSError as error:
            self.log.debug(f"container {self.id}: `delete` has to look for what is left: {reason(error)}")

    def kill_takes_time(self, process: Process, signal: int, everybody: bool) -> bool:
        """Whether a worker has to send the signal. That is so if all processes are signalled or thawed: a container has
        as many processes and cgroups as it likes, and a killed process may not die at once."""
        if process is not self.init:
            return False
        if everybody or (signal == SIGKILL and not self.container.record["own_pids"]):
            return True
        return signal == SIGKILL and not self.container.cgroup.is_small()

    def kill(self, process: Process, signal: int, everybody: bool) -> None:
        if process is self.init:
            self.container.kill(signal, everybody)
            self.paused = self.paused and signal != SIGKILL
        else:
            posix.kill(process.pid, signal)  # the pid is still its own: we have not waited for it

    def tellable(self) -> "list[Process]":
        """The processes whose end can be told now. An end is told after the start, and the first process's end last."""
        ends = [each for each in self.execs.values() if each.is_tellable]
        others = any(each.starting or (each.pid and not each.told and each not in ends) for each in self.execs.values())
        if not others and self.init.is_tellable:
            ends.append(self.init)
        return ends

    @property
    def waits_for_readers(self) -> bool:
        return any(each.waits_for_readers for each in (self.init, *self.execs.values()))

    def close(self) -> None:
        """Release everything, when the container is deleted. The task and its processes refer to each other. Otherwise
        only a collection would free them, and one comes once in more than a thousand containers."""
        self.forget_memory()
        self.loop.cancel(self.telling)
        self.container.directory.fd.close()
        for process in [self.init, *self.execs.values()]:
            process.streams.close()
        self.made = False
        self.execs.clear()
        del self.init

    # --- memory

    def watch_memory(self, told: "Callable[[int], None]") -> None:
        """Watch its memory. `told`: is called when it may have run out of memory."""
        try:
            self.oom = self.container.cgroup.watch_oom()
            for fd, mask in self.oom.pollable():
                self.loop.watch(fd, mask, told)
        except (PyruncError, OSError) as error:
            self.log.debug(f"container {self.id}: nobody will tell when it runs out of memory: {error}")

    def forget_memory(self) -> None:
        if self.oom is not None:
            for fd, _ in self.oom.pollable():
                self.loop.unwatch(fd)
            self.oom = None

    def memory_kills(self) -> int:
        if self.oom is None:
            return 0
        kills = self.oom.kills()
        if self.oom.is_over():
            self.forget_memory()
        return kills

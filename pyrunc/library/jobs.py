"""What the worker can be asked for, verb by verb. docs/library.md describes the program's side."""

import _socket
import fcntl
import posix
import time
from _signal import SIGKILL

from pyrunc.cgroups.counters import keyed, number
from pyrunc.container import create, events, forced, patience  # noqa: F401  # loaded here once, and not in each runner
from pyrunc.container.container import Container
from pyrunc.container.exec import begin, lead
from pyrunc.container.options import Options
from pyrunc.container.state import StateRoot, release_locks
from pyrunc.errors import CalledOff, NoSuchContainer, PyruncError
from pyrunc.init import credentials
from pyrunc.init.channel import ARGUMENTS, STREAM
from pyrunc.library import places, rootfs
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.pid import pidfd_open
from pyrunc.seccomp import cache  # noqa: F401  # as those above
from pyrunc.spec import jsonc, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.container.launch import Launch
    from pyrunc.init.channel import Channel
    from pyrunc.library.job import Job
    from pyrunc.library.wire import Message

# --- what the kernel answers at once


def _load(message: "Message") -> Container:
    return Container.load(StateRoot(message["root"]), message["id"])


def _load_any(message: "Message") -> "dict[str, Any]":
    """Check that it is there, and return its state."""
    container = _load(message)
    return {**container.state(), "pid": container.pid}


def _state(message: "Message") -> "dict[str, Any]":
    return _load(message).state()


def _list(message: "Message") -> "list[dict[str, Any]]":
    root = StateRoot(message["root"])
    found = []
    try:
        ids = root.ids()
    except FileNotFoundError:
        return []
    for container_id in ids:
        try:
            found.append(Container.load(root, container_id).state())
        except (PyruncError, OSError):
            continue  # it is being made or removed; or it is damaged, which `load` reports
    return found


def _kill(message: "Message") -> None:
    _load(message).kill(message["signal"], message["all"])


def _stats(message: "Message") -> "dict[str, Any]":
    data: dict[str, Any] = events.stats(_load(message))["data"]
    return data


def _ps(message: "Message") -> "list[int]":
    return sorted(_load(message).cgroup.processes())


def _config(message: "Message") -> "Any":
    return _load(message).config


def _ping(_: "Message") -> int:
    return posix.getpid()


# --- what may wait


def _create(job: "Job", message: "Message") -> None:
    job.once = True
    masters: list[Fd] = []
    container = make(job, message, Options(console=masters.append))
    tell_of(job, container.pid, {"pid": container.pid, "id": container.id, "state": container.state()}, masters)


def make(job: "Job", message: "Message", options: Options) -> Container:
    """Make a container with a bundle of its own. Its standard streams came with the request."""
    root = StateRoot(message["root"])
    if not rootfs.needs_bundle(message):
        return _without_bundle(job, root, message, options)
    folder = places.make_bundle(root, message["id"], message["shared"])
    try:
        job.arm()
        try:
            config = rootfs.settle(job, folder, message)
            places.write_config(folder, config)
            with Streams(job.fds):
                if message.get("restore") is not None:
                    return _restored(root, message, folder.name, options, job)
                return Container.create(root, message["id"], folder.name, options, job.log)
        finally:
            job.disarm()
    except BaseException:
        remove(job, root, message["id"])  # it may have been called off after everything was made
        raise
    finally:
        folder.close()


def _without_bundle(job: "Job", root: StateRoot, message: "Message", options: Options) -> Container:
    """Make a container that needs only what all share. Its bundle is the folder of our worker."""
    try:
        job.arm()
        try:
            config: Any = load.config_of(message["config"])
            config["root"]["path"] = rootfs.of_host(message["shared"])
            with Streams(job.fds):
                return Container.create(root, message["id"], message["shared"], options, job.log, config)
        finally:
            job.disarm()
    except BaseException:
        remove(job, root, message["id"])
        raise


def _restored(root: StateRoot, message: "Message", bundle: str, options: Options, job: "Job") -> Container:
    from pyrunc.container.checkpoint.options import RestoreOptions

    return Container.restore(root, message["id"], bundle, RestoreOptions(**message["restore"]), options, job.log)


def _checkpoint(job: "Job", message: "Message") -> None:
    from pyrunc.container.checkpoint.options import CheckpointOptions

    container = Container.load(StateRoot(message["root"]), message["id"], job.log)
    job.arm()
    try:
        container.checkpoint(CheckpointOptions(**message["options"]))
    finally:
        job.disarm()


def remove(job: "Job", root: StateRoot, container_id: str) -> None:
    """Remove a container that we have made, and what it needed, as much of it as there is."""
    release_locks()
    try:
        Container.delete(root, container_id, True, job.log)
    except NoSuchContainer:
        pass
    leave(root, container_id)


def leave(root: StateRoot, container_id: str) -> None:
    """Remove what a container needed besides its state."""
    rootfs.leave(places.bundle(root, container_id))
    places.remove_bundle(root, container_id)


class Streams:
    """Within the block, our standard streams are those that a new process is to inherit."""

    __slots__ = ("fds", "saved")

    def __init__(self, fds: "list[Fd]") -> None:
        self.fds = fds

    def __enter__(self) -> None:
        self.saved = []
        for stream, fd in enumerate(self.fds):
            self.saved.append(Fd(fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3), "a stream of ours"))
            posix.dup2(fd.number, stream)

    def __exit__(self, *_: object) -> None:
        for stream, fd in enumerate(self.saved):
            posix.dup2(fd.number, stream)
        for fd in (*self.saved, *self.fds):
            fd.close()


def _start(job: "Job", message: "Message") -> None:
    container = Container.load(StateRoot(message["root"]), message["id"], job.log)
    job.arm()
    try:
        container.start(notified=False)
    finally:
        job.disarm()


def _exec(job: "Job", message: "Message") -> None:
    job.once = True
    container = Container.load(StateRoot(message["root"]), message["id"], job.log)
    own: Any = container.config.get("process") or {"cwd": "/"}
    what: Any = {**own, "terminal": False, **message["process"]}
    if "consoleSize" not in message["process"]:
        what.pop("consoleSize", None)
    what["env"] = [*(own.get("env") or []), *(message["process"].get("env") or [])]
    masters: list[Fd] = []
    child: Launch | None = None
    try:
        job.arm()
        try:
            with Streams(job.fds):
                child = begin(container, what, Options(console=masters.append))
                lead(container, child)
        finally:
            job.disarm()
    except BaseException:
        if child is not None:
            child.give_up()  # it may have been called off after its program had begun
        raise
    tell_of(job, child.pid, {"pid": child.pid}, masters)


def tell_of(job: "Job", pid: int, made: "Message", masters: "list[Fd]") -> None:
    """Tell the worker to wait for a process, and send the caller the pidfd to signal it by."""
    job.born(pid)
    with pidfd_open(pid) as pidfd:
        job.answer({"made": made}, [pidfd, *masters])
    job.close()


def _pause(job: "Job", message: "Message") -> None:
    Container.load(StateRoot(message["root"]), message["id"], job.log).pause()


def _resume(job: "Job", message: "Message") -> None:
    Container.load(StateRoot(message["root"]), message["id"], job.log).resume()


def _update(job: "Job", message: "Message") -> None:
    from pyrunc.container.update import update

    text = jsonc.dumps(message["resources"]).encode("utf-8", "surrogateescape")
    update(Container.load(StateRoot(message["root"]), message["id"], job.log), load.resources(text))


def _delete(job: "Job", message: "Message") -> None:
    root = StateRoot(message["root"])
    try:
        Container.delete(root, message["id"], message["force"], job.log)
    except NoSuchContainer:
        if not message["force"]:
            raise
    places.remove_bundle(root, message["id"])


def _remove(job: "Job", message: "Message") -> None:
    """Remove what a killed runner has left, or what belonged to an owner who is gone."""
    _delete(job, {**message, "force": True})


def _await(job: "Job", message: "Message") -> None:
    """Wait for the end of a container that another process has made."""
    container = Container.load(StateRoot(message["root"]), message["id"], job.log)
    job.arm()
    try:
        with pidfd_open(container.pid) as pidfd:
            if container.is_alive():
                job.wait_for(pidfd)
    except ProcessLookupError:
        pass
    finally:
        job.disarm()


def _events(job: "Job", message: "Message") -> None:
    """Send events until the container ends or nobody listens."""
    job.once = True
    container = Container.load(StateRoot(message["root"]), message["id"], job.log)
    job.arm()
    try:
        for event in events.events(container, message["interval"]):
            job.answer({"event": event})
    finally:
        job.disarm()


def _run(job: "Job", message: "Message") -> "dict[str, Any]":
    """Make a container, start it, wait for its end, and remove it.

    With `hold`, the caller is told when the container waits for start, and then says when to go on. The result is sent
    before the container is removed, so that nobody waits for the removal.
    """
    run = Run(job, message)
    try:
        run.go()
        if message["hold"]:
            job.answer({"made": run.result})
    finally:
        run.remove()
    return run.result


def _ahead(job: "Job", message: "Message") -> "dict[str, Any]":
    """Do a run whose container is made before anybody asks for it. Only its program and its streams are not known yet.
    Until they are, the line is the worker's."""
    job.fds = [open_at(None, "/dev/null", posix.O_RDWR) for _ in range(3)]
    return _run(job, {**message, "hold": False, "timeout": None})


class Run:
    __slots__ = ("channel", "container", "job", "message", "result", "status")

    def __init__(self, job: "Job", message: "Message") -> None:
        self.channel: Channel | None = None
        self.job = job
        self.message = message
        self.status: int | None = None
        self.container: Container | None = None
        self.result: dict[str, Any] = {}

    def go(self) -> None:
        job, message = self.job, self.message
        ahead = message["verb"] == "ahead"
        job.alarm(0.0 if message["hold"] else message["timeout"] or 0.0)
        began = time.monotonic()
        spent = None
        try:
            try:
                self.container = make(job, message, Options(take_channel=self._keep_channel if ahead else None))
                job.arm()
                if message["hold"]:
                    job.answer({"ready": True})
                    job.alarm(job.hear()[0]["timeout"] or 0.0)
                    began = time.monotonic()
                if ahead:
                    self._take_over()
                    began = time.monotonic()
                self.container.start(notified=False)
                spent = self._wait()
            finally:
                job.disarm()  # inside the outer try, as CalledOff may still be raised here
        except CalledOff:
            if not job.why:
                raise
        finally:
            job.alarm(0)
        if self.container is None and job.why:
            self.result = {"status": SIGKILL, "why": job.why, "duration": time.monotonic() - began,
                           "cpu": 0.0, "peak": 0, "oom": False}  # fmt: skip
            return
        assert self.container is not None
        duration = time.monotonic() - began
        if self.status is None:
            self.container.kill_quietly()
            self.container.cgroup.thaw_all()
            spent = self._wait()
        self.result = {"status": self.status, "why": job.why, "duration": duration, **self._used(spent)}

    def _keep_channel(self, channel: "Channel") -> None:
        self.channel = channel

    def _take_over(self) -> None:
        """Give the container that was made ahead to a caller, who sends line, state root, program, streams and time."""
        job, container, channel = self.job, self.container, self.channel
        assert container is not None
        assert channel is not None
        told, (line, *streams) = job.hear()
        job.disarm()
        root = StateRoot(told["root"])
        posix.rename(container.directory.path, f"{root.path}/{container.id}")
        container.directory.root = root
        job.alarm(told["timeout"] or 0.0)
        job.answers(_socket.socket(fileno=line.take()))
        uid = container.config["process"]["user"]["uid"]
        for stream in streams:
            with stream:
                try:
                    credentials.give_stream(stream.number, uid)
                except OSError as error:
                    if error.errno not in credentials.STAYS_AS_IT_IS:
                        raise
                channel.send(STREAM, fd=stream)
        channel.send(ARGUMENTS, *told["args"])
        channel.close()

    def remove(self) -> None:
        """Remove the container, as much of it as there is. It has ended, so this nearly always waits for nobody."""
        container = self.container
        if container is None:
            return
        if self.channel is not None and self.channel.socket.fileno() >= 0:
            self.channel.close()
        release_locks()
        try:
            gone = container.delete_at_once(self.job.log)
        except (PyruncError, OSError):
            gone = False
        if gone:
            leave(container.directory.root, container.id)
        else:
            remove(self.job, container.directory.root, container.id)

    def _wait(self) -> "Any":
        assert self.container is not None
        try:
            with pidfd_open(self.container.pid) as pidfd:
                self.job.wait_for(pidfd)
            _, status, spent = posix.wait4(self.container.pid, 0)
            self.status = status
            return spent
        except (ChildProcessError, ProcessLookupError):
            self.status = SIGKILL
            return None

    def _used(self, spent: "Any") -> "dict[str, Any]":
        """What the container used, as its cgroup counts it. Without a cgroup: what its first process used, and the
        children that this process has waited for."""
        assert self.container is not None
        cgroup = self.container.cgroup
        memory = cgroup.directory("memory") or ""
        peak = number(memory, "memory.peak" if cgroup.unified else "memory.max_usage_in_bytes")
        if cgroup.unified:
            used = keyed(cgroup.paths.get("", ""), "cpu.stat").get("usage_usec", 0) / 1e6
        else:
            used = number(cgroup.directory("cpuacct") or "", "cpuacct.usage") / 1e9
        if spent is not None:
            peak = peak or spent.ru_maxrss * 1024
            used = used or spent.ru_utime + spent.ru_stime
        return {"peak": peak, "cpu": used, "oom": bool(cgroup.oom_kills())}


AT_ONCE: "dict[str, Callable[[Message], Any]]" = {
    "ping": _ping, "load": _load_any, "state": _state, "list": _list, "kill": _kill,
    "stats": _stats, "ps": _ps, "config": _config,
}  # fmt: skip
TO_BE_RUN: "dict[str, Callable[[Job, Message], Any]]" = {
    "create": _create, "start": _start, "exec": _exec, "checkpoint": _checkpoint, "pause": _pause, "resume": _resume,
    "update": _update,
    "delete": _delete, "remove": _remove, "await": _await, "events": _events, "run": _run, "ahead": _ahead,
}  # fmt: skip
MAKING = ("create", "exec")  # they make a process that the worker waits for
ONCE = ("create", "exec", "events")
UNDONE_BY_REMOVING = ("create", "run", "ahead")
PLACED = ("create", "run")  # we make the bundles of their containers

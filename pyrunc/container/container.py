"""A container: its life from create to delete. runtime.md#lifecycle"""

import posix
import select
import time

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.container import console, launch
from pyrunc.container.options import Options
from pyrunc.container.state import CONFIG, FAILURE, FIFO, StateDirectory, StateRoot
from pyrunc.errors import ConfigError, NotRunning, PyruncError, StateError, reason
from pyrunc.init import hooks, steps
from pyrunc.init.context import Context
from pyrunc.linux.fd import Fd, open_at, read_file, replace_file, unlink_quietly
from pyrunc.linux.process import set_dumpable, start_time
from pyrunc.log import Log, rfc3339
from pyrunc.seccomp import cache
from pyrunc.spec import load
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.spec.types import Config, Linux, State

SIGKILL = 9
DEATH_SECONDS = 10.0
STILL_SECONDS = 10.0
ESRCH = 3


class Container:
    """One container, as its state directory has it.

    Attributes:
        record: state.json: id, pid, start (the pid's start time), bundle, rootfs, created, annotations, …
    """

    __slots__ = ("_config", "directory", "log", "record")

    def __init__(self, directory: StateDirectory, record: "dict[str, Any]", log: "Log | None" = None) -> None:
        self.directory = directory
        self.record = record
        self.log = log or Log()
        self._config: Config | None = None

    # --- finding one

    @classmethod
    def load(cls, root: StateRoot, container_id: str, log: "Log | None" = None) -> "Container":
        """Raises NoSuchContainer."""
        directory = StateDirectory.open(root, container_id)
        record = directory.load()
        if record is None:
            raise StateError("container", f'"{container_id}"', "was never fully created", "remove it with delete --force")
        return cls(directory, record, log)

    # --- what it is

    @property
    def id(self) -> str:
        return self.directory.id

    @property
    def pid(self) -> int:
        pid: int = self.record["pid"]
        return pid

    @property
    def config(self) -> "Config":
        """The configuration that it was created with, whatever the bundle says by now."""
        if self._config is None:
            document: Any = self.directory.load(CONFIG)
            if document is None:
                raise StateError("container", f'"{self.id}"', "its configuration is not on record")
            self._config = document
        assert self._config is not None
        return self._config

    @property
    def cgroup(self) -> Cgroup:
        cgroup = self.record["cgroup"]
        return Cgroup(cgroup["paths"], cgroup["unified"], cgroup["mounts"])

    def is_alive(self) -> bool:
        """Whether its first process runs: a pid alone may be somebody else's by now."""
        try:
            return bool(self.pid) and start_time(self.pid) == self.record["start"]
        except ProcessLookupError:
            return False

    def status(self) -> str:
        """created, running, paused or stopped. runtime.md#state

        Derived each time: the freezer, the process, and whether somebody waits at the fifo, say it themselves.
        """
        if not self.is_alive():
            return "stopped"
        if self.cgroup.is_frozen():
            return "paused"
        fifo = self.directory.open_fifo()
        if fifo is not None:
            fifo.close()
            return "created"
        return "running"

    def state(self) -> "dict[str, Any]":
        """The document that `state` prints: that of runtime.md#state, and what runc adds to it."""
        status = self.status()
        return {
            "ociVersion": self.record["ociVersion"],
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": self.record["bundle"],
            "rootfs": self.record["rootfs"],
            "created": self.record["created"],
            **({"annotations": self.record["annotations"]} if self.record["annotations"] else {}),
            "owner": self.record["owner"],
        }

    def hook_state(self, status: str, pid: "int | None" = None) -> bytes:
        """What hooks read on standard input."""
        document: State = {
            "ociVersion": self.record["ociVersion"],
            "id": self.id,
            "status": status,
            "pid": self.pid if pid is None else pid,
            "bundle": self.record["bundle"],
        }
        if not document["pid"]:
            del document["pid"]
        if self.record["annotations"]:
            document["annotations"] = self.record["annotations"]
        return dumps(document).encode("utf-8", "surrogateescape")

    # --- create

    @classmethod
    def create(
        cls, root: StateRoot, container_id: str, bundle: str, options: "Options | None" = None, log: "Log | None" = None
    ) -> "Container":
        """Make a container that waits for start. Nothing of it is left when this raises."""
        options = options or Options()
        log = log or Log()
        set_dumpable(False)
        with open_at(None, bundle, posix.O_RDONLY | posix.O_DIRECTORY) as folder:
            bundle = posix.readlink(f"/proc/self/fd/{folder.number}")
            config = load.config(folder.number)
        take_master = console.receiver(options, bool((config.get("process") or {}).get("terminal")))
        rootfs = _rootfs(config, bundle)
        directory = StateDirectory.make(root, container_id)
        container = cls(directory, {"pid": 0}, log)
        container._config = config
        try:
            container._create(config, bundle, rootfs, options, take_master)
        except BaseException:
            container._undo()
            raise
        finally:
            directory.unlock()
        return container

    def _create(
        self, config: "Config", bundle: str, rootfs: str, options: Options, take_master: "Any"
    ) -> None:
        linux = config["linux"] = config.get("linux") or {}
        cgroup = Cgroup.at(linux.get("cgroupsPath"), self.id)
        self.record = {
            "ociVersion": config["ociVersion"],
            "id": self.id,
            "pid": 0,
            "start": 0,
            "bundle": bundle,
            "rootfs": rootfs,
            "created": rfc3339(time.time_ns()),
            "annotations": config.get("annotations") or {},
            "owner": "",
            "uid": posix.geteuid(),
            "cgroup": {"paths": {}, "unified": cgroup.unified, "mounts": cgroup.mounts},
        }
        self.directory.save_config(config)
        cgroup.refuse_used()
        # On record before it exists: what is killed between the two is what delete removes.
        self.record["cgroup"]["paths"] = cgroup.paths
        self.directory.save(self.record)
        cgroup.create()
        cgroup.set(linux.get("resources") or {})
        context = self._context(config, bundle, rootfs, options)
        context.cgroup = cgroup
        context.cgroup_tasks = cgroup.open_tasks()

        def born(pid: int) -> None:
            self.record["pid"] = pid
            self.record["start"] = start_time(pid)
            self.directory.save(self.record)

        def run_hooks() -> None:
            self._run_hooks("prestart", "created")  # "after step 2 of the lifecycle": the environment stands
            self._run_hooks("createRuntime", "creating")

        flags = launch.plan_namespaces(context, linux.get("namespaces") or [])
        own_mounts = any(n["type"] == "mount" for n in linux.get("namespaces") or [])
        child = launch.Launch(context, self.log, born, take_master, run_hooks)
        child.run(steps.INIT if own_mounts else steps.INIT_IN_FOREIGN_MOUNTS, flags)
        if options.pid_file:
            try:
                write_pid_file(options.pid_file, self.pid)
            except OSError as error:
                child.kill()
                raise PyruncError("writing pid file", options.pid_file, reason(error)) from error

    def _context(self, config: "Config", bundle: str, rootfs: str, options: Options) -> Context:
        context = Context()
        context.config = config
        context.process = config.get("process") or {"cwd": "/"}  # REQUIRED by start only (config.md#process)
        context.bundle = bundle
        context.rootfs = rootfs
        context.host_proc = launch.open_proc()
        context.state = self.hook_state
        context.not_ours.append(self.directory.fd)  # with it the child would hold the lock
        context.no_pivot = options.no_pivot
        context.keyring = "" if options.no_new_keyring else f"_ses.{self.id}"
        context.preserve_fds = options.preserve_fds
        context.listen_fds = _listen_fds()
        context.fifo = self.directory.make_fifo()
        context.failure = open_at(self.directory.fd, FAILURE, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
        verify_preserved(context.preserve_fds + context.listen_fds)
        seccomp = config["linux"].get("seccomp")
        if seccomp:
            with self.directory.root.open() as root:
                context.bpf, context.bpf_flags = cache.program(seccomp, root)
        return context

    def _run_hooks(self, kind: str, status: str) -> None:
        hooks.run_all(kind, (self.config.get("hooks") or {}).get(kind) or [], self.hook_state(status), None)

    def _undo(self) -> None:
        """After a failed create, whose process is dead: its cgroup, its directory. What can't be removed is left
        for `delete --force`, and said."""
        try:
            if self.record.get("cgroup", {}).get("paths"):
                self.cgroup.remove()
            if (self._config or {}).get("hooks", {}).get("poststop") and self.pid:
                self._poststop()
            self.directory.remove()
        except (PyruncError, OSError) as error:
            self.log.warning(f"cleaning up after the failure: {reason(error)}")

    # --- start

    def start(self) -> None:
        """Let a created container run its program. Returns once the program runs; raises when it can't."""
        self.directory.lock()
        try:
            self._start()
            self._run_hooks("poststart", "running")
        except PyruncError as error:
            if not isinstance(error, StateError) and self.is_alive():
                self._signal_init(SIGKILL)  # runtime-spec 1.3: a failed start leaves the container stopped
            raise
        finally:
            self.directory.unlock()

    def _start(self) -> None:
        fifo = self.directory.open_fifo() if self.is_alive() else None
        if fifo is None:
            if self.status() == "stopped":
                raise StateError("cannot start a container that has stopped", self.id)
            raise StateError("cannot start an already running container", self.id)
        if not self.config.get("process"):
            # runtime.md#start asks for an error here, runtime-tools and crun for a container that stops at once.
            self.log.warning(f"container {self.id}: config.json has no process: there is nothing to run")
        with fifo:
            posix.write(fifo.number, b"0")
            unlink_quietly(self.directory.fd, FIFO)
            self._wait_for_program(fifo)

    def _wait_for_program(self, fifo: Fd) -> None:
        """Until the other end is closed: by execve, or by the death of a process that says why."""
        poll = select.poll()
        poll.register(fifo.number, 0)  # POLLERR comes unasked
        poll.poll()
        text = read_file(FAILURE, self.directory.fd).decode("utf-8", "replace")
        unlink_quietly(self.directory.fd, FAILURE)
        if text:
            raise PyruncError(*text.split("\0"))

    # --- kill

    def kill(self, signal: int, all_processes: bool = False) -> None:
        """Send a signal to the container's first process. runtime.md#kill

        SIGKILL where it shares the processes of another namespace: to all of its own, as no PID 1 takes them along.
        """
        if not self.is_alive():
            if signal == SIGKILL and not self._has_own_processes() and self.cgroup.processes():
                return self.cgroup.kill()
            if all_processes:
                return self.cgroup.kill(signal)
            raise NotRunning(self.id)
        if all_processes or (signal == SIGKILL and not self._has_own_processes()):
            self.cgroup.kill(signal)
        if not all_processes or self.is_alive():
            self._signal_init(signal)
        if signal == SIGKILL:
            self.cgroup.thaw()  # a frozen process of v1 dies when it thaws

    def _signal_init(self, signal: int) -> None:
        """By pidfd, and only after its start time was compared: it can't be another process that took the number."""
        import _signal

        try:
            with Fd(posix.pidfd_open(self.pid), f"process {self.pid}") as pidfd:
                if self.is_alive():
                    return _signal.pidfd_send_signal(pidfd.number, signal)
        except ProcessLookupError:
            pass
        raise NotRunning(self.id)

    def _has_own_processes(self) -> bool:
        """Whether it has a PID namespace of its own making: with its PID 1 everything in it dies."""
        linux: Linux = self.config.get("linux") or {}
        return any(n["type"] == "pid" and not n.get("path") for n in linux.get("namespaces") or [])

    def wait(self) -> int:
        """The exit status of its first process, for the process that created it: 0..255, or 128 + signal."""
        return exit_code(posix.waitpid(self.pid, 0)[1])

    # --- delete

    @staticmethod
    def delete(root: StateRoot, container_id: str, force: bool = False, log: "Log | None" = None) -> None:
        """Remove a stopped or created container; by force, any, and whatever a killed `create` left.

        Raises NoSuchContainer (not by force), StateError when it runs.
        """
        directory = StateDirectory.open(root, container_id)
        if force:
            _interrupt(directory, log)
        else:
            directory.lock()
        try:
            record = directory.load()
            if record is None:
                return directory.remove()  # killed before it had anything but its directory
            Container(directory, record, log)._delete(force)
        finally:
            directory.unlock()

    def _delete(self, force: bool) -> None:
        _ = self.config  # read while it is there: the poststop hooks are in it
        status = self.status()
        if status in ("running", "paused") and not force:
            raise StateError("cannot delete container", self.id, f"that is not stopped: {status}", "stop it first, or use delete --force")
        if status != "stopped":
            self._kill_and_wait()
        if self.pid and (force or not self._has_own_processes()):
            self.cgroup.kill()
        self.cgroup.remove()
        self.directory.remove()
        self._poststop()

    def _poststop(self) -> None:
        """After all else is gone; a hook that fails is a warning (config.md#poststop)."""
        for hook in (self._config or {}).get("hooks", {}).get("poststop") or []:
            try:
                hooks.run_all("poststop", [hook], self.hook_state("stopped", 0), None)
            except PyruncError as error:
                self.log.warning(str(error))

    def _kill_and_wait(self) -> None:
        try:
            with Fd(posix.pidfd_open(self.pid), f"process {self.pid}") as pidfd:
                self.kill(SIGKILL)
                if not select.select([pidfd], [], [], DEATH_SECONDS)[0]:
                    raise PyruncError("killing container", self.id, f"it is still alive after {DEATH_SECONDS:.0f} s")
        except (ProcessLookupError, NotRunning):
            return  # it was quicker
        try:
            posix.waitpid(self.pid, 0)  # where we are its parent nobody else buries it
        except ChildProcessError:
            pass


def _interrupt(directory: StateDirectory, log: "Log | None") -> None:
    """For delete --force: a verb that holds the lock may hang, in a hook of the engine's, say. Its container is
    killed, with which it fails and lets go."""
    if directory.lock(0.0):
        return
    record = directory.load()
    if record is not None:
        try:
            Container(directory, record, log)._signal_init(SIGKILL)
        except NotRunning:
            pass
    if not directory.lock(STILL_SECONDS):
        raise PyruncError("deleting container", directory.id, "another command holds its lock", "is a hook hanging?")


def _rootfs(config: "Config", bundle: str) -> str:
    """The root file system as an absolute path. A symlink is followed now, on the host, and never again."""
    root = config["root"]["path"]
    path = root if root.startswith("/") else f"{bundle}/{root}"
    try:
        with open_at(None, path, posix.O_PATH | posix.O_DIRECTORY) as directory:
            return posix.readlink(f"/proc/self/fd/{directory.number}")
    except OSError as error:
        raise ConfigError("config.json", "/root/path", f"{path}: {error.strerror}") from error


def _listen_fds() -> int:
    """Socket activation: LISTEN_FDS descriptors from 3 on are the container's, if they were meant for us."""
    try:
        count = int(posix.environ.get(b"LISTEN_FDS", b"0"))
        meant_for = int(posix.environ.get(b"LISTEN_PID", b"0"))
    except ValueError:
        return 0
    return count if meant_for in (0, posix.getpid()) else 0


def verify_preserved(count: int) -> None:
    for number in range(3, 3 + count):
        try:
            posix.fstat(number)
        except OSError as error:
            raise PyruncError("preserving descriptor", str(number), error.strerror or "", "the caller did not open it") from error


def write_pid_file(path: str, pid: int) -> None:
    folder, _, name = path.rpartition("/")
    with open_at(None, folder or ("/" if path.startswith("/") else "."), posix.O_RDONLY | posix.O_DIRECTORY) as directory:
        replace_file(directory, name, str(pid).encode(), 0o644)


def exit_code(status: int) -> int:
    """A status of waitpid(2) as a shell shows it."""
    return 128 + posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else posix.WEXITSTATUS(status)



"""A container: its life from create to delete. runtime.md#lifecycle"""

import posix
import select

from pyrunc.cgroups.cgroup import Cgroup
from pyrunc.container.state import CONFIG, FIFO, StateDirectory, StateRoot
from pyrunc.errors import NoSuchContainer, NotRunning, PyruncError, StateError, StepError, reason
from pyrunc.linux.fd import Fd, open_at, unlink_quietly
from pyrunc.linux.pid import has_ended, pidfd_open, pidfd_send_signal, reap, start_time
from pyrunc.log import Log
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from pyrunc.cgroups.rdt import Group
    from pyrunc.container.notify import Proxy
    from pyrunc.container.options import Options
    from pyrunc.spec.types import Config, State

    Status = Literal["creating", "created", "running", "stopped"]
    HookKind = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]

SIGKILL = 9
GO = b"0"


class Container:
    """One container, as its state directory has it.

    Attributes:
        record: state.json: id, pid, start (the pid's start time), bundle, rootfs, created, annotations, …
    """

    __slots__ = ("directory", "known_config", "log", "record")

    def __init__(self, directory: StateDirectory, record: "dict[str, Any]", log: "Log | None" = None) -> None:
        self.directory = directory
        self.record = record
        self.log = log or Log()
        self.known_config: Config | None = None

    # --- finding one

    @classmethod
    def load(cls, root: StateRoot, container_id: str, log: "Log | None" = None) -> "Container":
        """Raises NoSuchContainer."""
        directory = StateDirectory.open(root, container_id)
        record = directory.load_record()
        if record is None:
            if directory.is_locked() or directory.is_gone:
                raise NoSuchContainer(container_id)  # not yet, or not any more
            raise _incomplete(container_id)
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
        if self.known_config is None:
            document: Any = self.directory.load(CONFIG)
            if document is None and self.directory.load() is None:
                raise NoSuchContainer(self.id)  # deleted meanwhile
            if document is None:
                raise StateError("container", f'"{self.id}"', "its configuration is not on record")
            self.known_config = document
        assert self.known_config is not None
        return self.known_config

    @property
    def cgroup(self) -> Cgroup:
        cgroup = self.record["cgroup"]
        return Cgroup(cgroup["paths"], cgroup["unified"], cgroup["mounts"], cgroup.get("unit"))

    def rdt_group(self) -> "Group | None":
        """Its class of service (config-linux.md#intelrdt). Few have one; the code for it is loaded for those."""
        if not self.record.get("rdt"):
            return None
        from pyrunc.cgroups import rdt

        return rdt.load(self.record["rdt"])

    def is_alive(self) -> bool:
        """Whether its first process runs: a pid alone may be somebody else's by now."""
        try:
            return bool(self.pid) and start_time(self.pid) == self.record["start"]
        except ProcessLookupError:
            return False

    def status(self) -> str:
        """creating, created, running, paused or stopped. runtime.md#state

        Derived each time: the freezer, the process, whether somebody waits at the fifo, and who has the lock, say it
        themselves.
        """
        if not self.is_alive():
            return "stopped"
        if self.cgroup.is_frozen():
            return "paused"
        fifo = self.directory.open_fifo()
        if fifo is not None:
            fifo.close()
            holder = self.directory.holder()
            return "creating" if holder is not None and holder.verb == "create" else "created"
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

    def hook_state(self, status: "Status", pid: "int | None" = None) -> bytes:
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
        """Make a container that waits for start. Nothing of it is left when this raises. See create.py."""
        from pyrunc.container.create import create

        return create(root, container_id, bundle, options, log)

    def run_hooks(self, kind: "HookKind", status: "Status") -> None:
        """The container's hooks of a kind, in the runtime's own namespaces. Their code is loaded when there are any."""
        if kind in self.record["hooks"]:
            from pyrunc.hook_runner import run_all

            with self.log.step(f"hooks.{kind}"):
                given, state = (self.config.get("hooks") or {}).get(kind) or [], self.hook_state(status)
                run_all(kind, given, state, None, self.record["bundle"], self.directory.note_hook)

    # --- start

    def start(self, notified: bool = True) -> None:
        """Let a created container run its program. Returns once the program runs; raises when it can't.

        Args:
            notified: with a service manager that waits for READY=1, wait for the container to say so.
        """
        self.directory.lock("start")
        proxy = self.notify_proxy() if notified else None
        try:
            self._start()
            self.run_hooks("poststart", "running")
        except StateError:
            raise
        except BaseException as error:
            if isinstance(error, PyruncError) and " hook #" in error.operation:
                self._destroy()
            else:
                self.kill_quietly()  # runtime-spec 1.3: a failed start leaves the container stopped
            raise
        finally:
            self.directory.unlock()
        if proxy is not None:
            proxy.wait(self.pid)

    def _destroy(self) -> None:
        """After a startContainer or poststart hook that failed: runtime.md#lifecycle goes on at its step 12."""
        try:
            self._delete(force=True, bury=False)
        except (PyruncError, OSError) as error:
            self.log.warning(f"destroying container {self.id} after the failure: {reason(error)}")

    def notify_proxy(self) -> "Proxy | None":
        """Who passes the container's READY=1 on, if anybody wants to hear of it."""
        if not self.record["notify"]:
            return None
        from pyrunc.container.notify import Proxy, manager

        return Proxy(self.directory.fd, self.log) if manager() else None

    def _start(self) -> None:
        with self.release() as fifo:
            with self.log.step("start.wait_for_program"):
                self._wait_for_program(fifo)
            self.verify_started()

    def release(self) -> Fd:
        """Let the process that waits go on to its program. Returns the fifo, whose other end it closes when it has got
        there: then, or when it has died, `verify_started` says which. The lock is the caller's to hold."""
        fifo = self.directory.open_fifo() if self.is_alive() else None
        if fifo is None:
            if self.status() == "stopped":
                raise StateError("cannot start a container that has stopped", self.id)
            if self.directory.has_fifo():  # the first `start` would have taken it away
                raise StateError("cannot start container", self.id, "its process died waiting")
            raise StateError("cannot start an already running container", self.id)
        if self.cgroup.is_frozen():
            raise StateError("cannot start a container in the paused state", self.id, "", "resume it first")
        if not self.config.get("process"):
            # runtime.md#start asks for an error here, runtime-tools and crun for a container that stops at once.
            self.log.warning(f"container {self.id}: config.json has no process: there is nothing to run")
        posix.write(fifo.number, GO)
        return fifo

    def _wait_for_program(self, fifo: Fd) -> None:
        """Until the other end is closed: by execve, or by the death of a process, which has written why. Raises
        Overdue."""
        from pyrunc.container.patience import LOOK_SECONDS, START_LOOKS, Watch

        try:
            with pidfd_open(self.pid) as pidfd:
                poll = select.poll()
                poll.register(fifo.number, 0)  # POLLERR comes unasked
                poll.register(pidfd.number, select.POLLIN)
                watch = Watch(self.pid, 0 if "startContainer" in self.record["hooks"] else START_LOOKS)
                while not poll.poll(LOOK_SECONDS * 1000):
                    watch.look(f"starting container {self.id}")
        except ProcessLookupError:
            pass  # it was as quick as that

    def verify_started(self) -> None:
        """Whether its program runs. Our end of the fifo keeps what is in it; for reading it is opened only now, as the
        other end's last reader had to be seen to go."""
        with open_at(self.directory.fd, FIFO, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW) as reader:
            try:
                text = posix.read(reader.number, 1 << 16)
            except BlockingIOError:
                text = b""
        unlink_quietly(self.directory.fd, FIFO)
        if text == GO:
            raise StateError("cannot start container", self.id, "its process died waiting")
        if text:
            raise StepError(*text.decode("utf-8", "replace").split("\0"))

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
            if signal != SIGKILL:
                return
        try:
            self._signal_init(signal)
        except NotRunning:
            if not all_processes and self._has_own_processes():
                raise  # else it died with the others
        if signal == SIGKILL:
            self.cgroup.thaw_all()  # a frozen process of v1 dies when it thaws

    def _signal_init(self, signal: int) -> None:
        """By pidfd, and only after its start time was compared: it can't be another process that took the number."""
        try:
            with pidfd_open(self.pid) as pidfd:
                if self.is_alive():
                    pidfd_send_signal(pidfd, signal)
                    return
        except ProcessLookupError:
            pass
        raise NotRunning(self.id)

    def pause(self) -> None:
        """Freeze every process of a running or created container."""
        status = self.status()
        if status not in ("running", "created"):
            raise StateError("cannot pause container", self.id, f"it is {status}", "container not running or created")
        self.cgroup.freeze()

    def resume(self) -> None:
        """Let a paused container go on."""
        status = self.status()
        if status != "paused":
            raise StateError("cannot resume container", self.id, f"container not paused: it is {status}")
        self.cgroup.thaw()

    def kill_quietly(self) -> None:
        try:
            self._signal_init(SIGKILL)
        except NotRunning:
            pass  # that is what was wanted

    def _has_own_processes(self) -> bool:
        """Whether it has a PID namespace of its own making: with its PID 1 everything in it dies."""
        own: bool = self.record["own_pids"]
        return own

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
        if not force:
            directory.lock("delete")
        elif not directory.try_lock("delete"):
            from pyrunc.container import forced

            forced.interrupt(directory, log)
        try:
            record = _record_of(directory, force, log)
            if record is None:
                return directory.remove()  # killed before it had anything but its directory
            Container(directory, record, log)._delete(force)
        finally:
            directory.unlock()

    def _delete(self, force: bool, bury: bool = True) -> None:
        """`bury`: see _kill_and_wait."""
        if "poststop" in self.record["hooks"]:
            self._read_hooks(force)
        status = self.status()
        if status in ("running", "paused") and not force:
            raise StateError(
                "cannot delete container",
                self.id,
                f"that is not stopped: {status}",
                "stop it first, or use delete --force",
            )
        if status != "stopped":
            with self.log.step("delete.kill"):
                self._kill_and_wait(bury)
        if force or (self.pid and not self._has_own_processes()):
            self.cgroup.kill()
        with self.log.step("delete.remove_cgroup"):
            self.cgroup.remove()
        self.remove_rdt_group()
        self._restore_devices()
        self.directory.remove()
        self.directory.unlock()  # who waits for it need not wait for hooks to learn that there is no container
        self.poststop()

    def _read_hooks(self, force: bool) -> None:
        """While they are there. By force a container is deleted without those that can't be read."""
        if not force:
            _ = self.config
            return
        from pyrunc.spec import load

        try:
            self.known_config = self.known_config or load.config(self.directory.fd.number)
        except PyruncError as error:
            self.log.warning(f"container {self.id}: its poststop hooks are not run: {error}")
            self.record["hooks"] = []

    def remove_rdt_group(self) -> None:
        group = self.rdt_group()
        if group is not None:
            group.remove()

    def _restore_devices(self) -> None:
        """Physical network devices, which the kernel gives back when the last process of the container is dead."""
        if self.record.get("netDevices"):
            from pyrunc.container import net_devices

            net_devices.restore(self.record["netDevices"], self.log)

    def poststop(self) -> None:
        """After all else is gone; a hook that fails is a warning (config.md#poststop)."""
        if "poststop" not in self.record["hooks"]:
            return
        from pyrunc.hook_runner import run_all

        for hook in (self.config.get("hooks") or {}).get("poststop") or []:
            try:
                with self.log.step("hooks.poststop"):
                    run_all("poststop", [hook], self.hook_state("stopped", 0), None, self.record["bundle"])
            except PyruncError as error:
                self.log.warning(str(error))

    def _kill_and_wait(self, bury: bool) -> None:
        """`bury`: where we are its parent nobody else does; but who made it and waits for it is to hear of its end."""
        from pyrunc.container.patience import DEATH_LOOKS, DEATH_SECONDS

        try:
            with pidfd_open(self.pid) as pidfd:
                self.kill(SIGKILL)
                for _ in range(DEATH_LOOKS):
                    if has_ended(pidfd, DEATH_SECONDS / DEATH_LOOKS):
                        break
                    self.cgroup.thaw_all()  # `pause` asks for no lock: it may have come after
                else:
                    raise PyruncError("killing container", self.id, f"it is still alive after {DEATH_SECONDS:.0f} s")
                if bury:
                    reap(pidfd)
        except (ProcessLookupError, NotRunning, ChildProcessError):
            pass  # it was quicker, or is not ours


def _incomplete(container_id: str) -> StateError:
    cause = "container does not exist: it was never fully created"
    return StateError("container", f'"{container_id}"', cause, "remove what is left of it with delete --force")


def _record_of(directory: StateDirectory, force: bool, log: "Log | None") -> "dict[str, Any] | None":
    """state.json; by force, when nobody can read that, what can be told without. None: nothing was made but the
    directory."""
    try:
        record = directory.load_record()
    except PyruncError:
        if not force:
            raise
        record = {}
    if record is None:
        if directory.noted_cgroup() is None:
            return None
        if not force:
            raise _incomplete(directory.id)
        record = {}
    if record.get("pid") or not force:
        return record
    from pyrunc.container import forced

    record = record or forced.record(directory, log)
    forced.disown_what_is_anothers(directory, record)
    return record


def exit_code(status: int) -> int:
    """A status of waitpid(2) as a shell shows it."""
    return 128 + posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else posix.WEXITSTATUS(status)

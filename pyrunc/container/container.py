"""A container: its life from create to delete. runtime.md#lifecycle"""

import posix
import select
from _signal import SIGKILL

from pyrunc.container.recorded import Recorded, incomplete
from pyrunc.container.state import FIFO, StateDirectory, StateRoot
from pyrunc.errors import CalledOff, NotRunning, PyruncError, StateError, StepError, reason, unpacked
from pyrunc.linux.fd import Fd, open_at, unlink_quietly
from pyrunc.linux.pid import has_ended, pidfd_open, reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.container.checkpoint.options import CheckpointOptions, RestoreOptions
    from pyrunc.container.notify import Proxy
    from pyrunc.container.options import Options
    from pyrunc.log import Log
    from pyrunc.spec.types import Config

GO = b"0"


class Container(Recorded):
    """One container, and what can be done with it."""

    __slots__ = ()

    # --- create

    @classmethod
    def create(
        cls,
        root: StateRoot,
        container_id: str,
        bundle: str,
        options: "Options | None" = None,
        log: "Log | None" = None,
        config: "Config | None" = None,
    ) -> "Container":
        """Make a container that waits for start. Nothing of it is left when this raises. See create.py."""
        from pyrunc.container.create import create

        made = create(root, container_id, bundle, options, log, config)
        container = cls(made.directory, made.record, made.log)
        container.known_config = made.known_config
        return container

    @classmethod
    def restore(
        cls,
        root: StateRoot,
        container_id: str,
        bundle: str,
        restoring: "RestoreOptions",
        options: "Options | None" = None,
        log: "Log | None" = None,
    ) -> "Container":
        """Make a container of a checkpoint; it runs. Nothing of it is left when this raises. See checkpoint/restore.py.

        Args:
            options: as of `create`.
        """
        from pyrunc.container.checkpoint.restore import restore

        made = restore(root, container_id, bundle, restoring, options, log)
        container = cls(made.directory, made.record, made.log)
        container.known_config = made.known_config
        return container

    # --- start

    def start(self, notified: bool = True) -> None:
        """Let a created container run its program. Returns once the program runs; raises when it can't.

        Args:
            notified: with a service manager that waits for READY=1, wait for the container to say so.
        """
        self.directory.lock("start")
        try:
            proxy = self.notify_proxy() if notified else None
            self._start()
            self.run_hooks("poststart", "running")
        except StateError:
            raise
        except BaseException as error:
            if isinstance(error, PyruncError | CalledOff) and " hook #" in error.args[0]:
                self._destroy()
            else:
                self.kill_quietly()  # runtime-spec 1.3: a failed start leaves the container stopped
            raise
        finally:
            self.directory.unlock()
        if proxy is not None:
            proxy.wait(self.pid)

    def _destroy(self, after: str = "the failure") -> None:
        """After a startContainer or poststart hook has failed: runtime.md#lifecycle goes on at its step 12. And after a
        checkpoint. What can't be removed is left for `delete --force`, and a warning says so.
        """
        try:
            self._delete(force=True, bury=False)
        except (PyruncError, OSError) as error:
            self.log.warning(f"destroying container {self.id} after {after}: {reason(error)}")

    def notify_proxy(self) -> "Proxy | None":
        """The proxy that passes the container's READY=1 on to the service manager. None: there is no manager that
        listens.
        """
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
        """Let the process that waits go on to its program.

        Returns the fifo. The process closes the other end when its program runs, or when it dies; `verify_started`
        tells which. The caller holds the lock.
        """
        fifo = self.directory.open_fifo() if self.is_alive() else None
        if fifo is None:
            if self.status() == "stopped":
                raise StateError("cannot start a container that has stopped", self.id)
            if self.directory.has_fifo():  # `start` would have removed it
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
        """Wait until the other end of the fifo is closed: by execve, or by the death of the process, which has then
        written the reason into it. Raises Overdue.
        """
        from pyrunc.container.patience import LOOK_SECONDS, START_LOOKS, Patience

        try:
            with pidfd_open(self.pid) as pidfd:
                poll = select.poll()
                poll.register(fifo.number, 0)  # POLLERR comes unasked
                poll.register(pidfd.number, select.POLLIN)
                watch = Patience(self.pid, 0 if "startContainer" in self.record["hooks"] else START_LOOKS)
                while not poll.poll(LOOK_SECONDS * 1000):
                    watch.look(f"starting container {self.id}")
        except ProcessLookupError:
            pass  # its program has ended already

    def verify_started(self) -> None:
        """Raise StepError unless its program runs.

        Our end keeps what is in the fifo. It is opened for reading only now: a reader of ours would have hidden that
        the other end was closed.
        """
        with open_at(self.directory.fd, FIFO, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW) as reader:
            try:
                text = posix.read(reader.number, 1 << 16)
            except BlockingIOError:
                text = b""
        unlink_quietly(self.directory.fd, FIFO)
        if text == GO:
            raise StateError("cannot start container", self.id, "its process died waiting")
        if text:
            raise StepError(*unpacked(text.decode("utf-8", "replace")))

    # --- kill

    def kill(self, signal: int, all_processes: bool = False) -> None:
        """Send a signal to the container's first process. runtime.md#kill

        A container in a process namespace of others has no PID 1 whose death ends the rest. So SIGKILL is sent to all
        its processes.
        """
        if not self.is_alive():
            self._leave_what_is_anothers()
            if signal == SIGKILL and not self._has_own_processes() and self.cgroup.processes():
                return self.cgroup.kill()
            if all_processes:
                return self.cgroup.kill(signal)
            raise NotRunning(self.id)
        if all_processes and signal == SIGKILL and self._has_own_processes():
            self._kill_first()  # before we look for all the others, nobody is left who makes more of them
        if all_processes or (signal == SIGKILL and not self._has_own_processes()):
            self.cgroup.kill(signal)
            if signal != SIGKILL:
                return
        try:
            self.signal(signal)
        except NotRunning:
            if not all_processes and self._has_own_processes():
                raise  # else it has died with the others
        if signal == SIGKILL:
            self.cgroup.thaw_all()  # a frozen process of v1 dies when it thaws

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

    def _kill_first(self) -> None:
        try:
            self.signal(SIGKILL)
        except NotRunning:
            pass

    def _leave_what_is_anothers(self) -> None:
        """When it has ended: what is in its cgroup may be another container, made in the same place since."""
        if self.cgroup.processes():
            from pyrunc.container import forced

            forced.disown_what_is_anothers(self.directory, self.record)

    def _has_own_processes(self) -> bool:
        """Whether it has a PID namespace of its own. With PID 1 everything in such a namespace dies."""
        own: bool = self.record["own_pids"]
        return own

    def wait(self) -> int:
        """The exit status of its first process, for the process that created it: 0..255, or 128 + signal."""
        return exit_code(posix.waitpid(self.pid, 0)[1])

    # --- checkpoint

    def checkpoint(self, options: "CheckpointOptions") -> None:
        """Write a running container to files. Unless it is to run on, it is deleted then. See checkpoint/dump.py."""
        from pyrunc.container.checkpoint.dump import dump

        self.directory.lock("checkpoint")
        try:
            dump(self, options)
            if not (options.leave_running or options.pre_dump):
                self._destroy("its checkpoint")
        finally:
            self.directory.unlock()

    # --- delete

    @staticmethod
    def delete(root: StateRoot, container_id: str, force: bool = False, log: "Log | None" = None) -> None:
        """Remove a stopped or created container. By force: any container, and whatever a killed `create` has left.

        Raises NoSuchContainer, but not by force, and StateError when the container runs.
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

    def delete_at_once(self, log: "Log") -> bool:
        """Delete a stopped one, if that waits for nobody. Whether that was done; else `delete` does what is left.

        Somebody may be waited for: systemd, hooks, resctrl, network devices, another verb, a process that has not gone
        yet. A container may have made so many cgroups in its own that it takes long to remove them.
        """
        record = self.record
        if "poststop" in record["hooks"] or not record["own_pids"]:
            return False
        if record.get("rdt") or record.get("netDevices") or not self.directory.try_lock("delete"):
            return False
        try:
            if self.status() != "stopped":
                return False
            with log.step("delete.remove_cgroup"):
                if not self.cgroup.remove_at_once():
                    return False
            self.directory.remove()
            return True
        finally:
            self.directory.unlock()

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
        if status == "stopped":
            self._leave_what_is_anothers()
        else:
            with self.log.step("delete.kill"):
                self._kill_and_wait(bury)
        if force or (self.pid and not self._has_own_processes()):
            self.cgroup.kill()
        with self.log.step("delete.remove_cgroup"):
            self.cgroup.remove()
        self.remove_rdt_group()
        self._restore_devices()
        self.directory.remove()
        self.directory.unlock()  # others who wait for the lock need not wait for hooks too
        self.poststop()

    def _read_hooks(self, force: bool) -> None:
        """While their file is there. By force a container is deleted without hooks that can't be read."""
        if not force:
            _ = self.config
            return
        from pyrunc.spec import load

        try:
            self.known_config = self.known_config or load.config(self.directory.fd.number)
        except PyruncError as error:
            self.log.warning(f"container {self.id}: its poststop hooks are not run: {error}")
            self.record["hooks"] = []

    def _restore_devices(self) -> None:
        """The physical network devices. The kernel has given them back when the container's last process died."""
        if self.record.get("netDevices"):
            from pyrunc.container import net_devices

            net_devices.restore(self.record["netDevices"], self.log)

    def _kill_and_wait(self, bury: bool) -> None:
        """`bury`: wait for the process as its parent, since nobody else does. Not where somebody who made it waits
        for its end.
        """
        from pyrunc.container.patience import DEATH_LOOKS, DEATH_SECONDS

        try:
            with pidfd_open(self.pid) as pidfd:
                self.kill(SIGKILL)
                for _ in range(DEATH_LOOKS):
                    if has_ended(pidfd, DEATH_SECONDS / DEATH_LOOKS):
                        break
                    self.cgroup.thaw_all()  # `pause` takes no lock: it may have frozen it after the kill
                else:
                    raise PyruncError("killing container", self.id, f"it is still alive after {DEATH_SECONDS:.0f} s")
                if bury:
                    reap(pidfd)
        except (ProcessLookupError, NotRunning, ChildProcessError):
            pass  # it has ended, or is no child of ours


def _record_of(directory: StateDirectory, force: bool, log: "Log | None") -> "dict[str, Any] | None":
    """state.json. With force, if that can't be read, what can be told without it. None: only the directory was
    made.
    """
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
            raise incomplete(directory.id)
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

"""A container as it is on record: what it is, how it does, and the hooks that it has. runtime.md#state"""

from _signal import SIGKILL

from pyrunc import cgroups
from pyrunc.container.state import CONFIG, EXIT, StateDirectory, StateRoot
from pyrunc.errors import NoSuchContainer, NotRunning, PyruncError, StateError
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal, start_time
from pyrunc.log import Log
from pyrunc.spec.jsonc import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Self

    from pyrunc.cgroups.cgroup import Cgroup
    from pyrunc.cgroups.rdt import Group
    from pyrunc.linux.fd import Fd
    from pyrunc.spec.types import Config, State, Status

    HookKind = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


class Recorded:
    """One container, as its state directory has it. What can be done with it is in container.Container.

    Attributes:
        record: state.json: id, pid, start (the pid's start time), bundle, rootfs, created, annotations, …
    """

    __slots__ = ("directory", "known_config", "log", "record")

    def __init__(self, directory: StateDirectory, record: "dict[str, Any]", log: "Log | None" = None) -> None:
        self.directory = directory
        self.record = record
        self.log = log or Log()
        self.known_config: Config | None = None

    @classmethod
    def load(cls, root: StateRoot, container_id: str, log: "Log | None" = None) -> "Self":
        """Raises NoSuchContainer."""
        directory = StateDirectory.open(root, container_id)
        record = directory.load_record()
        if record is None:
            if directory.is_locked() or directory.is_gone:
                raise NoSuchContainer(container_id)  # not yet, or not any more
            raise incomplete(container_id)
        return cls(directory, record, log)

    @property
    def id(self) -> str:
        return self.directory.id

    @property
    def pid(self) -> int:
        pid: int = self.record["pid"]
        return pid

    @property
    def config(self) -> "Config":
        """The configuration that it was created with. The bundle may have another one by now."""
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
    def cgroup(self) -> "Cgroup":
        return cgroups.load(self.record["cgroup"])

    def rdt_group(self) -> "Group | None":
        """Its class of service (config-linux.md#intelrdt). The code for it is loaded only for containers that have
        one.
        """
        if not self.record.get("rdt"):
            return None
        from pyrunc.cgroups import rdt

        return rdt.load(self.record["rdt"])

    def is_alive(self) -> bool:
        """Whether its first process runs. Its pid alone does not tell: another process may have it by now."""
        try:
            return bool(self.pid) and start_time(self.pid) == self.record["start"]
        except ProcessLookupError:
            return False

    def status(self) -> str:
        """creating, created, running, paused or stopped. runtime.md#state

        It is not stored, but derived each time: from the freezer, the process, who waits at the fifo, and who has the
        lock.
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
            **({"exit": self.exit_record()} if status == "stopped" and self.record.get("exitRecord") else {}),
        }

    def exit_record(self) -> "dict[str, Any] | None":
        """How it ended, where `create` was asked to have that on record: see ended.py."""
        found = self.directory.load(EXIT) if self.record.get("exitRecord") else None
        if found is not None and type(found.get("exitStatus")) is not int:
            raise PyruncError("reading", f"{self.directory.path}/{EXIT}", "it has no proper member exitStatus")
        return found

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

    def run_hooks(self, kind: "HookKind", status: "Status") -> None:
        """Run the container's hooks of a kind, in the runtime's own namespaces. Their code is loaded only if there
        are any.
        """
        if kind in self.record["hooks"]:
            from pyrunc.hook_runner import run_all

            with self.log.step(f"hooks.{kind}"):
                given, state = (self.config.get("hooks") or {}).get(kind) or [], self.hook_state(status)
                note = self.directory.note_hook
                run_all(kind, given, state, None, self.record["bundle"], note, outputs=self.hook_outputs())

    def hook_outputs(self) -> "tuple[Fd | None, Fd | None]":
        """Where crun's annotations say that hooks' output goes."""
        if not {"run.oci.hooks.stdout", "run.oci.hooks.stderr"} & {*self.record["annotations"]}:
            return None, None
        from pyrunc.container import annotations

        return annotations.hook_outputs(self.record["annotations"], self.record["bundle"])

    def poststop(self) -> None:
        """Run the poststop hooks, after all else is gone. A hook that fails is a warning (config.md#poststop)."""
        if "poststop" not in self.record["hooks"]:
            return
        from pyrunc.hook_runner import run_all

        for hook in (self.config.get("hooks") or {}).get("poststop") or []:
            try:
                with self.log.step("hooks.poststop"):
                    state, outputs = self.hook_state("stopped", 0), self.hook_outputs()
                    run_all("poststop", [hook], state, None, self.record["bundle"], outputs=outputs)
            except PyruncError as error:
                self.log.warning(str(error))

    def signal(self, signal: int) -> None:
        """Send a signal by pidfd, after its start time was compared: another process may have taken its number."""
        try:
            with pidfd_open(self.pid) as pidfd:
                if self.is_alive():
                    pidfd_send_signal(pidfd, signal)
                    return
        except ProcessLookupError:
            pass
        raise NotRunning(self.id)

    def kill_quietly(self) -> None:
        try:
            self.signal(SIGKILL)
        except NotRunning:
            pass  # it is dead, as it should be

    def remove_rdt_group(self) -> None:
        group = self.rdt_group()
        if group is not None:
            group.remove()


def incomplete(container_id: str) -> StateError:
    cause = "container does not exist: it was never fully created"
    return StateError("container", f'"{container_id}"', cause, "remove what is left of it with delete --force")

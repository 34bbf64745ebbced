"""What a container is, on disk: ROOT/ID/ with state.json, config.json and, until start, exec.fifo."""

import fcntl
import posix
import select
import time

from pyrunc.errors import NoSuchContainer, PyruncError, StateError, UsageError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, replace_file, unlink_quietly
from pyrunc.spec.jsonc import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."
ID_LENGTH = 1024
STATE = "state.json"
CONFIG = "config.json"
FIFO = "exec.fifo"
NOTIFY = "notify"
RECORD = {"pid": int, "start": int, "hooks": list, "own_pids": bool, "cgroup": dict, "creator": list}
DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY


def is_root_of_host() -> bool:
    """Whether we are root, and not only of a user namespace, as under rootless Podman."""
    return posix.geteuid() == 0 and read_file("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]


class StateRoot:
    """The folder of all containers: `--root`. Private to its owner, as all it holds is."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def default(cls) -> "StateRoot":
        """/run/pyrunc, or for another user than the host's root $XDG_RUNTIME_DIR/pyrunc."""
        runtime = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
        return cls(f"{runtime}/pyrunc" if runtime and not is_root_of_host() else "/run/pyrunc")

    def open(self, make: bool = False) -> Fd:
        if make and not posix.access(self.path, posix.F_OK):
            _make_directories(self.path)
        return open_at(None, self.path, DIRECTORY)

    def ids(self) -> "list[str]":
        """Every container's ID, in order. Raises FileNotFoundError where there is no such root."""
        with posix.scandir(self.path) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and ":" not in e.name)


def _make_directories(path: str) -> None:
    parent = path.rpartition("/")[0]
    if parent and not posix.access(parent, posix.F_OK):
        _make_directories(parent)
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    if not is_root_of_host():
        posix.chmod(path, 0o1700)  # the sticky bit keeps clean-up of $XDG_RUNTIME_DIR away (XDG Base Directory)


def validate_id(container_id: str) -> None:
    """runc's grammar: letters, digits and _ + - ., neither . nor .. ; it becomes the name of a directory."""
    if container_id in ("", ".", "..") or any(character not in ID_CHARACTERS for character in container_id):
        raise UsageError(
            "container ID", f'"{container_id}"', "invalid container ID format", "letters, digits and _ + - ."
        )
    if len(container_id) > ID_LENGTH:
        raise UsageError("container ID", "", f"is longer than {ID_LENGTH} characters")


class StateDirectory:
    """One container's folder, open and, where something is changed, locked."""

    __slots__ = ("fd", "id", "root")

    def __init__(self, root: StateRoot, container_id: str, fd: Fd) -> None:
        self.root = root
        self.id = container_id
        self.fd = fd

    @property
    def path(self) -> str:
        return f"{self.root.path}/{self.id}"

    @classmethod
    def make(cls, root: StateRoot, container_id: str) -> "StateDirectory":
        """A new one, locked. mkdir(2) is what decides between two that take the same ID."""
        validate_id(container_id)
        with root.open(make=True) as top:
            try:
                posix.mkdir(container_id, 0o700, dir_fd=top.number)
            except FileExistsError:
                raise StateError("container with given ID already exists", container_id) from None
            try:
                made = cls(root, container_id, open_at(top, container_id, DIRECTORY))
                fcntl.flock(made.fd.number, fcntl.LOCK_EX)
            except BaseException:
                posix.rmdir(container_id, dir_fd=top.number)
                raise
        return made

    @classmethod
    def open(cls, root: StateRoot, container_id: str) -> "StateDirectory":
        validate_id(container_id)
        try:
            with root.open() as top:
                return cls(root, container_id, open_at(top, container_id, DIRECTORY | posix.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchContainer(container_id) from None
        except OSError as error:
            raise PyruncError("opening state of container", container_id, reason(error)) from error

    def lock(self, seconds: "float | None" = None) -> bool:
        """Wait, for ever or for some time, until no other verb changes the container. Whether it is ours now.

        flock(2) on the directory: it needs no file, and the kernel lets go when its holder dies.
        """
        if seconds is None:
            fcntl.flock(self.fd.number, fcntl.LOCK_EX)
            self._still_there()
            return True
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self.fd.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._still_there()
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            select.select([], [], [], 0.01)

    def unlock(self) -> None:
        fcntl.flock(self.fd.number, fcntl.LOCK_UN)

    def _still_there(self) -> None:
        """Who waited for the lock may find that the container was deleted meanwhile."""
        if posix.fstat(self.fd.number).st_nlink == 0:
            raise NoSuchContainer(self.id)

    def save(self, record: "dict[str, Any]") -> None:
        replace_file(self.fd, STATE, dumps(record).encode("utf-8", "surrogateescape"))

    def save_config(self, config: object) -> None:
        replace_file(self.fd, CONFIG, dumps(config).encode("utf-8", "surrogateescape"))

    def load(self, name: str = STATE) -> "dict[str, Any] | None":
        """None: `create` was killed before it wrote one."""
        try:
            data = read_file(name, self.fd)
        except FileNotFoundError:
            return None
        try:
            document: Any = loads(data.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise PyruncError("reading", f"{self.path}/{name}", reason(error)) from error
        if not isinstance(document, dict):
            raise PyruncError("reading", f"{self.path}/{name}", "is no JSON object")
        return document

    def load_record(self) -> "dict[str, Any] | None":
        """state.json, when it is one of ours; None: there is none."""
        record = self.load()
        if record is not None:
            for member, kind in RECORD.items():
                if not isinstance(record.get(member), kind):
                    raise PyruncError("reading", f"{self.path}/{STATE}", f"it has no proper member {member}")
        return record

    def make_fifo(self) -> Fd:
        """The fifo of start, open for both directions: see init.execute.wait_for_start."""
        posix.mkfifo(FIFO, 0o600, dir_fd=self.fd.number)
        return open_at(self.fd, FIFO, posix.O_RDWR | posix.O_NOFOLLOW)

    def open_fifo(self) -> "Fd | None":
        """The end that `start` writes to; None when nobody waits at the other."""
        try:
            return open_at(self.fd, FIFO, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (2, 6):  # ENOENT, ENXIO
                return None
            raise

    def has_fifo(self) -> bool:
        """Whether nothing has started it yet."""
        return FIFO in posix.listdir(self.fd.number)

    def remove(self) -> None:
        """All of it. Only what this runtime puts there, and nothing by recursion: it holds no folders but notify."""
        for name in posix.listdir(self.fd.number):
            try:
                unlink_quietly(self.fd, name)
            except (IsADirectoryError, PermissionError):
                with open_at(self.fd, name, DIRECTORY | posix.O_NOFOLLOW) as folder:
                    for inner in posix.listdir(folder.number):
                        unlink_quietly(folder, inner)
                posix.rmdir(name, dir_fd=self.fd.number)
        try:
            posix.rmdir(self.path)
        except FileNotFoundError:
            pass

"""What a container is, on disk: ROOT/ID/ with state.json, config.json and, until start, exec.fifo."""

import errno
import fcntl
import posix
import select
import time
from _stat import S_ISFIFO

from pyrunc.errors import NoSuchContainer, PyruncError, StateError, UsageError, reason
from pyrunc.linux.fd import Fd, make_directories, open_at, read_all, read_file, replace_file, unlink_quietly
from pyrunc.linux.pid import start_time
from pyrunc.spec.jsonc import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."
ID_LENGTH = 1024
STATE = "state.json"
DEFAULT_ROOT = "/run/pyrunc"
CONFIG = "config.json"
FIFO = "exec.fifo"
EXIT = "exit.json"
NOTIFY = "notify"
HOLDER = "holder"
HOOK = "hook"
CGROUP = "cgroup"
TEXTS = {"": str}  # any members, all of that type
PLACE = {"paths": TEXTS, "unified": bool, "mounts": TEXTS}
UNIT = {"name": str, "slice": str, "user": bool, "subgroup": str}
RECORD = {
    "ociVersion": str, "id": str, "pid": int, "start": int, "bundle": str, "rootfs": str, "created": str,
    "annotations": TEXTS, "owner": str, "uid": int, "hooks": list, "notify": bool, "own_pids": bool,
    "cgroup": PLACE,
}  # fmt: skip
NO_FIFO = (errno.ENOENT, errno.ENXIO, errno.EISDIR, errno.ELOOP)  # the last two: it is no fifo any more
DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY
DOCUMENT = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK  # a fifo in its place must not hold us
TEMPORARY = tuple(f".{name}." for name in (STATE, CONFIG, EXIT))
OURS = (STATE, CONFIG, FIFO, EXIT, NOTIFY, HOLDER, HOOK, CGROUP)


# Whether this process lives for one verb: `delete --force` may end such a one to get its lock, and no other. The
# command line says so of itself; a program that uses the library is never ended.
lives_for_one_verb = False
_ourselves = 0, 0  # our pid and start time
_locked: "set[int]" = set()  # descriptors by which we hold locks, or may


class Holder:
    """Who holds a container's lock, by their own record.

    Attributes:
        verb: what the process is doing.
        may_be_ended: whether the process does nothing else.
    """

    __slots__ = ("may_be_ended", "pid", "start", "verb")

    def __init__(self, pid: int, start: int, verb: str, may_be_ended: bool) -> None:
        self.pid = pid
        self.start = start
        self.verb = verb
        self.may_be_ended = may_be_ended


def release_locks() -> None:
    """Release all that we hold. For who was interrupted by a signal: that may come between taking a lock and the `try`
    that releases it, or in the release itself.
    """
    for number in _locked:
        _release(number)
    _locked.clear()


def _release(number: int) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_UN)
    except (OSError, ValueError):
        pass  # it is closed


def is_root_of_host() -> bool:
    """Whether we are root of the host, and not only of a user namespace, as under rootless Podman."""
    return posix.geteuid() == 0 and read_file("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]


class StateRoot:
    """The folder of all containers: `--root`. Only its owner may read it."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def default(cls) -> "StateRoot":
        """/run/pyrunc. For others than the host's root: $XDG_RUNTIME_DIR/pyrunc."""
        runtime = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
        return cls(f"{runtime}/pyrunc" if runtime and not is_root_of_host() else DEFAULT_ROOT)

    def open(self, make: bool = False) -> Fd:
        if make and not posix.access(self.path, posix.F_OK):
            for made in make_directories(self.path, 0o700):
                if not is_root_of_host():  # the sticky bit keeps clean-up of $XDG_RUNTIME_DIR away (XDG Base Directory)
                    posix.chmod(made, 0o1700)
        return open_at(None, self.path, DIRECTORY)

    def ids(self) -> "list[str]":
        """Every container's ID, in order. Raises FileNotFoundError where there is no such root."""
        with posix.scandir(self.path) as entries:
            return sorted(e.name for e in entries if is_id(e.name) and e.is_dir(follow_symlinks=False))


def is_id(text: str) -> bool:
    """runc's grammar: letters, digits and _ + - . , but neither . nor .. : the ID becomes the name of a directory."""
    return text not in ("", ".", "..") and not text.strip(ID_CHARACTERS)


def validate_id(container_id: str) -> None:
    if not is_id(container_id):
        raise UsageError(
            "container ID", f'"{container_id}"', "invalid container ID format", "letters, digits and _ + - ."
        )
    if len(container_id) > ID_LENGTH:
        raise UsageError("container ID", "", f"is longer than {ID_LENGTH} characters")


class StateDirectory:
    """One container's folder. It is open, and locked while something is changed."""

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
        """A new one, locked. If two take the same ID at once, mkdir(2) decides."""
        validate_id(container_id)
        with root.open(make=True) as top:
            try:
                posix.mkdir(container_id, 0o700, dir_fd=top.number)
            except FileExistsError:
                raise StateError("container with given ID already exists", container_id) from None
            made = None
            try:
                made = cls(root, container_id, open_at(top, container_id, DIRECTORY))
                _locked.add(made.fd.number)
                fcntl.flock(made.fd.number, fcntl.LOCK_EX)
                made._sign("create")
            except BaseException:
                if made is not None:
                    made.unlock()
                posix.rmdir(container_id, dir_fd=top.number)
                raise
        return made

    @classmethod
    def open(cls, root: StateRoot, container_id: str) -> "StateDirectory":
        validate_id(container_id)
        try:
            with root.open() as top:
                fd = open_at(top, container_id, DIRECTORY | posix.O_NOFOLLOW)
                owner = posix.fstat(fd.number).st_uid
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchContainer(container_id) from None
        except OSError as error:
            raise PyruncError("opening state of container", container_id, reason(error)) from error
        if owner != posix.geteuid():  # what he wrote there says what is signalled, frozen, joined and removed
            cause = f"it is that of user {owner}, who could have done by it what he may not do"
            raise PyruncError("opening state of container", container_id, cause, "do it as that user")
        return cls(root, container_id, fd)

    def lock(self, verb: str) -> None:
        """Wait until no other verb changes the container. Raises StateError when that takes too long."""
        if self.try_lock(verb):
            return
        from pyrunc.container.patience import LOCK_SECONDS

        if not self.try_lock(verb, LOCK_SECONDS):
            raise StateError("container", f'"{self.id}"', self.why_locked(), "or is a hook of it hanging?")

    def try_lock(self, verb: str, seconds: float = 0.0) -> bool:
        """Take the lock within some time. Returns whether it is ours.

        By flock(2) on the directory: it needs no file, and the kernel releases it when its holder dies.
        """
        deadline = 0.0
        _locked.add(self.fd.number)  # before: a signal may interrupt us between the two
        while True:
            try:
                fcntl.flock(self.fd.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + seconds
                if now >= deadline:
                    _locked.discard(self.fd.number)
                    return False
                select.select([], [], [], 0.01)
                continue
            self._still_there()
            self._sign(verb)
            return True

    def is_locked(self) -> bool:
        """Whether somebody else is changing the container. The lock itself is asked: delete removes its note early."""
        try:
            fcntl.flock(self.fd.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd.number, fcntl.LOCK_UN)
        return False

    def unlock(self) -> None:
        """It never fails: what was done under the lock is done, and the end of the process releases it too."""
        try:
            for name in (HOLDER, HOOK):
                unlink_quietly(self.fd, name)
        except OSError:
            pass  # of one who does not hold the lock any more nobody believes it
        _release(self.fd.number)
        _locked.discard(self.fd.number)

    def _sign(self, verb: str) -> None:
        global _ourselves
        if _ourselves[0] != posix.getpid():  # for a program that lives longer than a verb
            _ourselves = posix.getpid(), start_time(posix.getpid())
        pid, start = _ourselves
        self._note(HOLDER, f"{pid} {start} {verb} {int(lives_for_one_verb)}")

    def note_hook(self, pid: int) -> None:
        """Note the hook that the holder of the lock, which is us, waits for from now on."""
        try:
            self._note(HOOK, f"{pid} {start_time(pid)}")
        except ProcessLookupError:
            pass  # it was quick

    def _note(self, name: str, text: str) -> None:
        """A symlink, as Emacs uses them. It is made and read in one system call: it is there as a whole or not at
        all. On a full disk there is none, since `delete` must work there.
        """
        try:
            unlink_quietly(self.fd, name)  # of one who was killed
            posix.symlink(text, name, dir_fd=self.fd.number)
        except OSError:
            pass

    def holder(self) -> "Holder | None":
        """The process that holds the lock. None: nobody has signed who still lives."""
        words = self._read_note(HOLDER).split(" ")
        if len(words) != 4 or not _lives(words):
            return None
        return Holder(int(words[0]), int(words[1]), words[2], words[3] == "1")

    def hook(self) -> "tuple[int, int] | None":
        """The pid of the hook that the holder waits for, and its start time."""
        words = self._read_note(HOOK).split(" ")
        return (int(words[0]), int(words[1])) if len(words) == 2 and _lives(words) else None

    def note_cgroup(self, cgroup: "dict[str, Any]") -> None:
        """Noted beside the record, which may be damaged: without it nobody knows which processes are the
        container's.
        """
        self._note(CGROUP, dumps(cgroup))

    def noted_cgroup(self) -> "dict[str, Any] | None":
        try:
            cgroup: Any = loads(self._read_note(CGROUP))
        except ValueError:
            return None
        return None if _mistake(cgroup, PLACE) or _mistake_of_place(cgroup) else cgroup

    def _read_note(self, name: str) -> str:
        try:
            return posix.readlink(name, dir_fd=self.fd.number)
        except OSError:
            return ""

    def why_locked(self) -> str:
        holder = self.holder()
        if holder is None:
            return "another program holds its lock"
        return f"another command is at work on it: {holder.verb}, process {holder.pid}"

    @property
    def is_gone(self) -> bool:
        return posix.fstat(self.fd.number).st_nlink == 0

    def _still_there(self) -> None:
        """Whoever has waited for the lock may find that the container was deleted meanwhile. Raises
        NoSuchContainer.
        """
        if self.is_gone:
            raise NoSuchContainer(self.id)

    def save(self, record: "dict[str, Any]") -> None:
        replace_file(self.fd, STATE, dumps(record).encode("utf-8", "surrogateescape"))

    def save_config(self, config: object) -> None:
        replace_file(self.fd, CONFIG, dumps(config).encode("utf-8", "surrogateescape"))

    def load(self, name: str = STATE) -> "dict[str, Any] | None":
        """One of its documents. None: `create` was killed before it wrote that."""
        try:
            with open_at(self.fd, name, DOCUMENT) as file:
                document: Any = loads(read_all(file).decode("utf-8", "surrogateescape"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
            raise PyruncError("reading", f"{self.path}/{name}", cause) from error
        if not isinstance(document, dict):
            raise PyruncError("reading", f"{self.path}/{name}", "is no JSON object")
        return document

    def load_record(self) -> "dict[str, Any] | None":
        """state.json, when it is one of ours; None: there is none."""
        record = self.load()
        if record is not None:
            mistake = _mistake(record, RECORD) or _mistake_of_place(record["cgroup"])
            if mistake:
                raise PyruncError("reading", f"{self.path}/{STATE}", f"it has no proper member {mistake}")
        return record

    def make_fifo(self) -> Fd:
        """The fifo of start, open for both directions: see init.execute.wait_for_start."""
        posix.mkfifo(FIFO, 0o600, dir_fd=self.fd.number)
        return open_at(self.fd, FIFO, posix.O_RDWR | posix.O_NOFOLLOW)

    def open_fifo(self) -> "Fd | None":
        """The end that `start` writes to; None when nobody waits at the other, or when it is no fifo any more."""
        try:
            fifo = open_at(self.fd, FIFO, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW)
        except OSError as error:
            if error.errno in NO_FIFO:
                return None
            raise
        return fifo if S_ISFIFO(posix.fstat(fifo.number).st_mode) else None

    def has_fifo(self) -> bool:
        """Whether nothing has started it yet."""
        return FIFO in posix.listdir(self.fd.number)

    def remove(self) -> None:
        """All of it. The record is the first to go: without it the container is none any more for other verbs."""
        self._refuse_what_is_none()
        try:
            unlink_quietly(self.fd, STATE)
        except (IsADirectoryError, PermissionError):
            pass  # damaged
        _empty(self.fd)
        try:
            posix.rmdir(self.path)
        except FileNotFoundError:
            pass

    def _refuse_what_is_none(self) -> None:
        """A state root that is none, such as /home, has folders, too. What was killed early has left none of its own
        in ours but these, and what replace_file makes.
        """
        names = posix.listdir(self.fd.number)
        if STATE in names or CGROUP in names:
            return
        other = [name for name in names if name not in OURS and not name.startswith(TEMPORARY)]
        if other:
            cause = f"in {self.path} there is {other[0]}, which is none of a container's"
            raise PyruncError("deleting state of container", self.id, cause, "is --root the folder that you mean?")


def _empty(folder: Fd) -> None:
    """Remove what is in it, with folders that this runtime or a damage has put there. What is mounted in it is not
    emptied.
    """
    for name in posix.listdir(folder.number):
        try:
            unlink_quietly(folder, name)
        except (IsADirectoryError, PermissionError):
            with open_at(folder, name, DIRECTORY | posix.O_NOFOLLOW) as inner:
                _empty(inner)
            posix.rmdir(name, dir_fd=folder.number)


def _lives(words: "list[str]") -> bool:
    """Whether the process of a note is still there, by its pid and its start time."""
    if not (words[0].isdecimal() and words[1].isdecimal()):
        return False
    try:
        return start_time(int(words[0])) == int(words[1])
    except ProcessLookupError:
        return False


def _mistake_of_place(cgroup: "dict[str, Any]") -> str:
    """Of its paths, and of what not every cgroup has."""
    for path in cgroup["paths"].values():
        if path[:1] != "/" or "/../" in f"{path}/" or "\0" in path:
            return "cgroup/paths"
    unit = cgroup.get("unit")
    if type(cgroup.get("delegated", "")) is not str:
        return "cgroup/delegated"
    return "" if unit is None else _mistake({"subgroup": "", **unit} if isinstance(unit, dict) else unit, UNIT)


def _mistake(document: object, wanted: "Any") -> str:
    """The path of the first member that has the wrong type; "" when there is none."""
    if not isinstance(wanted, dict):
        return "" if type(document) is wanted else "/"
    if not isinstance(document, dict):
        return "/"
    names = [*document] if wanted is TEXTS else wanted
    for name in names:
        found = _mistake(document.get(name), wanted[""] if wanted is TEXTS else wanted[name])
        if found:
            return name if found == "/" else f"{name}/{found}"
    return ""

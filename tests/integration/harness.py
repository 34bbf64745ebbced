"""The runtime under test, bundles and containers for it: the real binary, as root, on the real kernel.

Output always goes to files. A created container keeps the streams of `create`, so reading a pipe to its end would
wait for the container's.
"""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
APPLETS = [
    "awk",
    "cat",
    "chmod",
    "chown",
    "cut",
    "date",
    "dd",
    "df",
    "domainname",
    "echo",
    "env",
    "false",
    "find",
    "getopt",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "mv",
    "nproc",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sh",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "unshare",
    "wc",
    "xargs",
    "yes",
    "setsid",
]
DEFAULT_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
PROCESS = {
    "terminal",
    "consoleSize",
    "user",
    "env",
    "cwd",
    "args",
    "rlimits",
    "capabilities",
    "apparmorProfile",
    "noNewPrivileges",
    "oomScoreAdj",
    "scheduler",
    "ioPriority",
    "selinuxLabel",
    "execCPUAffinity",
}
TOP = {"ociVersion", "process", "root", "hostname", "domainname", "mounts", "hooks", "annotations", "linux"}
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
MARK = f"pyrunc-test-{os.getpid()}"  # in every container's ID, and so in the name of its cgroup
TIMEOUT = 30


def program() -> str:
    """The binary: $PYRUNC, or the one that is installed beside this Python."""
    found = os.environ.get("PYRUNC") or f"{os.path.dirname(sys.executable)}/pyrunc"
    if not os.access(found, os.X_OK):
        raise FileNotFoundError(
            f"{found} is no program: set PYRUNC, or run the tests with the Python that pyrunc is installed in"
        )
    return found


def is_image(binary: str) -> bool:
    """Whether it is one file with everything in it (pyrunc/image)."""
    return "\nimage: " in subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60).stdout


def namespaces(*kinds: str, **paths: str) -> list[dict[str, str]]:
    return [{"type": kind} for kind in kinds] + [{"type": kind, "path": path} for kind, path in paths.items()]


def full(*names: str) -> dict[str, list[str]]:
    """A set of capabilities that a program really has."""
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def base_config() -> dict[str, Any]:
    """Small, and without what a test would have to know to understand another."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": full(*DEFAULT_CAPABILITIES),
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {"namespaces": namespaces(*NAMESPACES)},
    }


def apply(config: dict[str, Any], changes: dict[str, Any]) -> None:
    """Members by their name alone: those of `process` and `linux` go where they belong. Mounts are added."""
    for name, value in changes.items():
        value = copy.deepcopy(value)
        if name == "mounts":
            config["mounts"] += value
        elif name in TOP:
            config[name] = value
        elif name in PROCESS:
            config["process"][name] = value
        else:
            config["linux"][name] = value


class Result:
    def __init__(self, words: list[str], code: int, out: str, err: str) -> None:
        self.words = words
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"{' '.join(self.words)}: exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Runtime:
    """One binary with a state root of its own: `runtime("state", "web")`."""

    def __init__(self, binary: str, root: Path, scratch: Path) -> None:
        self.binary = binary
        self.root = root
        self.scratch = scratch
        self.count = 0

    def command(self, *words: str | Path) -> list[str]:
        return [self.binary, "--root", str(self.root), *map(str, words)]

    def __call__(self, *words: str | Path, check: bool = True, timeout: float = TIMEOUT, **how: Any) -> Result:
        process = self.spawn(*words, **how)
        result = process.result(process.end(timeout))
        if check:
            assert result.code == 0, repr(result)
        return result

    def spawn(
        self, *words: str | Path, stdin: Any = subprocess.DEVNULL, wrapper: tuple[str, ...] = (), **how: Any
    ) -> "Running":
        """Start it, and leave it running."""
        self.count += 1
        stem = self.scratch / f"{self.count}"
        command = [*wrapper, *self.command(*words)]
        with open(f"{stem}.out", "wb") as out, open(f"{stem}.err", "wb") as err:
            how.setdefault("stdout", out)
            how.setdefault("stderr", err)
            return Running(command, stdin=stdin, start_new_session=True, stem=str(stem), **how)


class Running(subprocess.Popen[bytes]):
    started: ClassVar[list["Running"]] = []

    def __init__(self, command: list[str], stem: str, **how: Any) -> None:
        self.words = command
        self.stem = stem
        super().__init__(command, **how)
        Running.started.append(self)

    @property
    def out(self) -> str:
        return Path(f"{self.stem}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return Path(f"{self.stem}.err").read_text(errors="replace")

    def end(self, seconds: float = TIMEOUT) -> int:
        """Its exit status. Orphans of the container, which became our children, are buried meanwhile: a process
        namespace ends only when all that were in it are."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                super().wait()
                raise AssertionError(f"no end after {seconds} s\n{self.result(-1)!r}")
            time.sleep(pause)
            pause = min(pause * 1.2, 0.02)
            bury_orphans()
        return code

    def result(self, code: int) -> Result:
        return Result(self.words, code, self.out, self.err)


def bury_orphans() -> None:
    """Our children that we did not start."""
    ours = {process.pid for process in Running.started if process.returncode is None}
    for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(word) not in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(word), os.WNOHANG)


class Bundle:
    """A folder with config.json and a root file system of busybox."""

    def __init__(self, path: Path, template: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.config = base_config()
        self.rootfs.mkdir(parents=True)
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "run"):
            (self.rootfs / name).mkdir()
        for name in ("busybox", "probe"):
            os.link(template / name, self.rootfs / "bin" / name)
        for name in APPLETS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        (self.rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        (self.rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")

    def write(self) -> None:
        (self.path / "config.json").write_text(json.dumps(self.config))

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of the image."""
        place = self.rootfs / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        return place


class Container:
    """One container of a runtime. Verbs that fail raise AssertionError with all that was printed."""

    def __init__(self, runtime: Runtime, bundle: Bundle, id: str) -> None:
        self.runtime = runtime
        self.bundle = bundle
        self.id = id
        self.last: Result | None = None

    @property
    def config(self) -> dict[str, Any]:
        return self.bundle.config

    def file(self, path: str, text: str = "", mode: int = 0o644) -> "Container":
        self.bundle.file(path, text, mode)
        return self

    def reachable(self) -> "Container":
        """For users of a user namespace: pytest's folders are private."""
        for folder in self.bundle.path.parents:
            if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 1:
                folder.chmod(folder.stat().st_mode | 0o011)
        return self

    def change(self, **changes: Any) -> "Container":
        apply(self.config, changes)
        return self

    def _prepare(self, command: tuple[str, ...]) -> None:
        if command:
            self.config["process"]["args"] = list(command)
        self.bundle.write()

    # --- run

    def attempt(self, *command: str, flags: tuple[str, ...] = (), **how: Any) -> Result:
        """`run` in the foreground, however it ends."""
        self._prepare(command)
        return self.runtime("run", *flags, "--bundle", self.bundle.path, self.id, check=False, **how)

    def run(self, *command: str, **how: Any) -> str:
        """What the program printed; it ended well."""
        self.last = self.attempt(*command, **how)
        assert self.last.code == 0, repr(self.last)
        return self.last.out.removesuffix("\n")

    def sh(self, script: str, **how: Any) -> str:
        return self.run("sh", "-c", script, **how)

    def refused(self, *command: str, code: int = 1, **how: Any) -> str:
        """`run` fails with one line on standard error, which is returned, and leaves nothing."""
        result = self.attempt(*command, **how)
        assert result.code == code, repr(result)
        lines = [line for line in result.err.splitlines() if "level=warning" not in line]
        assert len(lines) == 1, repr(result)
        assert lines[0].startswith("pyrunc"), repr(result)
        self.assert_gone()
        return lines[0].partition(": ")[2]

    # --- verbs

    def create(self, *command: str, flags: tuple[str, ...] = (), **how: Any) -> Result:
        self._prepare(command)
        return self.runtime("create", *flags, "--bundle", self.bundle.path, self.id, **how)

    def start(self, **how: Any) -> Result:
        return self.runtime("start", self.id, **how)

    def up(self, *command: str, flags: tuple[str, ...] = (), **how: Any) -> "Container":
        """Running, detached; by default it only waits."""
        self._prepare(command or ("sleep", "1000"))
        self.runtime("run", "-d", *flags, "--bundle", self.bundle.path, self.id, **how)
        return self

    def attempt_exec(self, *command: str, flags: tuple[str, ...] = (), **how: Any) -> Result:
        return self.runtime("exec", *flags, self.id, *command, check=False, **how)

    def exec(self, *command: str, **how: Any) -> str:
        result = self.attempt_exec(*command, **how)
        assert result.code == 0, repr(result)
        return result.out.removesuffix("\n")

    def exec_sh(self, script: str, **how: Any) -> str:
        return self.exec("sh", "-c", script, **how)

    def kill(self, *words: str, **how: Any) -> Result:
        return self.runtime("kill", self.id, *words, **how)

    def delete(self, *flags: str, **how: Any) -> Result:
        return self.runtime("delete", *flags, self.id, **how)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.runtime("state", self.id).out)
        return state

    @property
    def status(self) -> str:
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        return int(self.state()["pid"])

    def control_file(self, name: str) -> Path:
        """A file of its cgroup: `cpu.max`."""
        mount = hierarchies()["" if unified() else name.partition(".")[0]]
        (path,) = {path for path in cgroups_of(self.id) if path.startswith(f"{mount}/") and path.endswith(self.id)}
        return Path(path, name)

    def wait_for(self, status: str) -> None:
        wait_until(lambda: self.status == status, f"the container to be {status}")

    # --- what is left of it

    def assert_gone(self) -> None:
        left = self.leftovers()
        assert not left, left

    def leftovers(self) -> list[str]:
        """Its state, cgroups, processes and mounts, if there still are any."""
        found = []
        if os.path.lexists(self.runtime.root / self.id):
            found.append(f"{self.runtime.root / self.id}")
        found += cgroups_of(self.id)
        found += mounts_of(str(self.bundle.path))
        found += processes_of(str(self.bundle.path))
        return found


# --- what is there


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)
        bury_orphans()


def hierarchies() -> dict[str, str]:
    """controller -> mount point; "" is that of v2."""
    found = {}
    for line in host_mounts():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found[""] = before.split()[4]
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, before.split()[4])
    return found


def unified() -> bool:
    """Whether cgroup v2 is all there is."""
    return set(hierarchies()) == {""}


def controllers() -> set[str]:
    """Those that can limit a container here."""
    found = hierarchies()
    return set(Path(found[""], "cgroup.controllers").read_text().split()) if unified() else set(found)


def all_cgroups() -> set[str]:
    found, waiting = set(), [*set(hierarchies().values())]
    while waiting:
        folder = waiting.pop()
        found.add(folder)
        with contextlib.suppress(OSError):  # gone meanwhile, or deeper than a path can be
            waiting += [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    return found


def cgroups_of(name: str) -> list[str]:
    return sorted(path for path in all_cgroups() if name in path)


def host_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()


def mounts_of(text: str) -> list[str]:
    return [line for line in host_mounts() if text in line]


def in_its_file_system(path: str) -> str:
    """As mountinfo names the root of a mount: /tmp/x is /x where /tmp is a file system of its own."""
    mount_point = next(str(parent) for parent in (Path(path), *Path(path).parents) if parent.is_mount())
    return "/" + os.path.relpath(path, mount_point)


def processes_of(bundle: str) -> list[str]:
    """Living processes with a bundle's path in their command line or in the list of their mounts."""
    mounted = in_its_file_system(bundle)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            if stat.rpartition(")")[2].split()[0] in "ZX":
                continue
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if bundle in command or mounted in Path(f"/proc/{entry}/mountinfo").read_text(errors="replace"):
                found.append(f"process {entry}: {command}")
        except (FileNotFoundError, ProcessLookupError, PermissionError, OSError):
            continue
    return found


def inventory(path: Path) -> dict[str, tuple[int, int, int, bytes | str | None]]:
    """Everything in a folder: mode, owner, content."""
    found: dict[str, tuple[int, int, int, bytes | str | None]] = {}
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            place = os.path.join(folder, name)
            status = os.lstat(place)
            content: bytes | str | None = None
            if os.path.islink(place):
                content = os.readlink(place)
            elif os.path.isfile(place):
                content = Path(place).read_bytes()
            found[os.path.relpath(place, path)] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Nothing in this folder of the host's changes, and nothing comes to it."""
    before = inventory(path)
    yield
    assert inventory(path) == before


# --- terminals


def receive_descriptor(listener: socket.socket, seconds: float = 10.0) -> tuple[int, bytes]:
    """What a socket of the caller's gets: a descriptor, and a word about it."""
    listener.settimeout(seconds)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(seconds)
        data, fds, _, _ = socket.recv_fds(connection, 4096, 4)
    assert len(fds) == 1
    return fds[0], data


def read_terminal(master: int, until: Callable[[str], Any] | None = None, seconds: float = 10.0) -> str:
    """What comes out of a terminal, until it is enough or the other side is gone."""
    data = b""
    deadline = time.monotonic() + seconds
    os.set_blocking(master, False)
    while time.monotonic() < deadline:
        try:
            block = os.read(master, 65536)
        except BlockingIOError:
            if until is not None and until(data.decode(errors="replace")):
                break
            time.sleep(0.005)
            continue
        except OSError:
            break
        if not block:
            break
        data += block
    text = data.decode(errors="replace")
    assert until is None or until(text), f"the terminal said only {text!r}"
    return text


def logged(text: str, level: str = "error") -> list[dict[str, str]]:
    """Lines of a JSON log of a level."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["level"] == level]


RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
SIGNAL_NAMES = {number: number.name for number in signal.Signals}

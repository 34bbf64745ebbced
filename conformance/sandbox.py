"""Running the suites of others so that they harm neither the host nor each other.

What they do, and what is done about it here:

- they leave mounts behind, and a teardown may `rm -rf` through one: each program runs in a mount namespace of its
  own, whose mounts are private;
- they write where a link of a root file system leads (`chmod go-x rootfs/bin/echo`, which may be /bin/busybox): this
  repository and the host's programs are read-only for them;
- they name the cgroups that they make alike: one run at a time on a host (a lock), and empty cgroups of those names
  are removed afterwards;
- they leave processes behind: we are their subreaper, and at the end kill our own descendants and nothing else;
- they read standard input, or hang: it is a pipe that stays open and silent, and there is a time limit;
- some want a controlling terminal: `script` gives them one.
"""

import contextlib
import ctypes
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = Path("/usr")
LOCK = Path("/run/lock/pyrunc-conformance")
CGROUPS = Path("/sys/fs/cgroup")
CGROUPS_OF_THE_SUITES = ("testdir", "cgrouptest", "runc-cgroups-integration-test")
PR_SET_CHILD_SUBREAPER = 36
TIMEOUT = 124  # the exit status of what was stopped, as timeout(1) has it

CGROUP_MODES = {
    "host": "",
    "v1": f"if mountpoint -q {CGROUPS}/unified; then umount {CGROUPS}/unified; fi || exit 99",
    "v2": f"umount -R {CGROUPS} && mount -t cgroup2 none {CGROUPS} || exit 99",
}
"""What a program sees of cgroups: the host's, without the unified hierarchy of hybrid mode, or nothing but that."""


class Outcome:
    """How a program ended: its exit status, and what it wrote (with a terminal both are `output`)."""

    def __init__(self, status: int, output: str, errors: str, seconds: float) -> None:
        self.status = status
        self.output = output
        self.errors = errors
        self.seconds = seconds


class Sandbox:
    """Args:
    cgroup: one of CGROUP_MODES.
    timeout: in seconds, for one program.
    protect: folders that are read-only for the programs.
    """

    def __init__(
        self, cgroup: str = "host", timeout: float = 300, protect: tuple[Path, ...] = (REPOSITORY, PROGRAMS)
    ) -> None:
        self.timeout = timeout
        lines = [CGROUP_MODES[cgroup]]
        for folder in protect:
            word = shlex.quote(str(folder))
            lines.append(f"mount --bind {word} {word} && mount -o remount,bind,ro {word} || exit 99")
        # cd again: the working directory has to be one of the new mounts
        self.script = "\n".join([*lines, 'cd "$PWD" && exec "$@"'])

    def run(self, command: list[str], folder: Path, environment: dict[str, str], terminal: bool = False) -> Outcome:
        """Run one program to its end, and end what it leaves."""
        if terminal:
            command = ["script", "-q", "-e", "-c", f"exec {shlex.join(command)}", "/dev/null"]
        unshare = shlex.split("unshare --mount --uts --propagation private")
        command = [*unshare, "sh", "-c", self.script, "sandbox", *command]
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(_scratch()))
            output = stack.enter_context(tempfile.TemporaryFile())
            errors = output if terminal else stack.enter_context(tempfile.TemporaryFile())
            silent_input, held_open = os.pipe()
            stack.callback(os.close, held_open)
            began = time.monotonic()
            stack.callback(_end_descendants)
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment | {"TMPDIR": str(scratch)},
                stdin=silent_input,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            os.close(silent_input)
            status = self._wait(process, began + self.timeout)
            process.returncode = status  # it is reaped; Popen need not look for it
            return Outcome(status, _text(output), "" if terminal else _text(errors), time.monotonic() - began)

    def _wait(self, process: "subprocess.Popen[bytes]", deadline: float) -> int:
        """Its exit status. What it orphans becomes ours to bury."""
        while time.monotonic() < deadline:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == process.pid:
                return os.waitstatus_to_exitcode(status)
            if not pid:
                time.sleep(0.01)
        return TIMEOUT


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the host's lock, as the subreaper of all that will be started. SIGTERM and SIGHUP end us in order."""
    if os.geteuid():
        sys.exit("the suites need root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"# another suite is running on this host: waiting for {LOCK}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A TMPDIR of its own, that other users can write to. Nothing is mounted in it as seen from here."""
    folder = tempfile.mkdtemp(prefix="conformance-")
    Path(folder).chmod(0o1777)
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)
        _remove_empty_cgroups()


def _remove_empty_cgroups() -> None:
    """Those that the suites make and leave, in the root or below our own cgroup."""
    own = {line.strip().split(":", 2)[2].lstrip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()}
    for hierarchy in CGROUPS.iterdir():
        for place in own | {""}:
            for name in CGROUPS_OF_THE_SUITES:
                for folder, _, _ in os.walk(hierarchy / place / name, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)


def _end_descendants() -> None:
    for attempt in range(100):
        left = _descendants(os.getpid())
        if not left:
            return
        if attempt:  # what is about to end by itself may
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue  # it has ended
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace").replace("\r", "")


def executable(name: str) -> Path:
    """The runtime to be tested, by name or by path."""
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name}: no such program")
    return Path(found).absolute()


def environment(**variables: str) -> dict[str, str]:
    """Ours, and what the suites need: the places of administrators' programs."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return os.environ | {"PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin"} | variables


def chosen(names: list[str], every: list[str], what: str) -> list[str]:
    """The programs or files that were asked for, or all."""
    unknown = [name for name in names if name not in every]
    if unknown:
        sys.exit(f"no such {what} in this tree: {', '.join(unknown)}")
    if not every:
        sys.exit(f"this tree has no {what}s: is it built?")
    return names or every

"""The runtime under test, as its callers run it: the real binary, its output in files.

A created container keeps the streams of `create`: whoever read a pipe to its end would wait for the container's.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

BUSYBOX = shutil.which("busybox") or "/bin/busybox"


TIMEOUT = 30
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


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


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)
        bury_orphans()


def logged(text: str, level: str = "error") -> list[dict[str, str]]:
    """Lines of a JSON log of a level."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["level"] == level]

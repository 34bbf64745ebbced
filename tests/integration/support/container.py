"""A container of the runtime under test: real namespaces and cgroups, as root."""

import json
import os
from pathlib import Path
from typing import Any

from integration.support.bundle import Bundle, apply
from integration.support.host import cgroups_of, hierarchies, mounts_of, processes_of, unified
from integration.support.runtime import Result, Runtime, wait_until

MARK = f"pyrunc-test-{os.getpid()}"  # in every container's ID, and so in the name of its cgroup


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
        """Let users of a user namespace in: pytest's folders are private."""
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


def status_of(c, *names, **how):
    lines = c.run("cat", "/proc/self/status", **how).splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return [found[name] for name in names]

"""Run beside a test: create and delete a container again and again in one process, which takes 8 ms a time.

Usage: python library_loop.py STATE-ROOT BUNDLE TIMES PREFIX [PATH...]. Prints, as JSON, how many creates succeeded and
failed, and of the containers that were made how often each mount was seen, and each kind of what lies at the paths.
Or: python library_loop.py STATE-ROOT ID TIMES PROCESS: the same process in a running container, again and again.
"""

import collections
import json
import os
import posix
import stat
import sys
from pathlib import Path

from pyrunc.container.container import Container
from pyrunc.container.exec import execute
from pyrunc.container.options import Options
from pyrunc.container.state import StateRoot
from pyrunc.errors import PyruncError
from pyrunc.linux import path
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import filesystem_type


def main(root: str, bundle: str, times: str, prefix: str, *places: str) -> None:
    state_root = StateRoot(root)
    outcomes = collections.Counter[str]()
    mounts = collections.Counter[str]()
    found = {place: collections.Counter[str]() for place in places}
    masters: list[Fd] = []  # open as long as the container is there: a process that waits for start dies of a hangup
    terminal = Options(console=masters.append)
    for number in range(int(times)):
        while masters:
            masters.pop().close()
        name = f"{prefix}-{number}"
        try:
            container = Container.create(state_root, name, bundle, terminal)
        except PyruncError:
            outcomes["failed"] += 1
            continue
        outcomes["made"] += 1
        for line in Path(f"/proc/{container.pid}/mountinfo").read_text().splitlines():
            fields = line.split()
            mounts[f"{fields[4]} {fields[fields.index('-') + 1]} {fields[3]}"] += 1
        for place in places:
            found[place][kind_of(container.pid, place)] += 1
        Container.delete(state_root, name, force=True)
        bury(container.pid)
    print(json.dumps({"outcomes": outcomes, "mounts": mounts, "found": found}))


def kind_of(pid: int, place: str) -> str:
    """What a process of the container would find there."""
    with open_at(None, f"/proc/{pid}/root", posix.O_PATH | posix.O_DIRECTORY) as top:
        try:
            with path.resolve(top, place) as there:
                status = posix.fstat(there.number)
                device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
                writable = "ro" if posix.fstatvfs(there.number).f_flag & posix.ST_RDONLY else "rw"
                return f"{stat.S_IFMT(status.st_mode):o} {device} on {filesystem_type(there):x} {writable}"
        except OSError as error:
            return error.strerror.partition(": ")[2]


def many_execs(root: str, container_id: str, times: str, process: str) -> None:
    outcomes = collections.Counter[str]()
    for _ in range(int(times)):
        container = Container.load(StateRoot(root), container_id)
        try:
            pid = execute(container, json.loads(process), Options())
        except PyruncError:
            outcomes["failed"] += 1
            continue
        outcomes[f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"] += 1
    print(json.dumps(outcomes))


def bury(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


if __name__ == "__main__":
    (many_execs if sys.argv[4].startswith("{") else main)(*sys.argv[1:])

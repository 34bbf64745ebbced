"""The cgroups in a cgroup. A container may make as many as it likes, as deep as it likes, while we look at them.

So nothing here is recursive, and nothing is a path: 20 names of 200 bytes are longer than a path can be. Two
descriptors are open at a time: 1,500 levels are more than a process may have.
"""

import posix
import time

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW
GONE = (2, 19)  # ENOENT; ENODEV of a file that was opened before its cgroup went
NOT_THERE = (*GONE, 20, 36)  # ENOTDIR, ENAMETOOLONG: of a cgroupsPath that could never be made
BUSY = 16
EOPNOTSUPP = 95
# For one walk: somebody may make the tree deeper as fast as we come. To remove a cgroup takes the kernel longer the
# deeper it is: 5,000 levels are 30 s.
TO_LOOK, TO_REMOVE = 10.0, 60.0


def every(path: str, seconds: float = TO_LOOK) -> "Iterator[tuple[Fd, str]]":
    """A cgroup and all below it, the deepest first: a directory, and what the cgroup is called from there."""
    try:
        top = open_at(None, path, DIRECTORY)
    except OSError as error:
        if error.errno in NOT_THERE:
            return
        raise PyruncError("opening cgroup", path, reason(error)) from error
    with top:
        yield from below(top, seconds)
        yield top, "."


def below(top: Fd, seconds: float) -> "Iterator[tuple[Fd, str]]":
    """The same without itself. The way up is `..`: a cgroup can be renamed (v1), but stays in its parent."""
    deadline = time.monotonic() + seconds
    current, names, waiting = top, [""], [_children(top)]
    while True:
        if time.monotonic() > deadline:
            cause = f"{seconds:.0f} s did not suffice for all below it"
            raise PyruncError("going through cgroup", top.name, cause, "are more made all the time? else try again")
        if waiting[-1]:
            name = waiting[-1].pop()
            try:
                child = open_at(current, name, DIRECTORY)
            except FileNotFoundError:
                continue
            children = _children(child)
            if children:
                current = child
                names.append(name)
                waiting.append(children)
            else:
                yield current, name
        elif len(names) > 1:
            waiting.pop()
            current = open_at(current, "..", DIRECTORY)
            yield current, names.pop()
        else:
            return


def _children(directory: Fd) -> "list[str]":
    try:
        with posix.scandir(directory.number) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def remove(path: str) -> None:
    """A cgroup with all below it. Raises OSError, EBUSY when there is a process in one of them."""
    try:
        return posix.rmdir(path)
    except OSError as error:
        if error.errno in NOT_THERE:
            return
        if error.errno != BUSY:
            raise
    with open_at(None, path, DIRECTORY) as top:
        _let_nobody_add_to(top)
        for parent, name in below(top, TO_REMOVE):
            try:
                posix.rmdir(name, dir_fd=parent.number)
            except OSError as error:
                if error.errno not in (*GONE, BUSY):
                    raise
    posix.rmdir(path)


def _let_nobody_add_to(top: Fd) -> None:
    """v2: whoever it was delegated to may not raise this limit again. v1 has none."""
    try:
        write_file("cgroup.max.descendants", b"0", top)
    except OSError:
        pass


def processes(cgroup: str, parent: "Fd | None" = None) -> "list[int]":
    """Those in one cgroup. Only one that is gone has none for certain: any other failure is an error."""
    try:
        try:
            return [int(pid) for pid in read_file(f"{cgroup}/cgroup.procs", parent).split()]
        except OSError as error:
            if error.errno != EOPNOTSUPP:
                raise
        threads = read_file(f"{cgroup}/cgroup.threads", parent).split()  # of a threaded one this is all that is told
    except OSError as error:
        if error.errno in NOT_THERE:
            return []
        place = f"{parent.name}/{cgroup}" if parent is not None else cgroup
        raise PyruncError("reading the processes of cgroup", place, reason(error)) from error
    return [*{_process_of(int(thread)) for thread in threads}]


def _process_of(thread: int) -> int:
    """0: it has ended."""
    try:
        lines = read_file(f"/proc/{thread}/status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line[5:]) for line in lines if line.startswith(b"Tgid:")), 0)


def all_processes(path: str) -> "list[int]":
    """Those in a cgroup and below it."""
    return [pid for parent, cgroup in every(path) for pid in processes(cgroup, parent)]

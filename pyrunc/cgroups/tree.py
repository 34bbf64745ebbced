"""The cgroups below a cgroup. A container may make as many as it likes, as deep as it likes, while we look at them.

So nothing here is recursive. Cgroups are not reached by paths: 20 names of 200 bytes are longer than a path can be. And
only two descriptors are open at a time: a process may not have enough for 1,500 levels.
"""

import errno
import posix
import time

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, open_at, read_file, write_file
from pyrunc.linux.pid import pidfd_open, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW
GONE = (errno.ENOENT, errno.ENODEV)  # ENODEV: its file was opened before it went
NOT_THERE = (*GONE, errno.ENOTDIR, errno.ENAMETOOLONG)  # the last two: a cgroupsPath that could never be made
# Seconds for one walk: somebody may make the tree deeper as fast as we go down. The deeper a cgroup is, the longer the
# kernel takes to remove it: 5,000 levels take 30 s.
TO_LOOK, TO_REMOVE = 10.0, 60.0
AT_A_TIME = 64  # processes that are signalled together: each takes a descriptor


def every(path: str, seconds: float = TO_LOOK) -> "Iterator[tuple[Fd, str]]":
    """A cgroup and all below it, the deepest first: for each an open directory, and its name from there."""
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
    """All cgroups below one, the deepest first, as `every` has them.

    The way up again is `..`: v1's cgroups can be renamed, but not moved to another parent.
    """
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
    """Remove a cgroup with all below it. Raises OSError: EBUSY when there is a process in one of them."""
    try:
        return posix.rmdir(path)
    except OSError as error:
        if error.errno in NOT_THERE:
            return
        if error.errno != errno.EBUSY:
            raise
    with open_at(None, path, DIRECTORY) as top:
        _let_nobody_add_to(top)
        for parent, name in below(top, TO_REMOVE):
            try:
                posix.rmdir(name, dir_fd=parent.number)
            except OSError as error:
                if error.errno not in (*GONE, errno.EBUSY):
                    raise
    posix.rmdir(path)


def _let_nobody_add_to(top: Fd) -> None:
    """Allow no further cgroups in it, on v2: the user that it was given to may not raise this limit. v1 has none."""
    try:
        write_file("cgroup.max.descendants", b"0", top)
    except OSError:
        pass


def processes(cgroup: str, parent: "Fd | None" = None) -> "list[int]":
    """The processes in one cgroup: none when it is gone. Any other failure to read is an error, and not "none"."""
    try:
        try:
            return [int(pid) for pid in read_file(f"{cgroup}/cgroup.procs", parent).split()]
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        threads = read_file(f"{cgroup}/cgroup.threads", parent).split()  # a threaded cgroup only lists threads
    except OSError as error:
        if error.errno in NOT_THERE:
            return []
        place = f"{parent.name}/{cgroup}" if parent is not None else cgroup
        raise PyruncError("reading the processes of cgroup", place, reason(error)) from error
    return [*{_process_of(int(thread)) for thread in threads}]


def _process_of(thread: int) -> int:
    """The process that a thread belongs to. 0: it has ended."""
    try:
        lines = read_file(f"/proc/{thread}/status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line[5:]) for line in lines if line.startswith(b"Tgid:")), 0)


def all_processes(path: str) -> "list[int]":
    """The processes in a cgroup and below it."""
    return [pid for parent, cgroup in every(path) for pid in processes(cgroup, parent)]


def signal(path: str, number: int) -> bool:
    """Signal every process in a cgroup and below it. Returns whether there was one."""
    found = False
    for parent, cgroup in every(path, TO_REMOVE):
        waiting = [pid for pid in processes(cgroup, parent) if pid]  # 0: not of our PID namespace, or gone
        while waiting:
            some, waiting, found = waiting[:AT_A_TIME], waiting[AT_A_TIME:], True
            _signal_some(some, number, parent, cgroup)
    return found


def _signal_some(pids: "list[int]", number: int, parent: Fd, cgroup: str) -> None:
    """Signal by pidfd, and only processes that are still in the cgroup once their pidfd is open: before that, a number
    may have become another process's."""
    opened = []
    for pid in pids:
        try:
            opened.append((pid, pidfd_open(pid)))
        except ProcessLookupError:
            continue
    still = {*processes(cgroup, parent)}
    for pid, pidfd in opened:
        with pidfd:
            try:
                if pid in still:
                    pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                continue

"""Many containers, one after the other and at once: nothing is left, and the last costs what the first did.
PYRUNC_FULL=1: 500 and 100 containers, 1,000 processes."""

import os
import resource
import statistics

import pytest

from integration.support.container import MARK
from integration.support.host import all_cgroups, cgroups_of, host_mounts
from sizes import FULL, size

pytestmark = pytest.mark.slow
LOOP, ALIVE, EXECS, PART = size(500, 60), size(100, 15), size(1000, 80), size(100, 20)

MOST = 1.2 if FULL else 2.0  # times what it was. On a busy machine all is slower, for a while


def used():
    """What children of ours have used of the processor, in seconds."""
    counted = resource.getrusage(resource.RUSAGE_CHILDREN)
    return counted.ru_utime + counted.ru_stime


def assert_flat(times):
    """Compare the quickest quarter at the start and at the end. The slower ones tell what else the machine does."""
    first, last = (statistics.median(sorted(part)[: PART // 4]) for part in (times[:PART], times[-PART:]))
    assert last < first * MOST + 0.002, f"{first * 1000:.1f} ms became {last * 1000:.1f} ms"


def test_many_containers_one_after_the_other(container):
    made = container()
    made._prepare(("true",))
    cgroups, mounts, times = all_cgroups(), host_mounts(), []
    for _ in range(LOOP):
        so_far = used()
        made.runtime("run", "--bundle", made.bundle.path, made.id)
        times.append(used() - so_far)
    assert host_mounts() == mounts
    assert not [path for path in all_cgroups() - cgroups if MARK in path]
    assert_flat(times)


def test_many_containers_at_once(container):
    made, cgroups, mounts = container(), all_cgroups(), host_mounts()
    made._prepare(("sleep", "1000"))
    names = [f"{made.id}-{number}" for number in range(ALIVE)]
    for name in names:
        made.runtime("run", "-d", "--bundle", made.bundle.path, name)
    listed = made.runtime("list", "--quiet").out.split()
    assert sorted(listed) == sorted(names)
    descriptors = len(os.listdir("/proc/self/fd"))
    for name in names:
        made.runtime("delete", "--force", name)
    assert made.runtime("list", "--quiet").out == ""
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert host_mounts() == mounts
    assert not [path for path in all_cgroups() - cgroups if MARK in path]


def test_many_execs_into_one_container(container):
    c = container().up()

    def there():
        return cgroups_of(MARK), host_mounts(), os.listdir(f"/proc/{c.pid}/fd"), os.listdir(c.runtime.root / c.id)

    before = there()
    times = []
    for number in range(EXECS):
        so_far = used()
        result = c.attempt_exec("sh", "-c", f"exit {number % 200}")
        times.append(used() - so_far)
        assert result.code == number % 200, repr(result)
    assert there() == before
    assert int(c.exec_sh("ls -d /proc/[0-9]* | wc -l")) <= 4  # the first, the shell, ls, and wc, which may come later
    assert_flat(times)

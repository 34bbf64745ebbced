"""Resource limits, OOM score, scheduler and personality of a process. config.md#posix-process"""

import re
import resource
from pathlib import Path


def limits_of(text):
    return {m[1]: (m[2], m[3]) for m in re.finditer(r"^(Max [a-z ]+?)\s{2,}(\S+)\s+(\S+)", text, re.MULTILINE)}


def test_resource_limits(container):
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CPU", "soft": 1000, "hard": 2000},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 20, "hard": 1 << 21},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21},
        {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
        {"type": "RLIMIT_AS", "soft": 1 << 30, "hard": 1 << 31},
        {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192},
    ]
    found = limits_of(container(rlimits=limits).run("cat", "/proc/self/limits"))
    assert found["Max open files"] == ("100", "200")
    assert found["Max core file size"] == ("0", "0")
    assert found["Max cpu time"] == ("1000", "2000")
    assert found["Max file size"] == ("1048576", "2097152")
    assert found["Max stack size"] == ("1048576", "2097152")
    assert found["Max processes"] == ("500", "600")
    assert found["Max address space"] == (str(1 << 30), str(1 << 31))
    assert found["Max locked memory"] == ("4096", "8192")


def test_limits_that_are_not_named_are_the_callers(container):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits_of(container().run("cat", "/proc/self/limits"))["Max open files"] == (str(soft), str(hard))


def test_a_limit_that_is_named_twice_is_refused(container):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}] * 2
    assert "RLIMIT_NOFILE" in container(rlimits=limits).refused("true")


def test_a_soft_limit_above_the_hard_one_is_refused(container):
    error = container(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]).refused("true")
    assert "/process/rlimits/0/soft" in error


def test_a_limit_on_everything_does_not_stop_the_runtime(container):
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0},
    ]
    c = container(rlimits=limits)
    assert c.attempt("true").code == 0


def test_the_oom_score(container):
    assert container(oomScoreAdj=345).run("cat", "/proc/self/oom_score_adj") == "345"
    assert container().run("cat", "/proc/self/oom_score_adj") == Path("/proc/self/oom_score_adj").read_text().strip()


def test_the_personality(container):
    assert "personality 8" in container(personality={"domain": "LINUX32"}).run("probe", "attributes")


def test_the_scheduler_and_the_io_priority(container):
    c = container(
        scheduler={"policy": "SCHED_BATCH", "nice": 5}, ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3}
    )
    out = c.run("probe", "attributes").splitlines()
    assert {"scheduler 3", "nice 5", f"ioprio {2 << 13 | 3}"} <= set(out)

"""Core scheduling: the two threads of a core run this container's processes, or nobody's with them. Loaded where it is
asked for.

    org.pyrunc.core_scheduling   true

So no other container, nor the host, shares a core's caches and buffers with it at the same time. Linux 5.14,
Documentation/admin-guide/hw-vuln/core-scheduling.rst
"""

import errno

from pyrunc.errors import ConfigError
from pyrunc.init.context import Context, Step, step
from pyrunc.linux.fd import read_file
from pyrunc.linux.process import (
    PR_SCHED_CORE,
    PR_SCHED_CORE_CREATE,
    PR_SCHED_CORE_GET,
    PR_SCHED_CORE_SHARE_FROM,
    prctl,
)

NAME = "org.pyrunc.core_scheduling"
PIDTYPE_PID = 0
SUPPORTED = errno.EFAULT  # GET has looked for the cookie, and had no place to write it to
WHY_NOT = {
    errno.EINVAL: "this kernel has no core scheduling (Linux 5.14, CONFIG_SCHED_CORE)",
    errno.ENODEV: "no two threads share a core here: SMT is off",
}


def verify() -> None:
    """Raises ConfigError: this host can't do it."""
    try:
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PIDTYPE_PID, 0)
    except OSError as error:
        if error.errno == SUPPORTED:
            return
        cause = WHY_NOT.get(error.errno or 0, str(error))
        raise ConfigError(
            "config.json", f"/annotations/{NAME}", cause, "take it out where that is not needed"
        ) from error


def first_step(container_pid: int) -> Step:
    """Before all others: what comes of the process inherits it.

    The kernel looks for a number in the process namespace of who asks. An added process is born in the container's,
    unless it enters that by a second clone.

    Args:
        container_pid: of the container that an added process is for; 0: this is its first.
    """
    number_there = _number_there(container_pid) if container_pid else 0

    @step("scheduling its cores apart")
    def take(context: Context) -> None:
        number = container_pid if context.second_clone else number_there
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_SHARE_FROM if number else PR_SCHED_CORE_CREATE, number, PIDTYPE_PID, 0)

    return take


def _number_there(pid: int) -> int:
    """Which number a process has in its own process namespace. proc_pid_status(5), NSpid"""
    try:
        lines = read_file(f"/proc/{pid}/status").splitlines()
    except OSError:
        return pid  # it has ended: there is nothing to enter
    return next((int(line.split()[-1]) for line in lines if line.startswith(b"NSpid:")), pid)

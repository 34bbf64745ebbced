"""Core scheduling: the two threads of a core run this container's processes, or nobody's with them. Loaded where it is
asked for.

    org.pyrunc.core_scheduling   true

So no other container, nor the host, shares a core's caches and buffers with it at the same time. Linux 5.14,
Documentation/admin-guide/hw-vuln/core-scheduling.rst
"""

import errno

from pyrunc.errors import ConfigError
from pyrunc.init.context import Context, Step, step
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
    """Before all others, while numbers of processes are those of the runtime. What comes of the process inherits it.

    Args:
        container_pid: of the container that an added process is for; 0: this is its first.
    """

    @step("scheduling its cores apart")
    def take(_: Context) -> None:
        what = PR_SCHED_CORE_SHARE_FROM if container_pid else PR_SCHED_CORE_CREATE
        prctl(PR_SCHED_CORE, what, container_pid, PIDTYPE_PID, 0)

    return take

"""What a process carries besides its credentials: scheduling, limits, memory policy, personality, OOM score."""

import errno
import posix

from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.init import channel
from pyrunc.init.context import Context, step
from pyrunc.linux import process
from pyrunc.linux.fd import write_file
from pyrunc.spec.rules import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Process

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS = {"MPOL_F_NUMA_BALANCING": 1 << 13, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_STATIC_NODES": 1 << 15}
DOMAINS = {"LINUX": 0, "LINUX32": 0x0008}


@step("setting the OOM score adjustment")
def set_oom_score(context: Context) -> None:
    """This is the first step, while /proc/self is still our own. A process that is not dumpable has files there
    that belong to root. A rootless caller needs them to be its own for a moment. config.md#linux-process
    """
    score = context.process.get("oomScoreAdj")
    if score is None:
        return
    try:
        write_file("self/oom_score_adj", str(score).encode(), context.host_proc)
    except PermissionError:
        process.set_dumpable(True)
        try:
            write_file("self/oom_score_adj", str(score).encode(), context.host_proc)
        except PermissionError as error:  # it is less than the caller's own
            hint = "lowering it needs CAP_SYS_RESOURCE"
            raise StepError("setting the OOM score adjustment", f"oomScoreAdj {score}", reason(error), hint) from error
        finally:
            process.set_dumpable(False)


@step("setting the scheduler and the I/O priority")
def set_scheduling(context: Context) -> None:
    """config.md#linux-process"""
    scheduler = context.process.get("scheduler")
    if scheduler:
        flags = 0
        for flag in scheduler.get("flags") or []:
            flags |= SCHED_FLAGS[flag]
        try:
            process.sched_setattr(
                POLICIES[scheduler["policy"]], flags, scheduler.get("nice", 0), scheduler.get("priority", 0),
                scheduler.get("runtime", 0), scheduler.get("deadline", 0), scheduler.get("period", 0),
            )  # fmt: skip
        except OSError as error:
            hint = ""
            cpu = (context.config["linux"].get("resources") or {}).get("cpu") or {}
            if error.errno == errno.EPERM and cpu.get("cpus"):
                hint = "process scheduler can't be used together with AllowedCPUs"  # SCHED_DEADLINE wants them all
            raise StepError("setting the scheduler", scheduler["policy"], reason(error), hint) from error
    priority = context.process.get("ioPriority")
    if priority:
        number = priority.get("priority", 0)
        try:
            process.ioprio_set(IO_CLASSES[priority["class"]] << 13 | number)
        except OSError as error:
            raise StepError("setting the I/O priority", f"{priority['class']} {number}", reason(error)) from error


@step("setting the CPUs until the cgroup is entered")
def set_initial_affinity(context: Context) -> None:
    """config.md#linux-process, execCPUAffinity"""
    cpus = (context.process.get("execCPUAffinity") or {}).get("initial")
    if cpus and not context.init:
        posix.sched_setaffinity(0, process.numbers(cpus))
        _say_affinity(context)


@step("setting the CPUs")
def set_affinity(context: Context) -> None:
    """If config.json names no CPUs, take all that the cgroup has: a container does not inherit the engine's CPUs."""
    cpus = (context.process.get("execCPUAffinity") or {}).get("final")
    posix.sched_setaffinity(0, process.numbers(cpus) if cpus and not context.init else range(process.MAX_CPUS))
    _say_affinity(context)


def _say_affinity(context: Context) -> None:
    if context.debug:
        mask = sum(1 << cpu for cpu in posix.sched_getaffinity(0))
        context.channel.send(channel.DEBUG, f"nsexec: affinity: {mask:#x}")  # as runc says it


@step("setting resource limits")
def set_limits(context: Context) -> None:
    """As late as possible, since the limits bind this process too, but before the change of user, which takes the
    right to raise them. A process in a user namespace may not raise every limit. The runtime does that for it.
    """
    if not context.process.get("rlimits"):
        return
    try:
        write_limits(context.process, 0)
    except PyruncError:
        if not context.userns:
            raise
        context.ask(channel.SET_LIMITS)


def write_limits(of: "Process", pid: int) -> None:
    for limit in of.get("rlimits") or []:
        try:
            process.prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as error:
            raise PyruncError("error setting rlimit", limit["type"], reason(error)) from error


@step("setting the memory policy")
def set_memory_policy(context: Context) -> None:
    """config-linux.md#memory-policy"""
    policy = context.config["linux"].get("memoryPolicy") or {}
    if policy.get("mode"):
        mode = MEMORY_MODES[policy["mode"]]
        for flag in policy.get("flags") or []:
            mode |= MEMORY_FLAGS[flag]
        nodes = policy.get("nodes", "")
        try:
            process.set_mempolicy(mode, process.numbers(nodes))
        except OSError as error:
            hint = "has the kernel this mode, and the machine these nodes?" if error.errno == errno.EINVAL else ""
            raise StepError("setting the memory policy", f'{policy["mode"]} "{nodes}"', reason(error), hint) from error


@step("setting the personality")
def set_personality(context: Context) -> None:
    """Before the filter, which may forbid it. config-linux.md#personality"""
    personality = context.config["linux"].get("personality")
    if personality:
        process.personality(DOMAINS[personality["domain"]])

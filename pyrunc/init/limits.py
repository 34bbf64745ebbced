"""Resource limits. config.md#posix-process, rlimits"""

from pyrunc.errors import PyruncError, reason
from pyrunc.init.context import Context
from pyrunc.linux.process import prlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Process

RLIMITS = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip


def set(context: Context) -> None:
    """setting resource limits

    As late as can be, as they bind us too; before the change of user, which takes the right to raise them. What a
    process in a user namespace may not raise itself, the runtime raises for it.
    """
    if not context.process.get("rlimits"):
        return
    try:
        set_all(context.process, 0)
    except PyruncError:
        if not context.userns:
            raise
        context.channel.send("L")
        context.wait_for_go()


def set_all(process: "Process", pid: int) -> None:
    for limit in process.get("rlimits") or []:
        try:
            prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as error:
            raise PyruncError("error setting rlimit", limit["type"], reason(error)) from error

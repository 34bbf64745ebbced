"""pyrunc kill ID [SIGNAL]: signal a container's first process. runtime.md#kill"""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call
from pyrunc.cli.signals import number_of
from pyrunc.container.container import Container
from pyrunc.errors import NotRunning

USAGE = Usage(
    "kill",
    "ID [SIGNAL]",
    "send a signal to a container's first process",
    (
        Flag("all", "a", help="to every process in it, also when the first has ended"),
        Flag("regex", "r", help="ID is a regular expression: all containers in whose IDs it is found (as crun)"),
    ),
    least=1,
    most=2,
    stop=True,
    details="""SIGNAL is a number or a name, with or without SIG; the default is TERM. KILL reaches every
process of a container without --all. With --regex, what fails is said, and the exit status is 1. signal(7) has
all names:

   HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP
   TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS RTMIN to RTMIN+30, RTMAX-30 to RTMAX""",
)


def main(call: Call) -> int:
    signal = number_of(call.arguments.rest[1] if len(call.arguments.rest) > 1 else "SIGTERM")
    if not call.arguments.on("regex"):
        kill(call, call.id, signal)
        return 0
    from pyrunc.cli import many

    return many.each(many.matching(call, call.id), lambda container_id: kill(call, container_id, signal))


def kill(call: Call, container_id: str, signal: int) -> None:
    try:
        Container.load(call.state_root, container_id, call.log).kill(signal, call.arguments.on("all"))
    except NotRunning:
        if not call.arguments.on("all"):
            raise

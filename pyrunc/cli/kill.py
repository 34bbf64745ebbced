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
    (Flag("all", "a", help="to every process in it (obsolete; KILL reaches them all)", hidden=True),),
    least=1,
    most=2,
    stop=True,
    details="""SIGNAL is a number or a name, with or without SIG; the default is TERM. signal(7) has them all:

   HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP
   TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS RTMIN to RTMIN+30, RTMAX-30 to RTMAX""",
)


def main(call: Call) -> None:
    signal = number_of(call.arguments.rest[1] if len(call.arguments.rest) > 1 else "SIGTERM")
    try:
        Container.load(call.state_root, call.id, call.log).kill(signal, call.arguments.on("all"))
    except NotRunning:
        if not call.arguments.on("all"):
            raise

"""pyrunc wait ID: wait for the end of a container, and say how it ended."""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, say
from pyrunc.container import ended
from pyrunc.container.container import Container
from pyrunc.spec.jsonc import dumps_pretty

USAGE = Usage(
    "wait",
    "ID",
    "wait for the end of a container, and print its exit status",
    (Flag("json", help="print all that is known of its end, as JSON"),),
    least=1,
    most=1,
    details="""The status is that of its program, or 128 and the number of the signal that ended it. It is known of
every container that was made with --exit-record, also later, until it is deleted; of others on Linux 6.15 and newer,
when `wait` is there before the end. The exit status of `wait` itself is 0, or 1 when nobody can tell.""",
)


def main(call: Call) -> None:
    found = ended.wait(Container.load(call.state_root, call.id, call.log))
    say(dumps_pretty(found) if call.arguments.on("json") else str(found["exitStatus"]))

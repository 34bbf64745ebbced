"""pyrunc start ID: let a created container run its program."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import TIMELINE, Call, over_time
from pyrunc.container.container import Container

USAGE = Usage("start", "ID", "run the program of a created container", (TIMELINE,), least=1, most=1)


def main(call: Call) -> "int | None":
    return over_time(call, "start", start)


def start(call: Call) -> None:
    Container.load(call.state_root, call.id, call.log).start()

"""pyrunc start ID: let a created container run its program."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call
from pyrunc.container.container import Container

USAGE = Usage("start", "ID", "run the program of a created container", least=1, most=1)


def main(call: Call) -> None:
    Container.load(call.state_root, call.id, call.log).start()

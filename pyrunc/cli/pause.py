"""pyrunc pause ID: freeze every process of a container."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call
from pyrunc.container.container import Container

USAGE = Usage("pause", "ID", "freeze every process of a container", least=1, most=1)


def main(call: Call) -> None:
    Container.load(call.state_root, call.id, call.log).pause()

"""pyrunc resume ID: let a paused container go on."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call
from pyrunc.container.container import Container

USAGE = Usage("resume", "ID", "let a paused container go on", least=1, most=1)


def main(call: Call) -> None:
    Container.load(call.state_root, call.id, call.log).resume()

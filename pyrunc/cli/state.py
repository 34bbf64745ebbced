"""pyrunc state ID: what and how a container is. runtime.md#query-state"""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call, say
from pyrunc.container.container import Container
from pyrunc.spec.jsonc import dumps_pretty

USAGE = Usage("state", "ID", "show a container's state, as JSON", least=1, most=1)


def main(call: Call) -> None:
    say(dumps_pretty(Container.load(call.state_root, call.id, call.log).state()))

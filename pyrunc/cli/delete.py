"""pyrunc delete ID: remove a container and all that belongs to it. runtime.md#delete"""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call
from pyrunc.container.container import Container
from pyrunc.errors import NoSuchContainer

USAGE = Usage(
    "delete",
    "ID",
    "delete a container and all that belongs to it",
    (Flag("force", "f", help="kill it first, if it runs; no error if there is none"),),
    least=1,
    most=1,
)


def main(call: Call) -> None:
    force = call.arguments.on("force")
    try:
        Container.delete(call.state_root, call.id, force, call.log)
    except NoSuchContainer:
        if not force:
            raise

"""pyrunc delete ID: remove a container and all that belongs to it. runtime.md#delete"""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call
from pyrunc.container.container import Container
from pyrunc.errors import NoSuchContainer, UsageError

USAGE = Usage(
    "delete",
    "ID",
    "delete a container and all that belongs to it",
    (
        Flag("force", "f", help="kill it first, if it runs; no error if there is none"),
        Flag("regex", help="ID is a regular expression: all containers in whose IDs it is found (as crun)"),
        Flag("all", "a", help="all containers; there is no ID then"),
    ),
    least=0,
    most=1,
    details="""With --regex and --all, what can't be deleted is said, the others are deleted all the same, and the
exit status is 1.""",
)


def main(call: Call) -> int:
    arguments = call.arguments
    if arguments.on("all") == bool(arguments.rest):
        raise UsageError('"delete"', "", "requires 1 argument(s): an ID, or --all", "usage: pyrunc delete ID")
    if not arguments.on("all") and not arguments.on("regex"):
        delete(call, call.id)
        return 0
    from pyrunc.cli import many

    ids = many.matching(call, "" if arguments.on("all") else call.id)
    return many.each(ids, lambda container_id: delete(call, container_id))


def delete(call: Call, container_id: str) -> None:
    force = call.arguments.on("force")
    try:
        Container.delete(call.state_root, container_id, force, call.log)
    except NoSuchContainer:
        if not force:
            raise

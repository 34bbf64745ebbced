"""pyrunc run ID: create a container, start it, and, unless detached, wait for its end."""

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, over_time
from pyrunc.cli.create import FLAGS, make_and_leave, options
from pyrunc.container.container import Container
from pyrunc.errors import NoSuchContainer, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.options import Options

USAGE = Usage(
    "run",
    "ID",
    "create and start a container",
    (
        *FLAGS,
        Flag("detach", "d", help="do not wait for its end"),
        Flag("keep", help="do not delete it when it has ended"),
        Flag("no-subreaper", help="do not adopt the container's orphans while it runs"),
    ),
    least=1,
    most=1,
    details="""Without --detach, signals are passed on to the container, the terminal is its own, and the exit status
is that of its program, or 128 and the number of the signal that ended it.""",
)


def main(call: Call) -> "int | None":
    return over_time(call, "run", run)


def run(call: Call) -> int:
    arguments = call.arguments
    settings = options(call)
    bundle = arguments.text("bundle") or "."
    if arguments.on("detach"):

        def make() -> Container:
            container = Container.create(call.state_root, call.id, bundle, settings, call.log)
            _start(container, call)
            return container

        return make_and_leave(call, make)
    if arguments.on("exit-record") and not arguments.on("keep"):
        cause = "the container is deleted when it has ended, and its record with it"
        raise UsageError("--exit-record", "", cause, "use --detach or --keep with it")
    return in_foreground(call, settings, bundle, not arguments.on("no-subreaper"), arguments.on("keep"))


def in_foreground(call: Call, settings: "Options", bundle: str, subreaper: bool = True, keep: bool = False) -> int:
    """Its exit status, when it has ended and, unless it is to be kept, is deleted."""
    from pyrunc.container.foreground import Foreground

    settings.detach = False
    with Foreground(subreaper=subreaper) as foreground:
        settings.console, settings.pidfd = foreground.take_master, foreground.take_pidfd
        container = Container.create(call.state_root, call.id, bundle, settings, call.log)
        try:
            proxy = container.notify_proxy()
            container.start(notified=False)
            status = foreground.wait(container.pid, proxy)
            if settings.exit_record:
                from pyrunc.container import ended

                ended.save(container, foreground.status)
        finally:
            if not keep:
                undo(call)
    return status


def undo(call: Call) -> None:
    try:
        Container.delete(call.state_root, call.id, True, call.log)
    except NoSuchContainer:
        pass  # somebody else was quicker


def _start(container: Container, call: Call) -> None:
    try:
        container.start()
    except BaseException:
        undo(call)
        raise

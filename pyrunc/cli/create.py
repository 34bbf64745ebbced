"""pyrunc create ID: make a container that waits for start."""

import posix

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import TIMELINE, Call, over_time
from pyrunc.container.container import Container
from pyrunc.container.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BUNDLE = Flag("bundle", "b", help="the bundle: a folder with config.json (default: the current one)", value="DIR")
CONSOLE_SOCKET = Flag("console-socket", help="a socket that gets the terminal's master", value="SOCKET")
PIDFD_SOCKET = Flag("pidfd-socket", help="a socket that gets a pidfd of the process", value="SOCKET")
PID_FILE = Flag("pid-file", help="write the process's ID to FILE", value="FILE")
EXIT_RECORD = Flag("exit-record", help="leave a process behind that puts the container's end on record: see wait")
PRESERVE_FDS = Flag("preserve-fds", help="how many descriptors from 3 on the program keeps", value="N", default="0")

FLAGS = (
    BUNDLE,
    Flag("config", help="take the configuration from FILE, not from the bundle (as crun)", value="FILE"),
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    PID_FILE,
    Flag("no-pivot", help="chroot in place of pivot_root (root on a ramdisk); less safe"),
    Flag("no-new-keyring", help="leave the caller's session keyring to the container"),
    PRESERVE_FDS,
    EXIT_RECORD,
    TIMELINE,
)

USAGE = Usage(
    "create",
    "ID",
    "create a container",
    FLAGS,
    least=1,
    most=1,
    details="""Everything is made and checked: namespaces, mounts, cgroup, the program's path. The program itself runs
when `pyrunc start ID` says so. Its standard streams are those of this command.""",
)


def options(call: Call) -> Options:
    """Of `create` and of `run`."""
    arguments = call.arguments
    return Options(
        pid_file=absolute(arguments.text("pid-file")),
        console_socket=absolute(arguments.text("console-socket")),
        pidfd_socket=absolute(arguments.text("pidfd-socket")),
        preserve_fds=arguments.number("preserve-fds"),
        no_pivot=arguments.on("no-pivot"),
        no_new_keyring=arguments.on("no-new-keyring"),
        rootless=call.rootless,
        systemd=call.manager == "systemd",
        no_cgroup=call.manager == "disabled",
        exit_record=arguments.on("exit-record"),
        config=absolute(arguments.text("config")),
    )


def absolute(path: str) -> str:
    return path if not path or path.startswith("/") else f"{posix.getcwd()}/{path}"


def main(call: Call) -> "int | None":
    return over_time(call, "create", create)


def create(call: Call) -> int:
    def make() -> Container:
        bundle = call.arguments.text("bundle") or "."
        return Container.create(call.state_root, call.id, bundle, options(call), call.log)

    return make_and_leave(call, make)


def make_and_leave(call: Call, make: "Callable[[], Container]") -> int:
    """Make a container that nobody waits for here."""
    if not call.arguments.on("exit-record"):
        make()
        return 0
    from pyrunc.container import ended

    return ended.leave_keeper(make)

"""pyrunc checkpoint ID: write a running container to files."""

import posix

from pyrunc.cli.arguments import Arguments, Flag, Usage, is_count
from pyrunc.cli.call import Call
from pyrunc.cli.create import absolute
from pyrunc.container.checkpoint.options import CheckpointOptions
from pyrunc.container.container import Container
from pyrunc.errors import UsageError
from pyrunc.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.checkpoint.options import Common

IMAGE_PATH = Flag("image-path", help="the folder of the checkpoint (default: checkpoint, here)", value="DIR")
WORK_PATH = Flag("work-path", help="the folder of CRIU's log (default: that of the checkpoint)", value="DIR")
TCP_ESTABLISHED = Flag("tcp-established", help="take established TCP connections along")
EXT_UNIX_SK = Flag("ext-unix-sk", help="allow UNIX sockets whose other end is outside")
SHELL_JOB = Flag("shell-job", help="allow a session and a terminal that are not the container's own")
LAZY_PAGES = Flag("lazy-pages", help="hand memory over when it is asked for (userfaultfd)")
FILE_LOCKS = Flag("file-locks", help="take locks on files along")
CGROUPS = Flag(
    "manage-cgroups-mode", help="how CRIU deals with cgroups: soft, full, strict or ignore", value="MODE"
)  # fmt: skip
EMPTY_NS = Flag("empty-ns", help="a namespace that is made anew, empty: network (always so)", value="NS", many=True)
AUTO_DEDUP = Flag("auto-dedup", help="free in earlier checkpoints what a later one has again")

USAGE = Usage(
    "checkpoint",
    "ID",
    "write a running container to files, which restore makes it of again",
    (
        IMAGE_PATH,
        WORK_PATH,
        Flag("parent-path", help="an earlier checkpoint, from --image-path: ../NAME", value="DIR"),
        Flag("leave-running", help="let it run on"),
        Flag("pre-dump", help="write its memory only, and let it run on"),
        TCP_ESTABLISHED,
        Flag("tcp-skip-in-flight", help="forget TCP connections that are still being made"),
        Flag("link-remap", help="allow files that have no name any more, by giving them one"),
        EXT_UNIX_SK,
        SHELL_JOB,
        FILE_LOCKS,
        LAZY_PAGES,
        Flag(
            "status-fd", help="a descriptor that gets a zero byte when lazy pages are ready", value="FD", default="-1"
        ),
        Flag("page-server", help="who takes the memory", value="ADDRESS:PORT"),
        CGROUPS,
        EMPTY_NS,
        AUTO_DEDUP,
    ),
    least=1,
    most=1,
    details="""CRIU does it, the program criu in PATH. Without --leave-running and --pre-dump the container is deleted
when it is written.""",
)


def main(call: Call) -> None:
    arguments = call.arguments
    options = CheckpointOptions(
        images(arguments),
        **common(arguments),
        parent=arguments.text("parent-path"),
        leave_running=arguments.on("leave-running"),
        pre_dump=arguments.on("pre-dump"),
        skip_in_flight=arguments.on("tcp-skip-in-flight"),
        link_remap=arguments.on("link-remap"),
        page_server=_page_server(arguments.text("page-server")),
        status_fd=_status_fd(arguments),
    )
    Container.load(call.state_root, call.id, call.log).checkpoint(options)


def images(arguments: Arguments) -> str:
    return absolute(arguments.text("image-path") or "checkpoint")


def common(arguments: Arguments) -> "Common":
    """Of checkpoint and of restore."""
    for namespace in arguments.texts("empty-ns"):
        if namespace != "network":
            raise UsageError("--empty-ns", f'namespace "{namespace}"', "is not supported", "network is, and always so")
    return {
        "work": absolute(arguments.text("work-path")),
        "tcp_established": arguments.on("tcp-established"),
        "external_sockets": arguments.on("ext-unix-sk"),
        "shell_job": arguments.on("shell-job"),
        "file_locks": arguments.on("file-locks"),
        "cgroups": arguments.text("manage-cgroups-mode"),
        "auto_dedup": arguments.on("auto-dedup"),
        "lazy_pages": arguments.on("lazy-pages"),
    }


def _page_server(text: str) -> "tuple[str, int] | None":
    if not text:
        return None
    address, _, port = text.rpartition(":")
    if not address or not port:
        raise UsageError("Use --page-server ADDRESS:PORT to specify page server")
    if not (is_count(port) and 0 < int(port) < 65536):
        raise UsageError("--page-server", text, "Invalid port number")
    return address.removeprefix("[").removesuffix("]"), int(port)


def _status_fd(arguments: Arguments) -> "Fd | None":
    if arguments.text("status-fd") == "-1":
        return None
    number = arguments.number("status-fd")
    try:
        posix.set_inheritable(number, False)
    except OSError as error:
        raise UsageError("invalid --status-fd argument", str(number), "bad file descriptor") from error
    return Fd(number, "--status-fd")

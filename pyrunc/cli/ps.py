"""pyrunc ps ID: the processes in a container."""

import posix

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, say
from pyrunc.container.container import Container
from pyrunc.errors import PyruncError, UsageError, printable
from pyrunc.linux.fd import Fd, read_all
from pyrunc.spec.jsonc import dumps

USAGE = Usage(
    "ps",
    "ID [PS-OPTION…]",
    "list the processes in a container",
    (Flag("format", "f", help="table or json", value="FORMAT", default="table"),),
    least=1,
    most=None,
    stop=True,
    details="The table is that of ps(1), with the options given (default: -ef), of the container's processes only.",
)


def main(call: Call) -> None:
    format = call.arguments.text("format")
    if format not in ("table", "json"):
        raise UsageError("--format", f'"{format}"', "invalid format option", "table or json")
    container = Container.load(call.state_root, call.id, call.log)
    pids = sorted(container.cgroup.processes())
    if format == "json":
        say(dumps(pids) if pids else "null")
    else:
        say(_table(call.arguments.rest[1:] or ["-ef"], {str(pid) for pid in pids}))


def _table(options: "list[str]", pids: "set[str]") -> str:
    status, text, complaint = _output_of(["ps", *options])
    if status:
        raise PyruncError("ps", " ".join(options), (complaint or text).strip())
    title, *lines = text.splitlines()
    columns = title.split()
    if "PID" not in columns:
        raise PyruncError("ps", " ".join(options), "couldn't find PID field in ps output")
    index = columns.index("PID")
    return "\n".join(
        [title, *(printable(line) for line in lines if line.split()[index : index + 1] and line.split()[index] in pids)]
    )


def _output_of(command: "list[str]") -> "tuple[int, str, str]":
    """(wait status, standard output, standard error). subprocess alone would cost two bare interpreters."""
    streams = [Fd(posix.memfd_create(f"output {number}", posix.MFD_CLOEXEC), "") for number in (1, 2)]
    moves = [(posix.POSIX_SPAWN_DUP2, stream.number, number) for number, stream in enumerate(streams, 1)]
    try:
        pid = posix.posix_spawnp(command[0], command, posix.environ, file_actions=moves)
    except FileNotFoundError:
        raise PyruncError("ps", "", "is not installed", "use --format json, or install the package procps") from None
    status = posix.waitpid(pid, 0)[1]
    texts = []
    for stream in streams:
        posix.lseek(stream.number, 0, 0)
        texts.append(read_all(stream).decode("utf-8", "replace"))
    return status, texts[0], texts[1]

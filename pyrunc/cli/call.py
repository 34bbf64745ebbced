"""The verbs, what each one is called with, and how it speaks to the user."""

from pyrunc.cli.arguments import Arguments, Flag, Usage
from pyrunc.container.state import StateRoot
from pyrunc.linux.fd import write_all, write_message
from pyrunc.log import Log

VERBS = {
    "checkpoint": "write a running container to files",
    "completion": "print a script that completes verbs, flags and IDs in a shell",
    "create": "create a container",
    "delete": "delete a container and all that belongs to it",
    "doctor": "say what this host has for containers, what it lacks, and what to do",
    "events": "show what a container uses, and when it runs out of memory",
    "exec": "execute a new process in a container",
    "explain": "say what a configuration or a container grants and withholds",
    "features": "show what this runtime supports, as JSON",
    "info": "show this host in a few lines",
    "kill": "send a signal to a container's first process",
    "learn": "run a container, and write down the least that its program needs",
    "list": "list containers",
    "mounts": "give a running container mounts, or take them away again",
    "pause": "stop every process of a container until resume",
    "ps": "list the processes in a container",
    "restore": "make a container of a checkpoint",
    "resume": "let a paused container go on",
    "run": "create and start a container",
    "spec": "write a new configuration",
    "start": "run the program of a created container",
    "state": "show a container's state, as JSON",
    "update": "change the limits of a container",
    "validate": "check a bundle's configuration and explain every mistake",
    "wait": "wait for the end of a container, and print its exit status",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = "/run/pyrunc; as a user $XDG_RUNTIME_DIR/pyrunc"

# The flags before the verb.
USAGE = Usage(
    "",
    "VERB [ARGUMENTS]",
    "run containers as the OCI runtime specification describes them",
    flags=(
        Flag("debug", help="write what is done, step by step, to the log"),
        Flag("log", help="write the log to FILE, journald:NAME or syslog:NAME", value="FILE", shown="standard error"),
        Flag("log-format", help="text or json", value="FORMAT", default="text"),
        Flag("log-level", help="the least that is logged: error, warning, info or debug", value="LEVEL", shown="info"),
        Flag("root", help="where the containers' state is kept", value="DIR", shown=WHERE),
        Flag("systemd-cgroup", help="let systemd make the cgroups (cgroupsPath is then slice:prefix:name)"),
        Flag(
            "cgroup-manager",
            help="who makes the cgroups: cgroupfs, systemd or disabled (nobody)",
            value="NAME",
            shown="cgroupfs",
        ),
        Flag("rootless", help="ignore cgroup permission errors: true, false or auto", value="VALUE", default="auto"),
        Flag("version", "v", help="show the version"),
    ),
)


class Call:
    """What a verb is called with."""

    __slots__ = ("arguments", "log", "manager", "root_given", "rootless", "state_root")

    def __init__(
        self,
        arguments: Arguments,
        state_root: StateRoot,
        log: Log,
        rootless: "bool | None",
        root_given: bool,
        manager: str,
    ) -> None:
        self.root_given = root_given
        self.arguments = arguments
        self.state_root = state_root
        self.log = log
        self.rootless = rootless
        self.manager = manager  # of cgroups: cgroupfs, systemd or disabled

    @property
    def id(self) -> str:
        return self.arguments.rest[0]


TIMELINE = Flag("timeline", help="write what took how long to FILE, for Perfetto; - is a table here", value="FILE")


def over_time(call: Call, name: str, verb: "Callable[[Call], int | None]") -> "int | None":
    """A verb that has --timeline."""
    if not call.arguments.text("timeline"):
        return verb(call)
    from pyrunc.cli import timeline

    file = timeline.open_file(call.arguments)
    call.log = told = timeline.Timeline(call.log)
    return timeline.record(told, name, file, lambda: verb(call))


def say(text: str) -> None:
    """Write to standard output, the whole text."""
    write_all(1, (text + "\n").encode("utf-8", "surrogateescape"))


def complain(text: str) -> None:
    """Write to standard error. If nobody can be told there, the exit status tells it."""
    try:
        write_message(2, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass

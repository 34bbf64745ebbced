"""pyrunc: the flags before the verb, the verb, and the one place where an error becomes a line."""

import _signal
import posix
import sys

from pyrunc.cli.arguments import Arguments, Flag, Usage, check_count, parse
from pyrunc.container import state
from pyrunc.container.state import StateRoot
from pyrunc.errors import PyruncError, StepError, UsageError, printable, reason
from pyrunc.linux.fd import write_message
from pyrunc.log import Log, open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

VERBS = {
    "completion": "print a script that completes verbs, flags and IDs in a shell",
    "create": "create a container",
    "delete": "delete a container and all that belongs to it",
    "events": "show what a container uses, and when it runs out of memory",
    "exec": "execute a new process in a container",
    "features": "show what this runtime supports, as JSON",
    "kill": "send a signal to a container's first process",
    "list": "list containers",
    "pause": "stop every process of a container until resume",
    "ps": "list the processes in a container",
    "resume": "let a paused container go on",
    "run": "create and start a container",
    "spec": "write a new configuration",
    "start": "run the program of a created container",
    "state": "show a container's state, as JSON",
    "update": "change the limits of a container",
    "validate": "check a bundle's configuration and explain every mistake",
}

USAGE = Usage(
    "",
    "VERB [ARGUMENTS]",
    "run containers as the OCI runtime specification describes them",
    flags=(
        Flag("debug", help="write what is done, step by step, to the log"),
        Flag("log", help="write the log to FILE instead of standard error", value="FILE"),
        Flag("log-format", help="text or json", value="FORMAT", default="text"),
        Flag("root", help="where the containers' state is kept", value="DIR"),
        Flag("systemd-cgroup", help="let systemd make the cgroups (cgroupsPath is then slice:prefix:name)"),
        Flag("rootless", help="ignore cgroup permission errors: true, false or auto", value="VALUE", default="auto"),
        Flag("version", "v", help="show the version"),
    ),
)


class Call:
    """What a verb is called with."""

    __slots__ = ("arguments", "log", "root_given", "rootless", "state_root", "systemd")

    def __init__(
        self,
        arguments: Arguments,
        state_root: StateRoot,
        log: Log,
        rootless: "bool | None",
        root_given: bool,
        systemd: bool,
    ) -> None:
        self.root_given = root_given
        self.arguments = arguments
        self.state_root = state_root
        self.log = log
        self.rootless = rootless
        self.systemd = systemd

    @property
    def id(self) -> str:
        return self.arguments.rest[0]


def main(words: "list[str]") -> int:
    """Run one command. Returns its exit status: 0, what a container's program returned, 1, or of `exec` 255."""
    log = Log()
    failure = 1
    verb = ""
    state.lives_for_one_verb = True
    _catch_signals()
    try:
        before = parse(USAGE, words, only_flags=True)
        log = _log(before)
        if before.on("version"):
            from pyrunc.cli.version import print_version

            return print_version()
        verb = before.rest[0] if before.rest else "help"
        if verb == "exec":
            failure = 255
        if "help" in before.given or verb in ("help", "h"):
            from pyrunc.cli.help import print_help

            return print_help(before.rest[1:] if before.rest else [])
        if verb not in VERBS:
            asked = {"-h", "--help"} & {*before.rest[1:]}
            why = f"No help topic for '{verb}'" if asked else "is no verb of pyrunc"
            raise UsageError(f'"{verb}"', "", why, "pyrunc --help lists them")
        return _run(verb, before, log)
    except StepError as error:
        doing = verb if verb == "exec" else f"pyrunc {verb}"  # where runc's has no name, engines show none
        start = "" if error.operation.startswith("exec /") else f"{doing} failed: unable to start container process: "
        return _failed(f"{start}{error}", log, failure)
    except PyruncError as error:
        return _failed(str(error), log, failure)
    except KeyboardInterrupt as error:
        return 128 + int(error.args[0] if error.args else _signal.SIGINT)
    except OSError as error:
        return _failed(reason(error), log, failure)
    except Exception as error:  # a mistake of ours: one line all the same, and where to look with --debug
        if log.debug_on:
            raise
        return _failed(f"internal error: {type(error).__name__}: {error}; --debug shows where", log, failure)


FATAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)


def _catch_signals() -> None:
    """What ends a program ends a verb by way of its clean-up, unless the caller has it ignored (nohup)."""
    for number in FATAL:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _interrupt)
    sys.unraisablehook = _lost


def _interrupt(number: int, _: object) -> None:
    for fatal in FATAL:
        _signal.signal(fatal, _signal.SIG_IGN)  # one is enough, and the clean-up is to be whole
    raise KeyboardInterrupt(number)


def _lost(what: "sys.UnraisableHookArgs") -> None:
    """A signal that was caught in a finalizer, where nothing is raised: once more."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        number = what.exc_value.args[0]
        _signal.signal(number, _interrupt)
        _signal.raise_signal(number)


def _run(verb: str, before: Arguments, log: Log) -> int:
    module = _module(verb)
    usage: Usage = module.USAGE
    arguments = parse(usage, before.rest[1:])
    if "help" in arguments.given:
        from pyrunc.cli.help import print_help

        return print_help([verb])
    check_count(usage, arguments)
    rootless = {"true": True, "false": False, "auto": None}.get(before.text("rootless"), 0)
    if rootless == 0 and rootless is not False:
        raise UsageError("--rootless", before.text("rootless"), "must be true, false or auto")
    root = StateRoot(_absolute(before.text("root"))) if before.text("root") else StateRoot.default()
    kind = rootless if isinstance(rootless, bool) else None
    result = module.main(Call(arguments, root, log, kind, bool(before.text("root")), before.on("systemd-cgroup")))
    return int(result or 0)


def _module(verb: str) -> "ModuleType":
    name = f"pyrunc.cli.{verb}"
    __import__(name)
    return sys.modules[name]


def _log(before: Arguments) -> Log:
    format = before.text("log-format")
    if format not in ("text", "json"):
        raise UsageError("--log-format", f'"{format}"', "unknown log-format", "text or json")
    file = open_log(before.text("log")) if before.text("log") else None
    return Log(file, format == "json", before.on("debug"))


def _failed(text: str, log: Log, status: int) -> int:
    """To the log, where engines read the last line of level "error", and to the user on standard error."""
    text = printable(text)  # whatever was quoted
    if log.file is not None or log.json:
        log.error(text)
    if log.file is not None or not log.json:
        start = "" if text.startswith(("pyrunc ", "exec /")) else "pyrunc: "
        complain(f"{start}{text}")
    return status


def complain(text: str) -> None:
    """To standard error, if anybody can be told there: the exit status says it too."""
    try:
        write_message(2, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{posix.getcwd()}/{path}"


def say(text: str) -> None:
    """To standard output, whole."""
    from pyrunc.linux.fd import write_all

    write_all(1, (text + "\n").encode("utf-8", "surrogateescape"))

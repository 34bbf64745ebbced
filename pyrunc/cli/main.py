"""pyrunc: the flags before the verb, the verb, and the one place where an error becomes a line."""

import _signal
import posix
import sys

from pyrunc.cli.arguments import Arguments, UnknownFlag, Usage, check_count, parse
from pyrunc.cli.call import USAGE, VERBS, Call, complain
from pyrunc.container import state
from pyrunc.container.state import StateRoot
from pyrunc.errors import (
    PyruncError,
    StepError,
    UsageError,
    interrupt,
    lose_no_interruption,
    printable,
    reason,
)
from pyrunc.log import Log, open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, ModuleType


def main(words: "list[str]") -> int:
    """The command. Returns its exit status."""
    try:
        status = _lead(words)
        _ignore_signals()  # it is over, and our callers have nothing to catch one with
    except KeyboardInterrupt as error:  # out here: an error may just be put into words
        status = 128 + int(error.args[0] if error.args else _signal.SIGINT)
    return status


def _lead(words: "list[str]") -> int:
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
            from pyrunc.cli import hints

            raise UsageError(f'"{verb}"', "", why, hints.of_verb(verb))
        return _run(verb, before, log)
    except StepError as error:
        doing = verb if verb == "exec" else f"pyrunc {verb}"  # where runc's has no name, engines show none
        start = "" if error.operation.startswith("exec /") else f"{doing} failed: unable to start container process: "
        return _failed(f"{start}{error}", log, failure)
    except UnknownFlag as error:
        from pyrunc.cli import hints

        return _failed(f"{error}; {hints.of_flag(error)}", log, failure)
    except PyruncError as error:
        return _failed(str(error), log, failure)
    except OSError as error:
        from pyrunc.cli import hints

        return _failed(f"{reason(error)}{hints.of_system(error)}", log, failure)
    except MemoryError:
        return _failed("there is no memory left for pyrunc itself; has the caller a limit (ulimit -v)?", log, failure)
    except Exception as error:  # a mistake of ours: one line all the same, and where to look with --debug
        if log.debug_on:
            raise
        return _failed(f"internal error: {type(error).__name__}: {error}; --debug shows where", log, failure)


FATAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)


def _catch_signals() -> None:
    """Signals that end a program end a verb after its clean-up, unless the caller has them ignored (nohup)."""
    for number in FATAL:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _interrupt)
    lose_no_interruption()


def _interrupt(number: int, frame: "FrameType | None") -> None:
    _ignore_signals()  # a second one must not interrupt the clean-up
    interrupt(KeyboardInterrupt(number), frame)


def _ignore_signals() -> None:
    for number in FATAL:
        _signal.signal(number, _signal.SIG_IGN)


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
    manager = before.text("cgroup-manager") or ("systemd" if before.on("systemd-cgroup") else "cgroupfs")
    if manager not in MANAGERS:
        raise UsageError("--cgroup-manager", f'"{manager}"', "is none", ", ".join(MANAGERS))
    result = module.main(Call(arguments, root, log, kind, bool(before.text("root")), manager))
    return int(result or 0)


def _module(verb: str) -> "ModuleType":
    name = f"pyrunc.cli.{verb}"
    __import__(name)
    return sys.modules[name]


MANAGERS = ("cgroupfs", "systemd", "disabled")
LEVELS = ("", "panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")


def _log(before: Arguments) -> Log:
    format = before.text("log-format")
    if format not in ("text", "json"):
        raise UsageError("--log-format", f'"{format}"', "unknown log-format", "text or json")
    level, target = before.text("log-level"), before.text("log")
    if level not in LEVELS:
        raise UsageError("--log-level", f'"{level}"', "is no level", "error, warning, info or debug")
    debug, warnings = before.on("debug") or level == "debug", level not in ("error", "fatal", "panic")
    kind, _, name = target.partition(":")
    if target[len(kind) :] and kind in ("journald", "syslog"):
        from pyrunc.cli import log_targets

        return log_targets.service(kind, name, debug, warnings)
    file = open_log(target.removeprefix("file:")) if target else None
    return Log(file, format == "json", debug, warnings)


def _failed(text: str, log: Log, status: int) -> int:
    """To the log, where engines read the last line of level "error", and to the user on standard error."""
    text = printable(text)  # whatever was quoted
    if log.is_elsewhere or log.json:
        log.error(text)
    if log.is_elsewhere or not log.json:
        start = "" if text.startswith(("pyrunc ", "exec /")) else "pyrunc: "
        complain(f"{start}{text}")
    return status


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{posix.getcwd()}/{path}"

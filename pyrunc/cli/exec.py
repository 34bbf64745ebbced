"""pyrunc exec ID COMMAND: execute a new process in a running container."""

from pyrunc.cli.arguments import Arguments, Flag, Usage, is_count
from pyrunc.cli.call import TIMELINE, Call, over_time
from pyrunc.cli.create import CONSOLE_SOCKET, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS, absolute
from pyrunc.container.container import Container
from pyrunc.container.exec import execute
from pyrunc.container.options import Options
from pyrunc.errors import UsageError
from pyrunc.linux.fd import read_file
from pyrunc.spec import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Process, User

MAX_ID = 2**32 - 2  # 2**32 - 1 is the kernel's "no change"

USAGE = Usage(
    "exec",
    "ID COMMAND [ARGUMENT…]",
    "execute a new process in a running container",
    (
        CONSOLE_SOCKET,
        PIDFD_SOCKET,
        Flag("cwd", help="the working directory in the container", value="DIR"),
        Flag("env", "e", help="NAME=VALUE for the environment; may be given again", value="VARIABLE", many=True),
        Flag("tty", "t", help="give it a terminal"),
        Flag("user", "u", help="UID or UID:GID, numbers", value="USER"),
        Flag("additional-gids", "g", help="a further group; may be given again", value="GID", many=True),
        Flag("process", "p", help="read the process from FILE (JSON), and no COMMAND", value="FILE"),
        Flag("detach", "d", help="do not wait for its end"),
        PID_FILE,
        Flag("process-label", help="its SELinux label", value="LABEL"),
        Flag("apparmor", help="its AppArmor profile", value="PROFILE"),
        Flag("no-new-privs", help="set no_new_privs"),
        Flag("cap", "c", help="a further capability; may be given again", value="CAPABILITY", many=True),
        PRESERVE_FDS,
        TIMELINE,
        Flag("cgroup", help="a cgroup below the container's, as [CONTROLLER[,…]:]PATH", value="PATH", many=True),
        Flag("ignore-paused", help="start it in a paused container, where it waits"),
        Flag("exec-wait-fifo", help="run the program when somebody opens this fifo for reading", value="FIFO"),
    ),
    least=1,
    most=None,
    stop=True,
    details="""Flags after ID belong to the command. The exit status is the program's, and 255 when it could
not be started.

What FILE leaves unsaid of capabilities, labels, limits, scheduling and no_new_privs is the container's own.

With --exec-wait-fifo all is prepared and checked, and with --detach this command returns; pid and pidfd
are known. The program runs when the fifo, which the caller has made, is opened for reading. The reader gets
a 0, and the end of the file when the program runs; what it reads in between is why it can't.""",
)


def main(call: Call) -> "int | None":
    return over_time(call, "exec", add)


def add(call: Call) -> int:
    arguments = call.arguments
    container = Container.load(call.state_root, call.id, call.log)
    what = _process(container, arguments)
    settings = Options(
        pid_file=absolute(arguments.text("pid-file")),
        console_socket=absolute(arguments.text("console-socket")),
        pidfd_socket=absolute(arguments.text("pidfd-socket")),
        wait_fifo=absolute(arguments.text("exec-wait-fifo")),
        preserve_fds=arguments.number("preserve-fds"),
        detach=arguments.on("detach"),
        cgroups=arguments.texts("cgroup"),
    )
    if settings.detach:
        execute(container, what, settings, arguments.on("ignore-paused"))
        return 0
    from pyrunc.container.foreground import Foreground

    with Foreground(subreaper=False) as foreground:
        settings.console, settings.pidfd = foreground.take_master, foreground.take_pidfd
        return foreground.wait(execute(container, what, settings, arguments.on("ignore-paused")))


def _process(container: Container, arguments: Arguments) -> "Process":
    """Of a file, or the container's own with another command and what the flags say."""
    if arguments.text("process"):
        path = absolute(arguments.text("process"))
        return load.process(read_file(path), path)
    if len(arguments.rest) < 2:
        raise UsageError('"exec"', "", "there is no COMMAND, and no --process", "usage: pyrunc exec ID COMMAND")
    own: Process = container.config.get("process") or {"cwd": "/"}
    what: Process = {**own}
    what["args"] = arguments.rest[1:]
    what["terminal"] = arguments.on("tty")
    what.pop("consoleSize", None)
    if arguments.text("cwd"):
        what["cwd"] = arguments.text("cwd")
    what["env"] = [*(what.get("env") or []), *(_variable(text) for text in arguments.texts("env"))]
    if arguments.text("user"):
        what["user"] = {**(what.get("user") or {}), **_user(arguments.text("user"))}
    if arguments.texts("additional-gids"):
        groups = [_number(text, "--additional-gids") for text in arguments.texts("additional-gids")]
        user = what.setdefault("user", {})
        user["additionalGids"] = [*(user.get("additionalGids") or []), *groups]
    if "no-new-privs" in arguments.given:
        what["noNewPrivileges"] = arguments.on("no-new-privs")
    if arguments.text("apparmor"):
        what["apparmorProfile"] = arguments.text("apparmor")
    if arguments.text("process-label"):
        what["selinuxLabel"] = arguments.text("process-label")
    _add_capabilities(what, arguments.texts("cap"))
    return what


def _add_capabilities(what: "Process", names: "list[str]") -> None:
    """To what the process may use. Never to the inheritable set: a program without privileges of its own would
    get them by executing a file that has some (CVE-2022-29162)."""
    if names:
        sets = what["capabilities"] = {**(what.get("capabilities") or {})}
        sets["bounding"] = [*(sets.get("bounding") or []), *names]
        sets["effective"] = [*(sets.get("effective") or []), *names]
        sets["permitted"] = [*(sets.get("permitted") or []), *names]
        inheritable = sets.get("inheritable") or []
        sets["ambient"] = [*(sets.get("ambient") or []), *(name for name in names if name in inheritable)]


def _variable(text: str) -> str:
    if not text.partition("=")[0] or "=" not in text:
        raise UsageError("--env", f'"{text}"', "is not NAME=VALUE")
    return text


def _user(text: str) -> "User":
    uid, colon, gid = text.partition(":")
    user: User = {"uid": _number(uid, "--user", text)}
    if colon:
        user["gid"] = _number(gid, "--user", text)
    return user


def _number(text: str, flag: str, whole: str = "") -> int:
    """An ID: all of it digits, and one that the kernel does not take for another (crun CVE-2026-30892)."""
    if not is_count(text) or int(text) > MAX_ID:
        raise UsageError(flag, f'"{whole or text}"', "is not a numeric ID", f"0 to {MAX_ID}")
    return int(text)

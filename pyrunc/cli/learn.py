"""pyrunc learn ID: run a container, see what its program needs, and write that as members of config.json."""

import os
import socket
from typing import Any

from pyrunc.cli import run
from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, complain
from pyrunc.cli.create import BUNDLE
from pyrunc.container.options import Options
from pyrunc.errors import ConfigError, PyruncError, printable
from pyrunc.learn import profile
from pyrunc.learn.meeting import Meeting
from pyrunc.learn.watcher import Watcher
from pyrunc.linux.fd import read_file
from pyrunc.spec import load
from pyrunc.spec.jsonc import dumps, dumps_pretty, loads
from pyrunc.spec.types import Config

SHOWN = 6

USAGE = Usage(
    "learn",
    "ID",
    "run a container, and write down the least that its program needs",
    (
        BUNDLE,
        Flag("output", "o", help="where it is written", value="FILE", default="learned.json"),
        Flag("add", help="what an earlier run has learned, which is to be in it too", value="FILE", many=True),
    ),
    least=1,
    most=1,
    details="""The container runs in the foreground, as with `run`, and slower: each system call is looked at. What
is written are members of config.json: linux.seccomp, process.capabilities, linux.maskedPaths, linux.readonlyPaths and
root. Merge them into it:

    jq -s '.[0] * .[1]' config.json learned.json

What the program did not do while it was watched, it may not do afterwards: run its tests, and stop it as it will be
stopped. --add joins several runs. The exit status is that of the program.""",
)


def main(call: Call) -> int:
    arguments = call.arguments
    earlier = [_earlier(path) for path in arguments.texts("add")]
    bundle = arguments.text("bundle") or "."
    config = _configuration(bundle)
    open(arguments.text("output"), "ab").close()  # what was learned is not to be lost when it is over
    root = call.state_root
    with Meeting(root.open(make=True), root.path) as meeting:
        status, seen = _watched(call, config, bundle, meeting)
    found = profile.learned(config, seen)
    for each in earlier:
        found = profile.union(found, each)
    with open(arguments.text("output"), "w", encoding="utf-8") as file:
        file.write(dumps_pretty(found) + "\n")
    for line in summary(config, found, seen, arguments.text("output")):
        complain(printable(line))
    return status


def _configuration(bundle: str) -> Config:
    number = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return load.config(number)
    finally:
        os.close(number)


def _earlier(path: str) -> Any:
    try:
        found: Any = loads(read_file(path).decode())
        profile.union(found, found)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # ValueError: no JSON, or no text
        raise ConfigError("reading", path, "is nothing that pyrunc learn has written") from error
    return found


def _watched(call: Call, config: Config, bundle: str, meeting: Meeting) -> tuple[int, dict[str, Any]]:
    """Run it, with a watcher beside it. Its exit status, and what was seen."""
    changed = os.memfd_create("config.json", os.MFD_CLOEXEC)
    os.write(changed, dumps(profile.to_learn(config, meeting.socket)).encode())
    result = os.memfd_create("seen", os.MFD_CLOEXEC)
    with meeting.listen() as server:
        control, ours = os.pipe2(os.O_CLOEXEC)
        watcher = os.fork()
        if not watcher:
            os.close(ours)
            _watch(server, control, result)
        os.close(control)
        try:
            settings = Options(rootless=call.rootless, config=f"/proc/self/fd/{changed}")
            settings.systemd, settings.no_cgroup = call.manager == "systemd", call.manager == "disabled"
            status = run.in_foreground(call, settings, bundle)
        finally:
            os.close(ours)
            ended = os.waitpid(watcher, 0)[1]
    if ended:
        raise PyruncError("learning", call.id, "its watcher has failed, and nothing was learned")
    seen: Any = loads(os.pread(result, os.fstat(result).st_size, 0).decode("utf-8", "surrogateescape"))
    return status, seen


def _watch(server: socket.socket, control: int, result: int) -> None:
    """In the child, which outlives what ends the program. Never returns."""
    import _signal

    status = 1
    try:
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
            _signal.signal(number, _signal.SIG_IGN)
        seen = Watcher(server, control).run()
        os.write(result, dumps(seen).encode("utf-8", "surrogateescape"))
        status = 0
    except BaseException as error:
        complain(f"pyrunc learn: watching: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def summary(config: Config, found: dict[str, Any], seen: dict[str, Any], output: str) -> list[str]:
    """What was learned, and what was not seen."""
    calls = profile.calls_of(found)
    sets: Any = config.get("process", {}).get("capabilities") or {}
    before = {name for kind in sets.values() for name in kind}
    after = {name for kind in found["process"]["capabilities"].values() for name in kind}
    lines = [
        f"pyrunc learn: {output}: {len(calls)} system calls; capabilities: {', '.join(sorted(after)) or 'none'}"
        f" (of {len(before)})",
    ]
    written = profile._written(config, seen)
    if written:
        more = f" and {len(written) - SHOWN} more" if len(written) > SHOWN else ""
        lines.append(f"  its root file system is written to: {', '.join(written[:SHOWN])}{more}")
    else:
        lines.append("  its root file system can be read-only")
    if seen["capabilities"] is None:
        lines.append(
            f"  not seen: which capabilities the kernel asked for ({seen['why']}; Linux 6.14 tells it by tracefs):"
            " kept is what may be needed by the system calls that were made"
        )
    made = profile.namespaces_of(found)
    if made:
        lines.append(f"  it may make namespaces, those of users too: {', '.join(sorted(made))}")
    if seen["unknown"]:
        lines.append(f"  system calls without a name: {', '.join(map(str, seen['unknown']))}")
    lines.append("  not seen: what it did not do this time, and what io_uring does for it; --add joins several runs")
    return lines

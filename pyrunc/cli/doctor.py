"""pyrunc doctor: what this host has for containers, what it lacks, what follows, and lines for its engines."""

import os
import sys

import pyrunc
from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, say
from pyrunc.doctor import engines, host
from pyrunc.doctor.check import NO
from pyrunc.errors import printable
from pyrunc.spec.jsonc import dumps_pretty

USAGE = Usage(
    "doctor",
    "",
    "say what this host has for containers, what it lacks, and what to do",
    (Flag("json", help="print JSON"),),
    details="""`ok` is as it should be; with `less` containers run, and something can't be asked for; `no` stands in
their way, and the exit status is 1. It is asked for the user who runs it: root, and others, see different things.
Nothing is changed.""",
)


def main(call: Call) -> int:
    checks = [*host.checks()]
    found = [*engines.installed(folder())]
    if call.arguments.on("json"):
        document = {
            "version": pyrunc.__version__,
            "checks": [check._asdict() for check in checks],
            "engines": [engine._asdict() for engine in found],
        }
        say(dumps_pretty(document))
    else:
        lines = [f"  {check.state:<5} {check.name}: {check.found}{_then(check.follows)}" for check in checks]
        say(printable_lines("\n".join(["This host, for this user:", *lines, "", *_engines(found)])))
    return int(any(check.state == NO for check in checks))


def _then(follows: str) -> str:
    return f"\n        -> {follows}" if follows else ""


def _engines(found: list[engines.Engine]) -> list[str]:
    if not found:
        return ["No engine is in PATH: neither Docker, containerd, Podman nor CRI-O."]
    lines = []
    for engine in found:
        lines.append(f"{engine.name} ({engine.program})")
        if engine.knows:
            lines.append(f"  {engine.file} names pyrunc.")
        else:
            lines += [f"  {engine.file}:", "", *(f"    {line}" for line in engine.lines.splitlines()), ""]
            lines += [f"  {engine.then}"] if engine.then else []
        lines += [f"  {engine.trial}"] if engine.trial else []
        lines.append("")
    return lines[:-1] if not lines[-1] else lines


def folder() -> str:
    """Where our programs are: where the image was called, beside the package that runs, or in PATH."""
    called = os.path.dirname(os.path.abspath(sys.argv[0]))
    if "/" in sys.argv[0] and os.access(f"{called}/pyrunc", os.X_OK):
        return called
    prefix = os.path.abspath(f"{os.path.dirname(pyrunc.__file__ or '')}/../../../..")
    if os.access(f"{prefix}/bin/pyrunc", os.X_OK):
        return f"{prefix}/bin"
    return os.path.dirname(host.path_of("pyrunc")) or "/usr/local/bin"


def printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))

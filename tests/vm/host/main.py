"""The command line of tests/vm/run."""

import argparse
import os
import signal
import sys
from pathlib import Path

from host import machine, talk
from host.machine import Machine, Share
from host.qemu import Failed

USAGE = """Run a command in a virtual machine with systemd and nothing but cgroup v2.

  run [options] COMMAND [ARGUMENT…]       start one, run the command, throw the machine away
  run [options] --keep NAME               start one and leave it running
  run [options] --in NAME COMMAND…        in one that is running; eight at a time
  run --stop NAME                         end it

The tree is at /src, read-only, and is the working directory; what tests/vm/install built is in /venv, whose bin is in
PATH. Standard input, output, error and the exit status are the command's. This program's own errors exit with 125, a
timeout with 124. PYRUNC_VM_CACHE is where `build` put the machine (~/.cache/pyrunc-vm), PYRUNC_VM_ACCELERATOR kvm or
tcg (what works).
"""
TREE = Path(__file__).resolve().parents[3]


def main(words: list[str]) -> int:
    options = parse(words)
    try:
        return act(options)
    except Failed as error:
        print("tests/vm/run:", error, file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", help="in a login session of this user: rootless")
    parser.add_argument("--env", action="append", default=[], type=variable, metavar="NAME[=VALUE]")
    parser.add_argument("--share", action="append", default=[], type=folder, metavar="DIR",
                        help="a folder of the host's, at the same path and writable")  # fmt: skip
    parser.add_argument("--tty", "-t", action="store_true", help="give the command a terminal")
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="for the command (1800; 0: none)")
    parser.add_argument("--keep", metavar="NAME")
    parser.add_argument("--in", dest="inside", metavar="NAME")
    parser.add_argument("--stop", metavar="NAME")
    parser.add_argument("--save", action="store_true", help="boot one and save it, for `build`")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if bool(options.keep or options.stop or options.save) == bool(options.command):
        parser.error("a command is needed, except with --keep, --stop and --save")
    return options


def folder(path: str) -> Share:
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is no folder")
    return Share(os.path.abspath(path), os.path.abspath(path), read_only=False)


def variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ.get(name, "")


def act(options: argparse.Namespace) -> int:
    if options.stop:
        machine.named(options.stop).stop()
        os.unlink(machine.place(options.stop))
    elif options.save:
        machine.save()
    elif options.keep:
        machine.keep(options.keep, shares(options))
    elif options.inside:
        return execute(machine.named(options.inside), options)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        started = Machine.start(shares(options))
        try:
            return execute(started, options)
        finally:
            started.stop()
    return 0


def shares(options: argparse.Namespace) -> list[Share]:
    installed = TREE / ".vm/venv"
    installed.mkdir(parents=True, exist_ok=True)
    ours = [Share(str(TREE), "/src", read_only=True), Share(str(installed), "/venv", read_only=True)]
    return [*ours, *options.share]


def execute(machine: Machine, options: argparse.Namespace) -> int:
    request = {"argv": options.command, "env": dict(options.env), "cwd": "/src", "user": options.user}
    with machine.port() as port:
        return talk.execute(port, request, options.timeout, terminal=options.tty and os.isatty(0))

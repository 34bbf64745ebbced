"""Count the instructions that one verb costs, beside those of an interpreter that does nothing.

    python benchmarks/instructions.py --runtime pyrunc state
    python benchmarks/instructions.py --runtime pyrunc create start exec delete run

Unlike milliseconds, these are the same on a busy machine, to a tenth of a percent or so. They are counted by callgrind
(valgrind) in user space, for the interpreter that the launcher starts: not the launcher itself, nor the kernel, nor
the processes that the verb makes. valgrind 3.19 has no clone3, so of create, exec and run it is the way to the clone
that is counted: start-up, imports, the configuration, the cgroup; what follows is mostly the kernel's time.
The launcher executes a sealed clone of the interpreter's file, which valgrind could not follow either; so its command
line is read from a pyrunc that waits (at a fifo given as --log), and run again. For root.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

BARE = ["-ISB", "-Xutf8", "-c", "import posix; posix._exit(0)"]
WORDS = {  # in the foreground `exec` and `run` would handle signal 64, which is valgrind's own
    "state": ["long"],
    "pause": ["long"],
    "resume": ["long"],
    "update": ["--pids-limit", "100", "--cpu-share", "512", "long"],
    "events": ["--stats", "long"],
    "ps": ["long"],
    "create": ["--bundle", "BUNDLE", "one"],
    "start": ["one"],
    "exec": ["--detach", "long", "/bin/true"],
    "delete": ["one"],
    "run": ["--detach", "--bundle", "BUNDLE", "one"],
}
CLONING = ("create", "exec", "run")
MAIN = "from pyrunc.cli.main import main\n"
END_AT_CLONE = """\
import pyrunc.linux.process
def clone3(*_): posix._exit(0)
pyrunc.linux.process.clone3 = clone3
posix.pidfd_open = lambda pid: posix.open(f"/proc/{pid}/ns/pid", posix.O_RDONLY)
import _signal
_signal.pidfd_send_signal = lambda *_: None
"""  # what exec opens a pidfd for is setns, which takes either; valgrind 3.19 has no pidfd_send_signal


def interpreter_command(runtime: str, folder: Path) -> list[str]:
    """What the launcher executes, up to the words that are the verb's."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen([runtime, "--log", str(fifo), "state", "-"], stdin=subprocess.DEVNULL)
    try:
        for _ in range(100):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
            if "--" in words:
                return words[: words.index("--") + 1]
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    sys.exit(f"{runtime} does not start an interpreter as pyrunc's launcher does")


NEVER_DIES = "posix.pidfd_open = lambda pid: posix.eventfd(0)\n"  # start polls it beside the fifo


def with_stand_ins(interpreter: list[str], verb: str) -> list[str]:
    """The command line with something in the place of the system calls that valgrind 3.19 does not know."""
    lines = END_AT_CLONE if verb in CLONING else NEVER_DIES if verb == "start" else ""
    code = interpreter.index("-c") + 1
    changed = list(interpreter)
    changed[code] = changed[code].replace(MAIN, MAIN + lines)
    return changed


def count(command: list[str], folder: Path) -> int:
    """Instructions of one process. Callgrind's file of each process ends in `totals: N`; ours is the one of our PID."""
    output = folder / "callgrind.%p"
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--trace-children=no", f"--callgrind-out-file={output}"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*valgrind, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        status = process.wait(common.TIMEOUT * 4)
        said.seek(0)
        if status:
            sys.exit(f"{' '.join(command[-4:])}: exit status {status}\n{said.read().decode()}")
    profile = folder / f"callgrind.{process.pid}"
    totals = re.search(r"^(?:totals|summary): (\d+)", profile.read_text(), re.MULTILINE)
    if totals is None:
        sys.exit("callgrind has counted nothing")
    return int(totals[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", default=["state"], metavar="VERB", help=f"of {', '.join(WORDS)}")
    parser.add_argument("--runtime", default="pyrunc", help="a pyrunc (default: pyrunc)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="take this configuration")
    options = parser.parse_args()
    unknown = set(options.verbs) - set(WORDS)
    if unknown:
        parser.error(f"not among {', '.join(WORDS)}: {', '.join(unknown)}")

    common.be_subreaper()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-state-", dir="/run") as folder_name,
        common.Bundles(options.config) as bundles,
    ):
        folder = Path(folder_name)
        interpreter = interpreter_command(options.runtime, folder)
        bare = count([interpreter[0], *BARE], folder)
        print(f"{'bare interpreter':22}{bare / 1e6:8.1f} M")
        once, long = bundles.make("once", "/bin/true"), bundles.make("long", "/bin/sleep", "3600")
        root = ["--root", str(folder / "state")]

        def run(*words: str) -> None:
            common.run(options.runtime, *root, *words)

        run("run", "--bundle", str(once), "first")  # what is cached is cached from here on
        run("run", "--detach", "--bundle", str(long), "long")
        try:
            for verb in options.verbs:
                if verb in ("start", "delete"):
                    run("create", "--bundle", str(once), "one")
                if verb == "delete":
                    run("start", "one")
                words = [str(once) if word == "BUNDLE" else word for word in WORDS[verb]]
                command = with_stand_ins(interpreter, verb)
                instructions = count([*command, *root, verb, *words], folder)
                told = f"{verb}, to the clone" if verb in CLONING else verb
                print(f"{told:22}{instructions / 1e6:8.1f} M  {instructions / bare:5.2f} bare interpreters", flush=True)
                run("delete", "--force", "one")
        finally:
            for name in ("one", "long"):
                run("delete", "--force", name)


if __name__ == "__main__":
    main()

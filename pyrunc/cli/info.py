"""pyrunc info: the host in a few lines, as youki has it. `pyrunc doctor` says what follows."""

import os
import posix

import pyrunc
from pyrunc.cgroups.hierarchy import find, is_unified
from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call, say
from pyrunc.doctor.check import text_of
from pyrunc.errors import PyruncError, printable
from pyrunc.linux.process import capget
from pyrunc.spec.rules import CAPABILITIES

USAGE = Usage("info", "", "show this host in a few lines", details="For programs there is `pyrunc doctor --json`.")


def main(_: Call) -> None:
    kernel = posix.uname()
    system = dict(line.partition("=")[::2] for line in text_of("/etc/os-release").splitlines())
    memory = next((line.split()[1] for line in text_of("/proc/meminfo").splitlines() if line[:9] == "MemTotal:"), "0")
    try:
        hierarchies, none = find(), "none"
    except PyruncError as error:
        hierarchies, none = [], f"unknown: {error}"
    unified = is_unified(hierarchies)
    setup = "unified" if unified else "hybrid" if any(not h.name for h in hierarchies) else "legacy"
    held = ", ".join(name for number, name in enumerate(CAPABILITIES) if capget()[0] >> number & 1)
    kinds = sorted(os.listdir("/proc/self/ns"))
    rows = [
        ("Version", pyrunc.__version__),
        ("Kernel-Release", kernel.release),
        ("Kernel-Version", kernel.version),
        ("Architecture", kernel.machine),
        ("Operating System", system.get("PRETTY_NAME", "unknown").strip('"')),
        ("Cores", str(os.cpu_count())),
        ("Total Memory", f"{int(memory) // 1024} MiB"),
        ("Cgroup setup", setup if hierarchies else none),
        *((f"  {h.name or 'unified'}", h.mount) for h in hierarchies),
        *([("Cgroup v2 controllers", text_of(f"{hierarchies[0].mount}/cgroup.controllers"))] if unified else []),
        ("Namespaces", ", ".join(kind for kind in kinds if not kind.endswith("_for_children"))),
        ("Capabilities", held or "none"),
    ]
    say("\n".join(printable(f"{name:<24}{value}") for name, value in rows))

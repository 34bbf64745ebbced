"""Run by the builder, as __main__: imports all that a verb may want, tries every verb, and leaves `entry`.

    warm.py MODULE,MODULE… STDLIB SITE [SITE…]      what is imported besides, and the folders that modules come from

Afterwards nothing can be imported any more: what is not in sys.modules by now does not exist for the image.
"""

import codecs
import gc
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODULES, STDLIB, *SITES = sys.argv[1:]
sys.path[:] = [STDLIB, *SITES]

PROGRAMS = {"pyrunc": "pyrunc.cli.main", "containerd-shim-pyrunc-v2": "shim.main"}
# What libraries import and, in what we ask of them, never call.
EMPTY = {
    "ctypes.util": {"find_library": str},
    "hashlib": {},  # urllib, to log in with a password
    "random": {"Random": None},  # tempfile and email, for names
    "zipfile": {"Path": None},  # importlib.resources, for files in archives
    "decimal": {"Decimal": type("Decimal", (), {})},  # fractions, to be asked whether a number is one
    "unicodedata": {"normalize": lambda _, text: text},  # attrs, for names of attributes: ASCII
    "ast": {},  # inspect, for signatures of C functions
}
NOT_HERE = ("pyrunc.image", "pyrunc.launcher", "pyrunc.linux._build")  # of the build, and of the ordinary program


def stand_in(name: str, module: str) -> None:
    __import__(module)
    sys.modules[name] = sys.modules[module]


def forget_docstrings() -> None:
    """Of all but ours, which are the titles of steps: a megabyte."""
    from importlib.machinery import SourceFileLoader

    def source_to_code(_: SourceFileLoader, data: bytes, path: str) -> object:
        return compile(data, path, "exec", dont_inherit=True, optimize=0 if path.startswith(f"{SITES[0]}/") else 2)

    SourceFileLoader.source_to_code = source_to_code  # type: ignore[assignment,method-assign]


def all_of(package: str) -> "list[str]":
    import os

    folder = next(f"{site}/{package}" for site in SITES if os.path.isdir(f"{site}/{package}"))
    found = []
    for base, folders, files in os.walk(folder):
        folders.sort()  # the order of a directory is the file system's: two builds shall be equal
        for file in sorted(files):
            if file.endswith(".py"):
                path = os.path.relpath(f"{base}/{file}", os.path.dirname(folder))
                found.append(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    return [name for name in sorted(found) if not name.startswith(NOT_HERE)]


def import_everything() -> None:
    import types

    forget_docstrings()
    # In names of hosts. The real one is a megabyte of tables.
    codecs.register(lambda name: codecs.lookup("ascii") if name == "idna" else None)
    stand_in("rpds", "pyrunc.image.stand_in_rpds")
    stand_in("ctypes", "pyrunc.image.stand_in_ctypes")
    for name, members in EMPTY.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    sys.modules["ctypes"].util = sys.modules["ctypes.util"]  # type: ignore[attr-defined]
    for name in [*MODULES.split(","), *all_of("pyrunc"), *all_of("shim")]:
        __import__(name)
        gc.collect()  # at once: what is garbage for long leaves holes
    # What C code, or an error, imports at first use: codecs too, the last two for names of hosts.
    for name in ("json.decoder", "traceback", "linecache", "tokenize", "_strptime"):
        __import__(name)
    for name in ("ascii", "latin-1", "utf-8", "utf-8-sig", "unicode_escape", "idna", "punycode"):
        codecs.lookup(name)


def output_of(words: "list[str]") -> str:
    """A verb, with both its outputs in memory. A mistake of ours ends the build."""
    kept = [posix.dup(number) for number in (1, 2)]
    file = posix.memfd_create("output")
    for number in (1, 2):
        posix.dup2(file, number)
    try:
        sys.modules["pyrunc.cli.main"].main(words)
        text = posix.pread(file, posix.fstat(file).st_size, 0).decode()
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            posix.dup2(copy, number)
            posix.close(copy)
        posix.close(file)
    if "internal error" in text or "Traceback" in text:
        sys.exit(f"pyrunc {' '.join(words)}: {text}")
    return text


def try_and_see(words: "list[str]", expected: str) -> None:
    text = output_of(words)
    if expected not in text:
        sys.exit(f"pyrunc {' '.join(words)} says {text!r}, and not {expected!r}")


FOLDER = "/tmp/pyrunc-image-warm"  # the same in every build: its name is in the memory that is written out
ROOT = ("--root", f"{FOLDER}/root")
ID = "pyrunc-image-warm"
TIMES = 4  # CPython specialises bytecode when it runs the second time, and some of it again


def try_everything() -> None:
    """Caches of types and attributes are filled and bytecode is specialised before the memory is written out: what is
    done in the image for the first time costs a page that is written to."""
    import json
    import os
    import shutil

    shutil.rmtree(FOLDER, ignore_errors=True)
    for folder in (FOLDER, f"{FOLDER}/root", f"{FOLDER}/rootfs"):
        os.mkdir(folder, 0o700)
    verbs = sorted(sys.modules["pyrunc.cli.call"].VERBS)
    for words in (
        ["--version"],
        ["--help"],
        ["features"],
        ["spec", "--bundle", FOLDER],
        *([verb, "--help"] for verb in verbs),
        *(["completion", s] for s in ("bash", "zsh", "fish")),
    ):
        output_of(words)
    with open(f"{FOLDER}/config.json") as file:
        config = json.load(file)
    for _ in range(8):
        output_of(["validate", "--bundle", FOLDER])
        for verb in ("state", "start", "kill", "delete", "pause", "resume", "ps"):
            try_and_see([*ROOT, verb, "none"], "does not exist")
        try_and_see([*ROOT, "list"], "OWNER")
    for change in ({"ociVersion": 1}, {"process": {"cwd": "x"}}, {"linux": {"namespaces": [{"type": "none"}]}}):
        write_config({**config, **change})
        try_and_see(["validate", "--bundle", FOLDER], "config.json")
    report, reader = sys.modules["pyrunc.spec.report"], sys.modules["pyrunc.spec.schema"]
    for kind in (*reader.ENTRIES, *reader.REST):  # their files are not there any more when the image runs
        reader.expanded(report.FOLDER, kind)
    profile = sys.modules["pyrunc.seccomp.profile"]
    profile.compile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW"}],
        }
    )
    try_containers(config)
    shutil.rmtree(FOLDER)


def write_config(config: "dict[str, Any]") -> None:
    import json

    with open(f"{FOLDER}/config.json", "w") as file:
        json.dump(config, file)


def try_containers(config: "dict[str, Any]") -> None:
    """Where the builder may make some: else the image works too, but is slower."""
    builder = posix.readlink("/proc/self/exe")
    program = {"destination": "/program", "type": "bind", "source": builder, "options": ["bind"]}
    posix.close(posix.open(f"{FOLDER}/rootfs/program", posix.O_CREAT | posix.O_WRONLY))
    process = {**config["process"], "terminal": False, "args": ["/program"]}  # it says how it is used, and ends
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW"}
    write_config(
        {
            **config,
            "process": process,
            "mounts": [*config["mounts"], program],
            "linux": {**config["linux"], "seccomp": seccomp},
        }
    )
    try:
        said = output_of([*ROOT, "create", "--bundle", FOLDER, ID])
        if "created" not in output_of([*ROOT, "state", ID]):
            print(f"the image is not warmed by containers, as there can be none here: {said}")
            return
        for _ in range(TIMES):
            try_and_see([*ROOT, "exec", ID, "/program"], "usage")
            for words in (
                ["ps", ID],
                ["update", "--pids-limit", "99", ID],
                ["pause", ID],
                ["resume", ID],
                ["events", "--stats", ID],
                ["kill", ID, "0"],
                ["start", ID],
            ):
                output_of([*ROOT, *words])
            bury_children()
            try_and_see([*ROOT, "delete", ID], "")
            try_and_see([*ROOT, "run", "--bundle", FOLDER, ID], "usage")
            output_of([*ROOT, "create", "--bundle", FOLDER, ID])
    finally:
        output_of([*ROOT, "delete", "--force", ID])


def bury_children() -> None:
    try:
        while True:
            posix.waitpid(-1, 0)
    except ChildProcessError:
        pass


def entry(words: "list[str]") -> int:
    """The command: which of the programs, by its name, and its words."""
    name = words[0].rpartition("/")[2] if words else ""  # execve(2) with an empty list, before Linux 5.18
    module = sys.modules[PROGRAMS.get(name, "pyrunc.cli.main")]
    return int(module.main(words[1:]) or 0)


def globals_of_ours() -> "dict[tuple[str, str], int]":
    ours = [name for name in sys.modules if name.startswith(("pyrunc", "shim"))]
    return {(name, member): id(value) for name in ours for member, value in vars(sys.modules[name]).items()}


def forget_that_it_ran() -> None:
    """What a verb leaves in its process is no part of the image."""
    import _signal

    for number in {*_signal.valid_signals()} - {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE, _signal.SIGXFSZ}:
        if _signal.getsignal(number) is not None:
            _signal.signal(number, _signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__
    sys.modules["pyrunc.container.state"].lives_for_one_verb = False


import_everything()
before = globals_of_ours()
try_everything()
forget_that_it_ran()
after = globals_of_ours()
changed = [key for key in after if key in before and after[key] != before[key]]
if changed:
    sys.exit(f"a verb that was tried has changed {changed}: forget_that_it_ran() should know")
del before, after, changed
gc.disable()
sys.path.clear()
sys.path_importer_cache.clear()
sys.path_hooks.clear()
sys.meta_path[:] = [each for each in sys.meta_path if getattr(each, "__name__", "") == "BuiltinImporter"]
sys.argv[:] = ["pyrunc"]
gc.collect()
gc.freeze()

"""Run by the builder, as __main__: imports all that a verb may want, tries what changes nothing, and leaves `entry`.

    warm.py MODULE,MODULE… STDLIB SITE [SITE…]      what is imported besides, and the folders that modules come from

Afterwards nothing can be imported any more: what is not in sys.modules by now does not exist for the image.
"""

import codecs
import gc
import posix
import sys

MODULES, STDLIB, *SITES = sys.argv[1:]
sys.path[:] = [STDLIB, *SITES]

PROGRAMS = {"pyrunc": "pyrunc.cli.main", "containerd-shim-pyrunc-v2": "shim.main"}
# What libraries import and, in what we ask of them, never call.
EMPTY = {
    "ctypes.util": {"find_library": str},
    "hashlib": {},  # urllib, to log in with a password
    "random": {"Random": None},  # tempfile and email, for names
}
NOT_HERE = ("pyrunc.image", "pyrunc.launcher", "pyrunc.linux._build", "pyrunc.spec._compile")


def stand_in(name: str, module: str) -> None:
    __import__(module)
    sys.modules[name] = sys.modules[module]


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
        text = posix.pread(file, 1 << 20, 0).decode()
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


def try_everything() -> None:
    """Caches of types and attributes are filled and bytecode is specialised before the memory is written out."""
    import json
    import os
    import shutil

    folder = "/tmp/pyrunc-image-warm"  # the same in every build: its name is in the memory that is written out
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(f"{folder}/root")
    root = f"{folder}/root"
    verbs = sorted(sys.modules["pyrunc.cli.main"].VERBS)
    try:
        os.mkdir(f"{folder}/rootfs")
        for words in (["--version"], ["--help"], ["features"], ["spec", "--bundle", folder],
                      *([verb, "--help"] for verb in verbs), *(["completion", s] for s in ("bash", "zsh", "fish"))):
            output_of(words)
        with open(f"{folder}/config.json") as file:
            config = json.load(file)
        for _ in range(8):
            output_of(["validate", "--bundle", folder])
            for verb in ("state", "start", "kill", "delete", "pause", "resume", "ps"):
                try_and_see(["--root", root, verb, "none"], "does not exist")
            try_and_see(["--root", root, "list"], "OWNER")
        for change in ({"ociVersion": 1}, {"process": {"cwd": "x"}}, {"linux": {"namespaces": [{"type": "none"}]}}):
            with open(f"{folder}/config.json", "w") as file:
                json.dump({**config, **change}, file)
            try_and_see(["validate", "--bundle", folder], "config.json")
        report, reader = sys.modules["pyrunc.spec.report"], sys.modules["pyrunc.spec._compile"]
        for kind in (*reader.ENTRIES, *reader.REST):  # their files are not there any more when the image runs
            reader.expanded(report.FOLDER, kind)
        profile = sys.modules["pyrunc.seccomp.profile"]
        profile.compile({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                         "syscalls": [{"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW"}]})
    finally:
        shutil.rmtree(folder)


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

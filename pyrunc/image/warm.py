"""Run by the builder, as __main__: imports what verbs need, tries every verb, and leaves `entry`.

    warm.py PACK MODULE,MODULE… STDLIB SITE [SITE…]

PACK is the file of what is imported later (later.py): the first run writes it, and the second reads it. MODULEs are
imported besides ours. The folders are those that modules come from.

What is neither in sys.modules by the end nor in PACK does not exist for the image.
"""

import array
import builtins
import codecs
import gc
import posix
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    compile_text: Any  # of build.c

PACK, MODULES, STDLIB, *SITES = sys.argv[1:]
sys.path[:] = [STDLIB, *SITES]

PROGRAMS = {"pyrunc": "pyrunc.cli.main", "containerd-shim-pyrunc-v2": "pyrunc.shim.main"}
# What libraries import and, in what we ask of them, never call. None: they do without it.
EMPTY = {
    "typing_extensions": None,
    "ctypes.util": {"find_library": str},
    "hashlib": {},  # urllib, to log in with a password
    "random": {"Random": None},  # tempfile and email, for names
    "decimal": {"Decimal": type("Decimal", (), {})},  # fractions, to be asked whether a number is one
    "unicodedata": {"normalize": lambda _, text: text},  # attrs, for names of attributes: ASCII
    "ast": {},  # inspect, for signatures of C functions
    # jsonschema, for the schemas of schemas. Ours were checked when they were compiled.
    "jsonschema_specifications": {
        "REGISTRY": types.SimpleNamespace(contents=lambda _: {}, combine=lambda other: other)
    },
}
# What is imported when it is needed, with all that only it imports. The last two are C's to import.
LATER = (
    "pyrunc.cli.doctor", "pyrunc.cli.explain", "pyrunc.cli.hints", "pyrunc.cli.info", "pyrunc.cli.validate",
    "pyrunc.doctor", "pyrunc.explain", "pyrunc.spec.everything", "pyrunc.spec.report", "pyrunc.spec.schema",
    "difflib", "jsonschema", "pathlib", "tomllib", "urllib", "_strptime", "traceback",
)  # fmt: skip
# Of the build, of the ordinary program, and of programs that use the library, which have a Python of their own.
NOT_HERE = (  # of the build, of the ordinary program, of programs that import pyrunc; build.py has these too
    "pyrunc.aio", "pyrunc.image", "pyrunc.launcher", "pyrunc.library", "pyrunc.linux._build", "pyrunc.spec.compiler",
    "pyrunc.spec.patterns",
)  # fmt: skip


def stand_in(name: str, module: str) -> None:
    __import__(module)
    sys.modules[name] = sys.modules[module]


def forget_docstrings() -> None:
    """And line numbers, of all but ours: a megabyte. Our docstrings are the titles of steps."""
    from importlib.machinery import SourceFileLoader

    compile = builtins.compile

    def source_to_code(_: SourceFileLoader, data: bytes, path: str) -> types.CodeType:
        if path.startswith(f"{SITES[0]}/"):
            return compile(data, path, "exec", dont_inherit=True, optimize=0)
        return without_lines(compile(data, path, "exec", dont_inherit=True, optimize=2))

    def without_lines(code: types.CodeType) -> types.CodeType:
        constants = (without_lines(each) if isinstance(each, types.CodeType) else each for each in code.co_consts)
        return code.replace(co_linetable=b"", co_consts=tuple(constants))

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
    forget_docstrings()
    from pyrunc.image.later import Later

    later = read_later(Later) if is_second_run else None
    # In names of hosts. The real one is a megabyte of tables.
    codecs.register(lambda name: codecs.lookup("ascii") if name == "idna" else None)
    stand_in("rpds", "pyrunc.image.stand_in_rpds")
    stand_in("ctypes", "pyrunc.image.stand_in_ctypes")
    for name, members in EMPTY.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members or {})
        if members is None:
            sys.modules[name] = None  # type: ignore[assignment]
    sys.modules["ctypes"].util = sys.modules["ctypes.util"]  # type: ignore[attr-defined]
    # Besides, what C code imports at first use. The last two codecs are for names of hosts.
    everything = [*MODULES.split(","), "json.decoder", *all_of("pyrunc")]
    for name in everything:
        if not name.startswith((*LATER, *NOT_HERE)):
            import_one(name)
    for name in ("ascii", "latin-1", "utf-8", "utf-8-sig", "unicode_escape", "idna", "punycode"):
        codecs.lookup(name)
    if not is_second_run:
        pack([*(name for name in everything if name.startswith(LATER)), *LATER])
    forget_finders()
    sys.meta_path.append(later or read_later(Later))


def read_later(kind: "Any") -> "Any":
    with open(PACK, "rb") as file:
        return kind(file.read())


def exists(path: str) -> bool:
    try:
        return bool(posix.stat(path))
    except FileNotFoundError:
        return False


def import_one(name: str) -> None:
    __import__(name)
    for function in gc.get_objects(generation=0):  # what has come since gc.collect()
        if isinstance(function, types.FunctionType):
            del function.__annotations__
    gc.collect()  # at once: what is garbage for long leaves holes


def pack(later: "list[str]") -> None:
    from pyrunc.image.later import packed

    known = {*sys.modules}
    check_later()
    for name in later:
        __import__(name)
    new = [name for name in sys.modules if name not in known]
    folder = sys.modules["pyrunc.spec.report"].FOLDER
    schemas = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.iterdir())}
    with open(PACK, "wb") as file:
        file.write(packed(new, schemas))
    for name in new:  # they are tried as they will be: from there
        del sys.modules[name]
        package, _, member = name.rpartition(".")
        vars(sys.modules[package]).pop(member, None) if package in sys.modules else None


def check_later() -> None:
    imported = [name for name in sys.modules if name.startswith(LATER) and name not in EMPTY]
    if imported:
        sys.exit(f"{imported} are in LATER, but what is imported from the start imports them")


def forget_finders() -> None:
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.path_hooks.clear()
    sys.meta_path[:] = [each for each in sys.meta_path if getattr(each, "__name__", "") == "BuiltinImporter"]


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
    gc.collect()
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


def try_what_is_imported_later(config: "dict[str, Any]") -> None:
    """By the first run only: afterwards it is imported."""
    for verb in ("doctor", "explain", "info", "validate"):
        output_of([verb, "--help"])
    for shell in ("bash", "zsh", "fish"):
        output_of(["completion", shell])
    try_and_see(["satte"], "state")
    for verb in ("explain", "validate"):
        output_of([verb, "--bundle", FOLDER])
    for change in ({"ociVersion": 1}, {"process": {"cwd": "x"}}, {"linux": {"namespaces": [{"type": "none"}]}}):
        write_config({**config, **change})
        try_and_see(["validate", "--bundle", FOLDER], "config.json")
    write_config(config)


def try_everything() -> None:
    """Caches of types and attributes are filled and bytecode is specialised before the memory is written out: what is
    done in the image for the first time costs a page that is written to."""
    import json

    remove(FOLDER)
    for folder in (FOLDER, f"{FOLDER}/root", f"{FOLDER}/rootfs"):
        posix.mkdir(folder, 0o700)
    for words in (["--version"], ["--help"], ["features"], ["spec", "--bundle", FOLDER]):
        output_of(words)
    for verb in sorted(sys.modules["pyrunc.cli.call"].VERBS):
        if not f"pyrunc.cli.{verb}".startswith(LATER):
            output_of([verb, "--help"])
    with open(f"{FOLDER}/config.json") as file:
        config = json.load(file)
    for _ in range(8):
        for verb in ("state", "start", "kill", "delete", "pause", "resume", "ps"):
            try_and_see([*ROOT, verb, "none"], "does not exist")
        try_and_see([*ROOT, "list"], "OWNER")
    if not is_second_run:
        try_what_is_imported_later(config)
    profile = sys.modules["pyrunc.seccomp.profile"]
    profile.compile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW"}],
        }
    )
    try_containers(config)
    remove(FOLDER)


def remove(folder: str) -> None:
    """Not by shutil, which would be in the image."""
    import os

    for base, folders, files in os.walk(folder, topdown=False):
        for name in files:
            posix.unlink(f"{base}/{name}")
        for name in folders:
            posix.rmdir(f"{base}/{name}")
    if os.path.isdir(folder):
        posix.rmdir(folder)


def write_config(config: "dict[str, Any]") -> None:
    import json

    with open(f"{FOLDER}/config.json", "w") as file:
        json.dump(config, file)


def try_containers(config: "dict[str, Any]") -> None:
    """Where the builder may make some: else the image works too, but is slower.

    Not `pause`, `resume` and `ps`: how often their loops turn depends on the host, and two builds shall be equal.
    """
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
                ["update", "--pids-limit", "99", ID],
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
    sys.argv[:] = words[:1]
    module = sys.modules[PROGRAMS.get(name, "pyrunc.cli.main")]
    return int(module.main(words[1:]) or 0)


def globals_of_ours() -> "dict[str, array.array[int]]":
    """Addresses. As numbers of Python they would leave holes."""
    ours = (name for name in sys.modules if name.startswith("pyrunc"))
    return {name: array.array("Q", (id(value) for value in vars(sys.modules[name]).values())) for name in ours}


def changes(before: "dict[str, array.array[int]]") -> "list[str]":
    """What has come is last, in the order of a dictionary: a cache, which is welcome."""
    return [
        f"{name}.{member}"
        for name, values in before.items()
        for value, (member, now) in zip(values, vars(sys.modules[name]).items(), strict=False)
        if value != id(now)
    ]


def number_types() -> None:
    """Each has a number from its first use on, which bytecode remembers. The order of uses depends on the host."""
    for kind in gc.get_objects():
        if isinstance(kind, type):
            kind.__module__  # noqa: B018


def forget_turns() -> None:
    """How often these have turned depended on the host too, and their bytecode remembers it."""
    foreground, relay = (sys.modules[f"pyrunc.container.{name}"] for name in ("foreground", "relay"))
    for kind in (foreground.Foreground, relay.Relay):
        for function in vars(kind).values():
            if isinstance(function, types.FunctionType):
                function.__code__ = function.__code__.replace()


def forget_that_it_ran(state: "dict[str, Any]") -> None:
    """What a verb leaves in its process is no part of the image."""
    import _signal

    for number in {*_signal.valid_signals()} - {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGPIPE, _signal.SIGXFSZ}:
        if _signal.getsignal(number) is not None:
            _signal.signal(number, _signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__
    vars(sys.modules["pyrunc.container.state"]).update(state)


gc.disable()
is_second_run = exists(PACK)
import_everything()
number_types()
before = globals_of_ours()
kept = {name: vars(sys.modules["pyrunc.container.state"])[name] for name in ("lives_for_one_verb", "_ourselves")}
try_everything()
forget_that_it_ran(kept)
forget_turns()
changed = changes(before)
if changed:
    sys.exit(f"a verb that was tried has changed {changed}: forget_that_it_ran() should know")
if is_second_run:
    check_later()
del before, changed, kept
sys.argv[:] = ["pyrunc"]
gc.collect()
gc.freeze()

"""Builds the image: python3.13 build.py OUTPUT --cffi FOLDER [--shim LINK] [--libraries FOLDER…] [--seed WORDS]

Needed besides: a C compiler, libpython3.13.a with its headers, and the archives of libffi, libseccomp and libz (Debian:
gcc python3-dev libffi-dev libseccomp-dev zlib1g-dev).

Two builds of one tree, in one folder and with one seed, are equal or differ in some dozens of bytes: see docs/image.md.
"""

import argparse
import ast
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
OURS = ("main", "build", "freeze", "immortal", "thaw", "heap", "linked")
FLAGS = (
    "-O2", "-fno-pie", "-fwrapv", "-fno-strict-aliasing", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-parameter",
)  # fmt: skip
LINK = (
    "-static", "-no-pie",
    "-Wl,--allow-multiple-definition",  # mark_start.c's __register_frame_info before libgcc's
    "-Wl,-z,noseparate-code",           # one mapping for text and constants
    "-Wl,--build-id=none",
    f"-Wl,-T,{HERE / 'discard.ld'}",
)  # fmt: skip
LOWEST, HIGHEST = 0x10000000, 0x50000000  # of base addresses: above what mmap_min_addr and old linkers want, below 2 GB
SLOT = 0x4000 if os.uname().machine == "x86_64" else 0x10000  # of a page, wherever pages may be that large
# Not for the image: of the build, of the ordinary program, and of programs that import pyrunc.
WITHOUT = (
    "pyrunc/aio.py", "pyrunc/image/", "pyrunc/launcher/", "pyrunc/library/", "pyrunc/linux/_build.py",
    "pyrunc/spec/compiler.py", "pyrunc/spec/patterns.py",
)  # fmt: skip
NOT_IN_THE_IMAGE = {"_frozen_importlib", "cffi", "ssl"}  # for the build, the ordinary program, a type checker; TLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", default=Path("dist/pyrunc"), type=Path)
    parser.add_argument("--wanting", action="store_true", help="only say what is missing")
    parser.add_argument("--shim", type=Path, metavar="LINK", help="a second name, by which the image is the shim")
    parser.add_argument(
        "--cffi",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="the source distribution, unpacked, of the cffi that is installed",
    )
    parser.add_argument(
        "--libraries",
        action="append",
        type=Path,
        metavar="FOLDER",
        help="where jsonschema, pyseccomp and jeepney are (default: where this Python has them)",
    )
    parser.add_argument(
        "--work", default=Path("build/image"), type=Path, metavar="FOLDER", help="for what is made on the way"
    )
    parser.add_argument("--seed", default="", metavar="WORDS",
                        help="what hash seed and base address are derived from (default: the tree)")  # fmt: skip
    arguments = parser.parse_args()
    libraries = arguments.libraries or [Path(path) for path in sys.path if path.endswith("-packages")]
    missing = wanting(arguments.cffi, libraries)
    if missing:
        sys.exit("\n".join(missing))
    if arguments.wanting:
        return
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    package = stage(work / "package")
    seed = Seed(arguments.seed or contents(package))
    program = link(work, compile_all(work, arguments.cffi.resolve(), seed), seed)
    warm(program, arguments.output.resolve(), imported(package), [package, *libraries])
    if arguments.shim:
        arguments.shim.unlink(missing_ok=True)
        arguments.shim.hardlink_to(arguments.output)


def wanting(cffi: Path, libraries: "list[Path]") -> "list[str]":
    """What the image is built of and is not here."""
    if sys.version_info[:2] != (3, 13):
        return [f"the image is built with CPython 3.13; this is {sys.version.split()[0]}"]
    missing = []
    if not archive().exists():
        missing.append(f"{archive()} is not there: install python3-dev")
    if not (cffi / "src/c/_cffi_backend.c").exists():
        missing.append(f"--cffi {cffi}: there is no src/c/_cffi_backend.c; pip download --no-binary cffi cffi==VERSION")
    for name in ("jsonschema", "jeepney", "pyseccomp"):
        if not any((folder / name).is_dir() or (folder / f"{name}.py").exists() for folder in libraries):
            missing.append(f"{name} is not installed: pip install {name}")
    for header, package in (("ffi.h", "libffi-dev"), ("seccomp.h", "libseccomp-dev"), ("zlib.h", "zlib1g-dev")):
        if subprocess.run(["cc", "-E", "-include", header, "-xc", "/dev/null"], capture_output=True).returncode:
            missing.append(f"{header} is not there: install {package}")
    return missing


def archive() -> Path:
    return Path(sysconfig.get_config_var("LIBPL"), f"libpython{sysconfig.get_config_var('VERSION')}.a")


class Seed:
    """What an attacker should not know beforehand, and what makes two builds equal all the same."""

    def __init__(self, words: str) -> None:
        digest = hashlib.sha256(words.encode()).digest()
        self.hash = int.from_bytes(digest[:4], "little")
        self.base = LOWEST + int.from_bytes(digest[4:6], "little") * SLOT % (HIGHEST - LOWEST)


def run(*command: "str | Path") -> None:
    subprocess.run([str(word) for word in command], check=True)


def stage(folder: Path) -> Path:
    """The package as it is installed, with its schemas and what is generated."""
    shutil.rmtree(folder, ignore_errors=True)
    not_modules = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.ld", "*.so", "*.pyi")
    shutil.copytree(TREE / "pyrunc", folder / "pyrunc", ignore=not_modules)  # with what pyrunc/shim leads to
    spec = folder / "pyrunc/spec"
    shutil.copytree(TREE / "oci-spec-schemas", spec / "schemas")
    made = (spec / "_checker.py", spec / "_checker_rest.py")
    run("env", f"PYTHONPATH={folder}", sys.executable, "-B", "-m", "pyrunc.spec.compiler", spec / "schemas", *made)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))  # the time is in the memory of who imported it
    return folder


def imported(folder: Path) -> "list[str]":
    """Every module that the package imports anywhere, in a function for instance: later there is nothing to import."""
    found = set()
    for file in folder.rglob("*.py"):
        if file.relative_to(folder).as_posix().startswith(WITHOUT):
            continue
        for node in at_run_time(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module, *filter(is_module, (f"{node.module}.{alias.name}" for alias in node.names))}
    return sorted(found - NOT_IN_THE_IMAGE)


def at_run_time(node: ast.AST) -> "Iterator[ast.AST]":
    """All of a module but what stands under `if TYPE_CHECKING`."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from at_run_time(child)


def is_module(name: str) -> bool:
    """What is imported from a package, of another's, may be a module of it."""
    if name.startswith("pyrunc."):
        return False  # those are all imported
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def contents(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def compile_all(work: Path, cffi: Path, seed: Seed) -> "list[Path]":
    """Object files, in link order: the marks are the first and the last."""
    include = f"-I{sysconfig.get_path('include')}"
    run(sys.executable, HERE.parent / "linux/_build.py", work / "kernel.c")
    jobs: list[tuple[str, Path, list[str]]] = [("mark_start", HERE / "mark_start.c", [])]
    jobs += [(name, HERE / f"{name}.c", [f"-DHASH_SEED={seed.hash}U"]) for name in OURS]
    jobs += [
        ("kernel", work / "kernel.c", ["-include", "alloca.h", "-include", "string.h", "-w"]),
        ("cffi", cffi / "src/c/_cffi_backend.c",
         ["-DFFI_BUILDING=1", "-DUSE__THREAD", "-DHAVE_SYNC_SYNCHRONIZE", f"-I{cffi / 'src/c'}", "-w"]),
        ("mark_end", HERE / "mark_end.c", []),
    ]  # fmt: skip
    objects = [work / f"{name}.o" for name, _, _ in jobs]
    running = [
        subprocess.Popen(["cc", *FLAGS, include, *flags, "-c", str(source), "-o", str(file)])
        for file, (_, source, flags) in zip(objects, jobs, strict=True)
    ]
    statuses = [process.wait() for process in running]
    if any(statuses):
        sys.exit("the image's objects could not be compiled")
    return objects


def link(work: Path, objects: "list[Path]", seed: Seed) -> Path:
    program = work / "builder"
    command = ["cc", *LINK, f"-Wl,-Ttext-segment={seed.base:#x}", "-o", program, *objects[:-1], archive(),
               "-lffi", "-lseccomp", "-lz", "-lm", objects[-1]]  # fmt: skip
    result = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    lines = result.stderr.splitlines()
    if result.returncode:
        sys.exit("\n".join([*lines, "the image could not be linked"]))
    return program


def warm(program: Path, output: Path, modules: "list[str]", sites: "list[Path]") -> None:
    """Under an empty environment, as variables would stay in the image's memory, and so would random addresses.

    Twice: the first compiles, and without the compiler's garbage the second's memory is smaller.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    one_at_a_time = os.open("/tmp", os.O_RDONLY)  # warm.py's folder and container have names that never change
    fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
    bytecode = program.parent / "bytecode"
    shutil.rmtree(bytecode, ignore_errors=True)
    later = program.parent / "later"
    later.unlink(missing_ok=True)
    script = [HERE / "warm.py", later, ",".join(modules), sysconfig.get_path("stdlib"), *sites]
    command = ["setarch", "--addr-no-randomize", program, "--build", output, bytecode, *script]
    for _ in range(2):
        if subprocess.run([str(word) for word in command], env={"PATH": "/usr/bin:/bin"}, cwd="/").returncode:
            sys.exit("the image could not be made")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

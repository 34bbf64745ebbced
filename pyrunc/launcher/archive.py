"""Run by the build: puts the compiled modules of the start-up path into one file, `pyrunc/modules.marshal`.

The import system finds a module in four to six system calls and some hundred lines of its own: for the forty modules
of `create` 7 M instructions, half of a bare interpreter's start (docs/architecture.md has the figures). One file
with an index, and boot.py in place of the search, cost a tenth. The modules lie beside it as ever: without the file,
or for a module that is not in it, Python's own import finds them.

Usage: python archive.py OUTPUT SOURCE-FOLDER [GENERATED-MODULE…]
"""

import ast
import marshal
import sys
from pathlib import Path

OFF_THE_PATH = (
    "pyrunc.cli.completion", "pyrunc.cli.doctor", "pyrunc.cli.explain", "pyrunc.cli.features", "pyrunc.cli.help",
    "pyrunc.cli.validate", "pyrunc.container.features", "pyrunc.doctor", "pyrunc.explain", "pyrunc.image",
    "pyrunc.launcher", "pyrunc.linux._build", "pyrunc.seccomp.names", "pyrunc.seccomp.profile",
    "pyrunc.spec._checker_rest", "pyrunc.spec._compile", "pyrunc.spec.default", "pyrunc.spec.everything",
    "pyrunc.spec.report", "pyrunc.spec.types",
)  # fmt: skip


def main(output: str, root: str, *generated: str) -> None:
    sources = {path: path.relative_to(root) for name in ("pyrunc", "shim") for path in Path(root, name).rglob("*.py")}
    sources |= {Path(path): Path("pyrunc/spec", Path(path).name) for path in generated}
    boot, blobs = b"", b""
    index: dict[str, tuple[bool, str, int, int]] = {}  # name: is it a package, its file, where it lies, how long it is
    names = {name_of(relative) for relative in sources.values()}
    names = {name for name in names if not name.startswith(OFF_THE_PATH)}
    for path, relative in sorted(sources.items(), key=lambda item: item[1]):
        name = name_of(relative)
        tree = ast.parse(path.read_text())
        code = compile(tree, str(relative), "exec", dont_inherit=True)
        if name == "pyrunc.launcher.boot":
            boot = marshal.dumps(code)
        elif name in names:
            blob = marshal.dumps((needed(tree, names), code))
            index[name] = (relative.name == "__init__.py", str(relative), len(blobs), len(blob))
            blobs += blob
    Path(output).write_bytes(sized(boot) + sized(marshal.dumps(index)) + blobs)


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def needed(tree: ast.Module, names: "set[str]") -> "list[str]":
    """The modules of the archive that a module imports before it does anything else, each after its packages."""
    found: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            wholes = [f"{node.module}.{alias.name}" for alias in node.names]  # a module, or something in one
        elif isinstance(node, ast.Import):
            wholes = [alias.name for alias in node.names]
        elif isinstance(node, ast.Expr):
            continue  # the docstring
        else:
            break
        for whole in wholes:
            parts = whole.split(".")
            found |= dict.fromkeys(".".join(parts[: count + 1]) for count in range(len(parts)))
    return [name for name in found if name in names]


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


if __name__ == "__main__":
    main(*sys.argv[1:])

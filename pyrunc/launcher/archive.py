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
from typing import TypeVar

MADE_OF_ANNOTATIONS = ("NamedTuple", "TypedDict")
Documented = TypeVar("Documented", ast.Module, ast.ClassDef, ast.FunctionDef)
OFF_THE_PATH = (
    "pyrunc.__main__", "pyrunc.aio", "pyrunc.cli.completion", "pyrunc.cli.doctor", "pyrunc.cli.explain",
    "pyrunc.cli.features", "pyrunc.cli.help", "pyrunc.cli.info", "pyrunc.cli.learn", "pyrunc.cli.log_targets",
    "pyrunc.cli.many", "pyrunc.cli.mounts", "pyrunc.cli.timeline", "pyrunc.cli.validate",
    "pyrunc.container.annotations", "pyrunc.container.ended", "pyrunc.container.features",
    "pyrunc.container.late_devices", "pyrunc.container.late_mounts", "pyrunc.doctor", "pyrunc.explain",
    "pyrunc.image", "pyrunc.init.confine", "pyrunc.launcher", "pyrunc.learn", "pyrunc.library",
    "pyrunc.linux._build", "pyrunc.linux.exits", "pyrunc.linux.landlock", "pyrunc.seccomp.names",
    "pyrunc.seccomp.profile", "pyrunc.seccomp.younger", "pyrunc.spec._checker_rest", "pyrunc.spec.compiler",
    "pyrunc.spec.default", "pyrunc.spec.everything", "pyrunc.spec.patterns", "pyrunc.spec.report",
    "pyrunc.spec.schema", "pyrunc.spec.types",
)  # fmt: skip


def main(output: str, root: str, *generated: str) -> None:
    folders = (Path(root, "pyrunc"), Path(root, "pyrunc/shim"))  # that is a link, which rglob does not follow
    sources = {path: path.relative_to(root) for folder in folders for path in folder.rglob("*.py")}
    sources |= {Path(path): Path("pyrunc/spec", Path(path).name) for path in generated}
    boot, blobs = b"", b""
    index: dict[str, tuple[bool, str, int, int]] = {}  # name: is it a package, its file, where it lies, how long it is
    names = {name_of(relative) for relative in sources.values()}
    names = {name for name in names if not name.startswith(OFF_THE_PATH)}
    for path, relative in sorted(sources.items(), key=lambda item: item[1]):
        name = name_of(relative)
        tree = ast.parse(path.read_text())
        first = needed(tree, names)
        code = compile(Bare().visit(tree), str(relative), "exec", dont_inherit=True)
        if name == "pyrunc.launcher.boot":
            boot = marshal.dumps(code)
        elif name in names:
            blob = marshal.dumps((first, code))
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


class Bare(ast.NodeTransformer):
    """Without what only people and mypy read: docstrings, annotations, imports for types. They cost each verb time to
    read in. Lines keep their numbers."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if any(isinstance(base, ast.Name) and base.id in MADE_OF_ANNOTATIONS for base in node.bases):
            return node
        return self._without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> "ast.stmt":
        bare = ast.Pass() if node.value is None else ast.Assign([node.target], self.visit(node.value))
        return ast.fix_missing_locations(ast.copy_location(bare, node))

    def visit_If(self, node: ast.If) -> "ast.stmt | list[ast.stmt]":
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return node

    def _without_docstring(self, node: "Documented") -> "Documented":
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body[0] = ast.copy_location(ast.Pass(), first)
        return node


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


if __name__ == "__main__":
    main(*sys.argv[1:])

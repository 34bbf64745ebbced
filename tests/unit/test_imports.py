"""Who may import whom: the folders stand in one order, and no modules import each other in a circle.

Read from the source, so that an import within a function counts: it comes later, but it ties two modules all the
same. Imports for types (`if TYPE_CHECKING`) count for circles. From the order of folders they are exempt: mypy alone
follows them, and pyrunc/__init__.py, which all load, names so what it hands out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A folder imports from itself and from the rows above its own. Those that share a row do not know each other.
ORDER = (
    ("errors", "protobuf"),
    ("spec", "linux"),
    ("log",),
    ("cgroups", "hook_runner", "seccomp"),
    ("init", "explain", "learn"),
    ("container",),
    ("doctor",),
    ("cli", "shim", "library"),
    ("aio", "__main__"),
)
# What is still to be mended. Nothing may be added, and what is mended must go.
UPWARD: set[tuple[str, str]] = set()
CIRCLES: set[tuple[str, ...]] = set()
# Run by the build, or in the image: no part of the program.
NOT_LOADED = ("pyrunc.image", "pyrunc.launcher", "pyrunc.linux._build", "pyrunc.spec.compiler", "pyrunc.spec.patterns")


def modules():
    """Every module's name, and its syntax tree; those of the program."""
    for package in ("pyrunc", "pyrunc/shim"):  # that is a link, which rglob does not follow
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith(NOT_LOADED):
                yield name, ast.parse(file.read_text())


def imports(tree, names, types):
    """The modules of ours that a module imports.

    Args:
        types: with those that are imported for types alone.
    """
    found = set()
    for node in statements(tree, types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"  # it may be a module, or something in one
                found |= {whole if whole in names else node.module} & names
    return found


def statements(tree, types):
    for node in ast.iter_child_nodes(tree):
        if (
            not types
            and isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            continue
        yield node
        yield from statements(node, types)


def folder(name):
    """`linux` of pyrunc.linux.fd; a module that lies beside the folders stands for itself."""
    return name.partition(".")[2].partition(".")[0] or "errors"


def row(name):
    return next(number for number, folders in enumerate(ORDER) if folder(name) in folders)


def circles(graph):
    """The strongly connected parts of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                part.append(stack.pop())
                if part[-1] == node:
                    break
            if len(part) > 1:
                found.append(tuple(sorted(part)))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return set(found)


def graph(types):
    trees = dict(modules())
    found = {name: imports(tree, {*trees}, types) for name, tree in trees.items()}
    found["pyrunc"] = set()  # it hands out names, and imports none itself
    return found


def test_a_folder_imports_only_from_those_below_it():
    found = {
        (name, other)
        for name, others in graph(types=False).items()
        for other in others
        if folder(other) != folder(name) and row(other) >= row(name)
    }
    assert found == UPWARD


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph(types=True)) == CIRCLES


def test_an_import_within_a_function_counts():
    tree = ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    from b import c\n    import d.e")
    names = {"a", "b", "b.c", "d.e"}
    assert imports(tree, names, types=False) == {"b.c", "d.e"}
    assert imports(tree, names, types=True) == {"a", "b.c", "d.e"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {("a", "b", "c")}

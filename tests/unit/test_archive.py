"""The archive of modules: what is loaded from it is as Python itself would have it, and does what the source does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pyrunc.launcher.archive import Bare

PYRUNC = Path(sys.prefix, "bin/pyrunc")  # the launcher, whatever program else is tested
HOME = PYRUNC.parents[1] / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
LOAD = """
import marshal, posix, sys
home, first = sys.argv[1:]
sys.path.append(home)
archive = posix.open(home + "/pyrunc/modules.marshal", posix.O_RDONLY)
exec(marshal.loads(posix.read(archive, int.from_bytes(posix.read(archive, 4), "little"))))
index = sys.meta_path[0].index
for name in [first, *sorted(index, reverse=True)]:
    __import__(name)
for name, (is_package, file, *_) in index.items():
    module = sys.modules[name]
    parent, _, child = name.rpartition(".")
    assert module.__file__ == f"{home}/{file}", name
    assert module.__package__ == (name if is_package else parent), name
    assert not is_package or module.__path__ == [f"{home}/{file}".rpartition("/")[0]], name
    assert not parent or getattr(sys.modules[parent], child) is module, name
print(len(index))
"""


@pytest.mark.parametrize(
    "first", ["pyrunc.cli.main", "pyrunc.container.create", "pyrunc.shim.main", "pyrunc.shim.task"]
)
def test_all_that_is_in_it_is_loaded_whatever_comes_first(first):
    words = [sys.executable, "-I", "-S", "-c", LOAD, str(HOME), first]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


SOURCE = '''"""A module."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nowhere import Any
else:
    kept = 1

LIMIT: "int" = 3


class Thing:
    """A class."""

    size: "int"

    def double(self, number: "Any", *, times: "int" = 2) -> "Any":
        """A method."""
        return number * times


class Empty:
    """Nothing else is in it."""


def fail() -> "None":
    raise ValueError(LIMIT)
'''


@pytest.fixture
def made():
    found: dict[str, object] = {"__name__": "made"}
    exec(compile(Bare().visit(ast.parse(SOURCE)), "made.py", "exec"), found)
    return found


def test_the_code_does_what_it_did(made):
    assert made["Thing"]().double("ab") == "abab"
    assert made["kept"] == 1


def test_docstrings_and_annotations_are_gone(made):
    assert made.get("__doc__") is None
    assert made.get("__annotations__") is None
    assert made["Empty"].__doc__ is None
    assert not hasattr(made["Thing"], "size")
    assert made["Thing"].double.__doc__ is None
    assert made["Thing"].double.__annotations__ == {}


def test_an_error_names_the_line_of_the_source(made):
    with pytest.raises(ValueError, match="3") as caught:
        made["fail"]()
    assert caught.traceback[-1].lineno + 1 == SOURCE.splitlines().index("    raise ValueError(LIMIT)") + 1


def test_a_class_that_is_made_of_its_annotations_keeps_them():
    found: dict[str, object] = {"__name__": "made"}
    source = "from typing import NamedTuple\nclass Pair(NamedTuple):\n    left: int\n    right: int"
    exec(compile(Bare().visit(ast.parse(source)), "made.py", "exec"), found)
    assert found["Pair"](1, 2).right == 2

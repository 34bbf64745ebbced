"""The archive of modules: what is loaded from it is as if Python itself had imported it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PYRUNC = Path(os.environ.get("PYRUNC") or Path(sys.prefix, "bin/pyrunc"))
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


@pytest.mark.parametrize("first", ["pyrunc.cli.main", "pyrunc.container.create", "shim.main", "shim.service"])
def test_all_that_is_in_it_is_loaded_whatever_comes_first(first):
    words = [sys.executable, "-I", "-S", "-c", LOAD, str(HOME), first]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100

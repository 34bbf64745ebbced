"""Run by the launcher, from the archive (archive.py): modules come from it, in place of a search of the file system.

The launcher has put two names here: `archive`, a descriptor of it that stands at its index, and `home`, the folder that
holds the package.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

Module = type(sys)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    archive: int
    home: str


class Archive:
    """A finder and loader, as importlib's protocols have them (PEP 451)."""

    __slots__ = ("descriptor", "home", "index", "start")

    def __init__(self, descriptor: int, home: str) -> None:
        self.descriptor = descriptor
        self.home = home
        size = int.from_bytes(posix.read(descriptor, 4), "little")
        self.index: dict[str, tuple[bool, str, int, int]] = marshal.loads(posix.read(descriptor, size))
        self.start = posix.lseek(descriptor, 0, 1)

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        entry = self.index.get(name)
        if entry is None:
            return None
        spec = ModuleSpec(name, self, origin=f"{self.home}/{entry[1]}", is_package=entry[0])  # type: ignore[arg-type]
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(f"{self.home}/{entry[1].rpartition('/')[0]}")
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """None: the ordinary kind."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code. What that imports first of all is loaded here: for each module the import system would run
        twice as many instructions as most modules' own code."""
        _, _, offset, size = self.index[module.__name__]
        needs, code = marshal.loads(posix.pread(self.descriptor, size, self.start + offset))
        for name in needs:
            if name not in sys.modules:
                self.load(name)
        exec(code, module.__dict__)

    def load(self, name: str) -> None:
        """What importlib does for a module of the archive whose package is loaded already."""
        is_package, file, *_ = self.index[name]
        parent, _, child = name.rpartition(".")
        module = Module(name)
        module.__loader__ = self  # type: ignore[assignment]
        module.__file__ = f"{self.home}/{file}"
        module.__package__ = parent
        if is_package:
            module.__package__ = name
            module.__path__ = [module.__file__.rpartition("/")[0]]
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        if parent:
            setattr(sys.modules[parent], child, module)


gc.disable()  # a command makes no garbage to speak of, and ends soon
sys.meta_path.insert(0, Archive(archive, home))  # noqa: F821  # the launcher's

"""Run by the launcher, from the archive (archive.py): modules come from it, in place of a search of the file system.

The launcher has put two names here: `modules`, the archive, and `home`, the folder that holds the package.
"""

import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    home: str
    modules: dict[str, tuple[bool, str, bytes]]


class Archive:
    """A finder and loader, as importlib's protocols have them (PEP 451)."""

    __slots__ = ("home", "modules")

    def __init__(self, home: str, modules: "dict[str, tuple[bool, str, bytes]]") -> None:
        self.home = home
        self.modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        entry = self.modules.get(name)
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
        exec(marshal.loads(self.modules[module.__name__][2]), module.__dict__)


sys.meta_path.insert(0, Archive(home, modules))  # noqa: F821  # the launcher's

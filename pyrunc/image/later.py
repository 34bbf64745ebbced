"""Modules that few commands need: each is imported when it is needed first, from bytes that are in the image.

They are what explains an invalid configuration (jsonschema and all that it imports), sends spans, or prints an error of
ours. Imported from the start they would be three megabytes of the file.
"""

import marshal
import sys
import zlib
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

    Codes = dict[str, tuple[bool, bytes]]  # whether it is a package, and its code


def packed(names: "Iterable[str]", schemas: "dict[str, str]") -> bytes:
    """What Later() takes: the code of modules that are imported, and the texts of our schemas."""
    codes: Codes = {}
    for name in names:
        module = sys.modules[name]
        loader: Any = module.__spec__ and module.__spec__.loader
        code = loader.get_code(name) if hasattr(loader, "get_code") else None
        if code:  # else it is part of the executable
            codes[name] = hasattr(module, "__path__"), zlib.compress(marshal.dumps(code), 9)
    return marshal.dumps((codes, zlib.compress(marshal.dumps(schemas), 9)))


class Later:
    """A finder and loader, as importlib's protocols have them (PEP 451)."""

    __slots__ = ("codes", "schemas")

    def __init__(self, data: bytes) -> None:
        self.codes: Codes
        self.schemas: bytes
        self.codes, self.schemas = marshal.loads(data)

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name not in self.codes:
            return None
        is_package = self.codes[name][0]
        # There is no such file, but modules want to know.
        file = f"/{name.replace('.', '/')}{'/__init__' if is_package else ''}.py"
        spec = ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location, spec.cached = True, ""
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """None: the ordinary kind."""

    def exec_module(self, module: "ModuleType") -> None:
        exec(marshal.loads(zlib.decompress(self.codes[module.__name__][1])), vars(module))
        if module.__name__ == "pyrunc.spec.report":
            vars(module)["FOLDER"] = _Schemas(marshal.loads(zlib.decompress(self.schemas)))


class _Schemas:
    """In place of their folder, which is not there when the image runs."""

    def __init__(self, texts: "dict[str, str]") -> None:
        self.texts = texts

    def __truediv__(self, name: str) -> "_Schema":
        return _Schema(self.texts[name])


class _Schema:
    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self, encoding: "Any" = None) -> str:
        return self.text

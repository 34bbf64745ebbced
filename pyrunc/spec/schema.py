"""Read the JSON Schemas of oci-spec-schemas/, each as one tree without references.

Two have use for them: compiler.py, at build time, and report.py, which says what is wrong with a document.
"""

import functools
import json
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

ENTRIES = {
    "config": ("config-schema.json", ""),
    "process": ("config-schema.json", "/definitions/process"),  # what exec --process reads
    "resources": ("config-linux.json", "/resources"),  # what update --resources reads
}
REST = {
    "state": ("state-schema.json", ""),
    "features": ("features-schema.json", ""),
    "solaris": ("config-solaris.json", "/solaris"),  # these five are members of config
    "windows": ("config-windows.json", "/windows"),
    "vm": ("config-vm.json", "/vm"),
    "zos": ("config-zos.json", "/zos"),
    "freebsd": ("config-freebsd.json", "/freebsd"),
}


class Unsupported(Exception):
    """A schema says something that its readers here don't understand."""


@functools.cache
def expanded(folder: Path, entry: str) -> Schema:
    """The schema called `entry`, every `$ref` replaced by what it refers to. It is read once, and must not be changed.

    A description beside a `$ref` takes the place of the other's; all else there draft 4 ignores too.
    """
    name, pointer = {**ENTRIES, **REST}[entry]
    return _Reader(folder).resolve(name, pointer, ())


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}

    def resolve(self, name: str, pointer: str, within: tuple[str, ...]) -> Schema:
        """The schema at `pointer` in the file `name`; `within` are the references being resolved."""
        reference = f"{name}#{pointer}"
        if reference in within:
            raise Unsupported(f"{reference} contains itself")
        if name not in self.files:
            self.files[name] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        node = self.files[name]
        for step in pointer.split("/")[1:]:
            node = node[step]
        schema: Schema = self.expand(node, name, (*within, reference))
        return schema

    def expand(self, node: Any, name: str, within: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self.expand(item, name, within) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            other, _, pointer = node["$ref"].partition("#")
            target = self.resolve(other or name, pointer, within)
            return {**target, "description": node["description"]} if "description" in node else target
        return {key: self.expand(value, name, within) for key, value in node.items() if key != "definitions"}

"""What a suite gave the last time that somebody looked at every line of it, and why it was not more."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "scores"

Entry = dict[str, Any]


class Scores:
    """A file of scores/: what was run where, and an entry for each of its parts, one a line."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.json"
        document = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.entries: dict[str, Entry] = document.pop("entries", {})
        self.about: dict[str, Any] = document

    def save(self) -> None:
        lines = [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(self.entries.items())]
        head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in self.about.items())
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("{\n" + head + '  "entries": {\n' + ",\n".join(lines) + "\n  }\n}\n")

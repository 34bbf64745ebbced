"""Every limit that a configuration sets, by its name. Two configurations are compared by these."""

from typing import Any

from pyrunc.explain.subject import Subject
from pyrunc.spec.jsonc import dumps


def of(subject: Subject) -> dict[str, str]:
    """The limits of linux.resources, without the rules for devices, and of process.rlimits. -1 is no limit."""
    resources = {name: value for name, value in (subject.linux.get("resources") or {}).items() if name != "devices"}
    found = _flat("", resources)
    for limit in subject.process.get("rlimits") or []:
        found[limit["type"]] = f"{limit['soft']}, at most {limit['hard']}"
    for name in ("oomScoreAdj", "scheduler", "ioPriority"):
        if subject.process.get(name):
            found[name] = _text(subject.process[name])
    return {name: text for name, text in found.items() if text not in ("-1", "null", "max")}


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: _text(value)} if value not in ([], "") else {}
    return {
        name: text
        for member, inner in value.items()
        for name, text in _flat(f"{prefix}{'.' * bool(prefix)}{member}", inner).items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)

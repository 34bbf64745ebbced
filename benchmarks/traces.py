"""Show where calls of the shim spent their time, from the file that PYRUNC_TRACES_FILE names (docs/containerd.md).

    python benchmarks/traces.py /var/log/pyrunc-traces.jsonl

The slowest calls first, each with its steps in order: when each began, and how long it took, in milliseconds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

Span = dict[str, Any]


def read(path: Path) -> list[Span]:
    """Every span, its times as numbers."""
    found: list[Span] = []
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            found += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
    for span in found:
        span["began"], span["took"] = _milliseconds(span["startTimeUnixNano"], span["endTimeUnixNano"])
    return found


def _milliseconds(began: str, ended: str) -> tuple[float, float]:
    return int(began) / 10**6, (int(ended) - int(began)) / 10**6


def show(span: Span, parts: dict[str, list[Span]], least: float, origin: float, depth: int = 0) -> None:
    name = f"{'  ' * depth}{span['name']}"
    failed = span.get("status", {}).get("message", "")
    print(f"{span['began'] - origin:10.1f} {span['took']:10.1f}  {name}{failed and f'  FAILED: {failed}'}")
    for part in sorted(parts.get(span["spanId"], []), key=lambda each: each["began"]):
        if part["took"] >= least:
            show(part, parts, least, origin, depth + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=10, metavar="N", help="how many of the slowest (default: 10)")
    parser.add_argument("--least", type=float, default=1, metavar="MS", help="steps shorter than this are left out")
    asked = parser.parse_args()
    spans = read(asked.file)
    parts: dict[str, list[Span]] = {}
    for span in spans:
        parts.setdefault(span["parentSpanId"], []).append(span)
    calls = sorted((span for span in spans if span["kind"] == 2), key=lambda each: -each["took"])
    for call in calls[: asked.calls]:
        about = {each["key"]: each["value"]["stringValue"] for each in call["attributes"]}
        print(f"\n{about['container.id']} {about.get('containerd.exec_id', '')} trace {call['traceId']}")
        show(call, parts, asked.least, call["began"])


if __name__ == "__main__":
    main()

"""How long a call and each of its steps took: spans, in the trace of whoever called containerd (OpenTelemetry).

This is loaded only if containerd's environment says where spans go; see exporter.py.
"""

import posix
import time

from pyrunc.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrunc.protobuf import Values

    Finished = dict[str, Any]  # a span as OTLP's JSON has it

INTERNAL, SERVER = 1, 2
OF_ERROR = 2
SAMPLED = 1
# A call that changes nothing has no span. Nor has Wait: its span would be as long as the container's life.
METHODS = ("Create", "Start", "Exec", "Delete", "Kill", "Pause", "Resume", "Update", "Checkpoint")


class Span:
    """A piece of time. A part of another span is in the same trace and names that span as its parent."""

    __slots__ = ("attributes", "began", "id", "kind", "name", "parent", "state", "trace")

    def __init__(self, name: str, kind: int, trace: str, parent: str, state: str = "") -> None:
        self.name = name
        self.kind = kind
        self.trace = trace
        self.parent = parent
        self.state = state
        self.id = posix.urandom(8).hex()
        self.attributes: dict[str, str] = {}
        self.began = time.time_ns()

    def part(self, name: str) -> "Span":
        return Span(name, INTERNAL, self.trace, self.id, self.state)

    def finished(self, ended: int, error: str = "") -> "Finished":
        found: Finished = {
            "traceId": self.trace, "spanId": self.id, "parentSpanId": self.parent, "name": self.name,
            "kind": self.kind, "startTimeUnixNano": str(self.began), "endTimeUnixNano": str(ended),
            "attributes": attributes(self.attributes),
        }  # fmt: skip
        if self.state:
            found["traceState"] = self.state
        if error:
            found["status"] = {"code": OF_ERROR, "message": error}
        return found


def attributes(named: "dict[str, str]") -> "list[dict[str, object]]":
    return [{"key": name, "value": {"stringValue": value}} for name, value in named.items() if value]


class Tracer:
    """Decides which calls have a span. Finished spans go to `keep`."""

    __slots__ = ("keep", "namespace")

    def __init__(self, namespace: str, keep: "Callable[[Finished], None]") -> None:
        self.namespace = namespace
        self.keep = keep

    def traced(self, request: "Values", values: "Values", log: Log) -> "Traced | None":
        """A log for what is done for a call: its steps become spans. None: the call has no span."""
        if request["method"] not in METHODS:
            return None
        sent = {each["key"]: each["value"] for each in request["metadata"]}
        caller = parsed(sent.get("traceparent", ""))
        if caller is None:
            trace, parent, state = posix.urandom(16).hex(), "", ""
        elif caller[2] & SAMPLED:
            trace, parent, state = caller[0], caller[1], sent.get("tracestate", "")
        else:
            return None
        span = Span(f"{request['service']}/{request['method']}", SERVER, trace, parent, state)
        span.attributes = {
            "rpc.system": "ttrpc", "rpc.service": request["service"], "rpc.method": request["method"],
            "container.id": values["id"], "containerd.namespace": self.namespace,
            "containerd.exec_id": values.get("exec_id", ""),
        }  # fmt: skip
        return Traced(log, span, self.keep)


class Traced(Log):
    """The log of one call that has a span."""

    __slots__ = ("keep", "span")

    def __init__(self, log: Log, span: Span, keep: "Callable[[Finished], None]") -> None:
        super().__init__(log.file, log.json, log.debug_on)
        self.steps_on = True
        self.span = span
        self.keep = keep

    def took(self, name: str, began: int, ended: int) -> None:
        super().took(name, began, ended)
        step = self.span.part(name)
        step.began = began
        self.keep(step.finished(ended))

    def answered(self, error: str) -> None:
        self.keep(self.span.finished(time.time_ns(), error))


def parsed(text: str) -> "tuple[str, str, int] | None":
    """What a traceparent says: trace, caller's span, flags. https://www.w3.org/TR/trace-context/#traceparent-header"""
    version, _, rest = text.partition("-")
    trace, _, rest = rest.partition("-")
    span, _, rest = rest.partition("-")
    flags, more, _ = rest.partition("-")
    for part, length in ((version, 2), (trace, 32), (span, 16), (flags, 2)):
        if len(part) != length or part.strip("0123456789abcdef"):
            return None
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return None
    return trace, span, int(flags, 16)

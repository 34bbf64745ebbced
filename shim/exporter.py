"""Where spans go: to a file, as lines of JSON, or to a collector, by OTLP (JSON over HTTP).

Both may take long, as a file may be on NFS. So a child does it. containerd's environment, which the shim has, says
where. The variables are OpenTelemetry's, which containerd reads too. They have none for files, so those are ours.
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

import _signal
import posix
import select
import time

from pyrunc.errors import PyruncError, reason
from pyrunc.linux.fd import Fd, write_all
from pyrunc.linux.process import keep_only, reset_signals
from pyrunc.shim.tracing import INTERNAL, Tracer, attributes
from pyrunc.shim.worker import of_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.log import Log
    from pyrunc.shim.loop import Loop, Timer
    from pyrunc.shim.tracing import Finished

FILE = "PYRUNC_TRACES_FILE"
TIMELINE = "PYRUNC_TIMELINE_FILE"  # Chrome's trace format, for Perfetto
PATH = "/v1/traces"  # below an endpoint that is not for traces alone
DELAY_SECONDS = 5.0  # to collect more spans
TIMEOUT_SECONDS = 10.0
MOST = 2048  # waiting spans; further ones are lost
LOOK_AGAIN = (429, 502, 503, 504)  # a busy collector's answers
NAME = "containerd-shim-pyrunc-v2"
ON = ("1", "t", "true")
OVER_HTTP = ("", "http/json", "http/protobuf")  # a collector takes both forms at one address


def exporter(loop: "Loop", log: "Log", namespace: str) -> "Exporter | None":
    """The exporter that the environment asks for. None: spans go nowhere after all."""
    file, timeline, url = _variable(FILE), _variable(TIMELINE), _url(log)
    if _variable("OTEL_SDK_DISABLED").lower() in ON or not (file or timeline or url):
        return None
    return Exporter(loop, log, namespace, file, timeline, url)


def _url(log: "Log") -> str:
    endpoint = _variable("OTEL_EXPORTER_OTLP_ENDPOINT").rstrip("/")
    url = _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (endpoint and endpoint + PATH)
    if not url or _variable("OTEL_TRACES_EXPORTER") not in ("", "otlp"):
        return ""
    protocol = _setting("PROTOCOL")
    if protocol not in OVER_HTTP or not url.startswith(("http://", "https://")):
        log.warning(f"no traces are sent to {url}: over HTTP they could be, and the protocol is {protocol!r}")
        return ""
    return url


def _setting(name: str) -> str:
    return _variable(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or _variable(f"OTEL_EXPORTER_OTLP_{name}")


def _variable(name: str) -> str:
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def _seconds(text: str, default: float) -> float:
    """Milliseconds as seconds. What is no number counts as not given."""
    return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 10 else default


class Exporter:
    """What waits to be sent, and the child that sends.

    Attributes:
        sender: the pipe of a child that is sending. It says what went wrong, and ends with the child.
    """

    __slots__ = ("delay", "file", "log", "loop", "lost", "sender", "spans", "timeline", "timer", "tracer", "url")

    def __init__(self, loop: "Loop", log: "Log", namespace: str, file: str, timeline: str, url: str) -> None:
        self.loop = loop
        self.log = log
        self.tracer = Tracer(namespace, self.keep)
        self.file = file
        self.timeline = timeline
        self.url = url
        self.delay = _seconds(_variable("OTEL_BSP_SCHEDULE_DELAY"), DELAY_SECONDS)
        self.spans: list[Finished] = []
        self.lost = 0
        self.sender = -1
        self.timer: Timer | None = None

    def keep(self, span: "Finished") -> None:
        if len(self.spans) >= MOST:
            self.lost += 1
            return
        self.spans.append(span)
        if self.timer is None and self.sender < 0:
            self.timer = self.loop.after(self.delay, self.send)

    def send(self) -> None:
        """Send all spans, by a child, which may outlive us."""
        self.loop.cancel(self.timer)
        self.timer = None
        if not self.spans:
            return
        if self.lost:
            self.log.warning(f"{self.lost} spans are lost: there were more than {MOST}")
        spans, self.spans, self.lost = self.spans, [], 0
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        if not posix.fork():
            _become_sender(self.file, self.timeline, self.url, spans, write)
        posix.close(write)
        self.sender = read
        self.loop.watch(read, select.POLLIN, lambda _: self._sent(len(spans)))

    def _sent(self, count: int) -> None:
        why = posix.read(self.sender, 4096).decode("utf-8", "replace")
        self.loop.unwatch(self.sender)
        posix.close(self.sender)
        self.sender = -1
        if why:
            self.log.warning(f"{count} spans are lost: {why}")
        if self.spans:
            self.timer = self.loop.after(self.delay, self.send)


def _become_sender(file: str, timeline: str, url: str, spans: "list[Finished]", pipe: int) -> None:
    """Send, in the child. It keeps nothing of ours: neither a connection nor a container's streams."""
    try:
        posix.dup2(pipe, 2)
        keep_only(3, of_modules())
        reset_signals()
        _signal.set_wakeup_fd(-1)
        if timeline:
            _append(timeline, _events(spans), b"[\n")
        data = _document(spans)
        if file:
            _append(file, data + b"\n")
        if url:
            _post(url, data)
    except BaseException as error:
        posix.write(2, f"{file or timeline or url}: {reason(error)}".encode("utf-8", "replace"))
    finally:
        posix._exit(0)


def _document(spans: "list[Finished]") -> bytes:
    from pyrunc import __version__
    from pyrunc.spec.jsonc import dumps

    who = {"service.name": NAME, "service.version": __version__, "host.name": posix.uname().nodename}
    scope = {"scope": {"name": "pyrunc", "version": __version__}, "spans": spans}
    document = {"resourceSpans": [{"resource": {"attributes": attributes(who)}, "scopeSpans": [scope]}]}
    return dumps(document).encode("utf-8", "backslashreplace")


def _events(spans: "list[Finished]") -> bytes:
    """Lines of Chrome's JSON array, which needs no end. Several calls run at a time, so each has a row."""
    from pyrunc.spec.jsonc import dumps

    lines = []
    for span in spans:
        began, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        event = {
            "name": span["name"], "cat": "step" if span["kind"] == INTERNAL else "call", "ph": "X", "ts": began / 1000,
            "dur": (ended - began) / 1000, "pid": posix.getppid(), "tid": int(span["traceId"][:7], 16),
            "args": {each["key"]: each["value"]["stringValue"] for each in span["attributes"]},
        }  # fmt: skip
        lines.append(dumps(event) + ",\n")
    return "".join(lines).encode("utf-8", "backslashreplace")


def _append(path: str, data: bytes, start: bytes = b"") -> None:
    """Append to a file. `start`: goes first into an empty file."""
    with Fd(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o600)) as file:
        write_all(file.number, (b"" if posix.fstat(file.number).st_size else start) + data)


def _post(url: str, data: bytes) -> None:
    """Send to a collector. If it is busy or not there, try again until the time is up."""
    from urllib import error, request

    trusted = _trusted() if url.startswith("https://") else None
    asked = request.Request(url, data, {"Content-Type": "application/json", "User-Agent": "pyrunc", **_headers()})
    deadline = time.monotonic() + _seconds(_setting("TIMEOUT"), TIMEOUT_SECONDS)
    pause = 0.5
    while True:
        try:
            patience = max(0.1, deadline - time.monotonic())
            with request.urlopen(asked, timeout=patience, context=trusted):
                return
        except error.HTTPError as answer:
            if answer.code not in LOOK_AGAIN:
                raise
            why: OSError = answer
        except error.URLError as failure:
            why = failure.reason if isinstance(failure.reason, OSError) else failure
        except OSError as failure:
            why = failure
        if time.monotonic() + pause > deadline:
            raise why
        time.sleep(pause)
        pause *= 2


def _trusted() -> "Any":
    try:
        import ssl
    except ImportError:
        cause = "this pyrunc is an image, which has no TLS"
        raise PyruncError("sending spans", "", cause, "a collector on this host takes http://, or a file") from None
    return ssl.create_default_context(cafile=_setting("CERTIFICATE") or None)


def _headers() -> "dict[str, str]":
    """The headers that tell a collector whose spans these are: NAME=VALUE,NAME=VALUE, percent-encoded."""
    from urllib.parse import unquote

    given = [each.partition("=") for each in _setting("HEADERS").split(",")]
    return {unquote(name.strip()): unquote(value.strip()) for name, equals, value in given if equals}

"""Spans: in the caller's trace, with the steps that they are made of, in a file and by HTTP; nobody waits for it."""

import http.server
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from engines.shim import Failed, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SLOW = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.3"]}]}


def told(file):
    """Every span, its attributes as a dictionary."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        for resource in json.loads(line)["resourceSpans"]:
            found += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
    for span in found:
        span["attributes"] = {each["key"]: each["value"]["stringValue"] for each in span["attributes"]}
    return found


def named(spans, name):
    (span,) = (span for span in spans if span["name"].endswith(name))
    return span


def seconds(span):
    return (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 10**9


def children(spans, parent):
    return [span for span in spans if span["parentSpanId"] == parent["spanId"]]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "traces.jsonl"


@pytest.fixture
def traced(container, file):
    def start(*args, traces=None, **config):
        where = {"PYRUNC_TRACES_FILE": str(file)} if traces is None else traces
        return container(*args, **config).start_shim(env={"OTEL_BSP_SCHEDULE_DELAY": "10", **where})

    return start


def from_start_to_delete(c, file):
    """The spans of the container's whole life, once they are all told."""
    c.call("Start")
    c.call("Kill", signal=9)
    c.call("Wait")
    c.call("Delete")
    wait_until(lambda: any(span["name"].endswith("/Delete") for span in told(file)))
    return told(file)


def test_a_call_and_its_steps_are_spans_of_the_callers_trace(traced, file):
    c = traced("/bin/sleep", "1000", hooks=SLOW)
    c.client.metadata = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "engine=1"}
    c.create()
    spans = from_start_to_delete(c, file)
    assert {span["traceId"] for span in spans} == {TRACE}
    assert {span["traceState"] for span in spans} == {"engine=1"}
    calls = {span["name"].rpartition("/")[2] for span in spans if span["parentSpanId"] == CALLER}
    assert calls == {"Create", "Start", "Kill", "Delete"}
    create = named(spans, "/Create")
    assert create["kind"] == 2
    assert create["attributes"]["container.id"] == c.id
    steps = children(spans, create)
    assert {"create.make_cgroup", "launch.clone", "rootfs.pivot"} <= {span["name"] for span in steps}
    slow = {span["name"] for span in steps if seconds(span) > 0.25}  # on a busy machine there are more
    assert {"hooks.createRuntime", "hooks.ask_runtime"} <= slow  # where the time went: one waits for the other
    for step in steps:
        assert int(create["startTimeUnixNano"]) <= int(step["startTimeUnixNano"])
        assert int(step["endTimeUnixNano"]) <= int(create["endTimeUnixNano"])
    assert "delete.remove_cgroup" in {span["name"] for span in children(spans, named(spans, "/Delete"))}


def test_what_the_loop_leads_has_steps_too(traced, file):
    """Without hooks no worker is needed for any of these."""
    c = traced("/bin/sleep", "1000").create()
    spans = from_start_to_delete(c, file)
    for call, some in (
        ("/Create", {"create.mount_rootfs", "create.make_cgroup", "launch.clone", "rootfs.pivot"}),
        ("/Start", {"start.wait_for_program"}),
        ("/Delete", {"delete.remove_cgroup", "delete.unmount_rootfs"}),
    ):
        assert some <= {span["name"] for span in children(spans, named(spans, call))}


def test_a_timeline_for_perfetto(traced, tmp_path):
    """Chrome's JSON array, which may lack its end; a row for each call."""
    file = tmp_path / "timeline.json"
    c = traced("/bin/sleep", "1000", traces={"PYRUNC_TIMELINE_FILE": str(file)}, hooks=SLOW)
    c.create()
    c.call("Start")
    c.call("Kill", signal=9)
    c.call("Wait")
    c.call("Delete")
    wait_until(lambda: file.exists() and "Task/Delete" in file.read_text())
    events = json.loads(file.read_text().rstrip(",\n") + "]")
    create = next(event for event in events if event["name"].endswith("Create"))
    assert (create["ph"], create["cat"], create["args"]["container.id"]) == ("X", "call", c.id)
    steps = [event for event in events if event["tid"] == create["tid"] and event["cat"] == "step"]
    hook = next(event for event in steps if event["name"] == "hooks.createRuntime")
    assert hook["dur"] >= 300_000
    assert create["ts"] <= hook["ts"]
    assert hook["ts"] + hook["dur"] <= create["ts"] + create["dur"]


def test_a_process_that_is_added_and_one_that_can_not_be(traced, file):
    c = traced("/bin/sleep", "1000").create()
    c.call("Start")
    for exec_id, program in (("right", "/bin/true"), ("wrong", "/bin/none")):
        what = json.dumps({"cwd": "/", "args": [program]}).encode()
        c.call("Exec", exec_id=exec_id, spec={"type_url": "x", "value": what})
    c.call("Start", exec_id="right")
    with pytest.raises(Failed, match="no such file") as raised:
        c.call("Start", exec_id="wrong")
    wait_until(lambda: any(span["attributes"].get("containerd.exec_id") == "wrong" and span.get("status")
                           for span in told(file)))  # fmt: skip
    spans = told(file)
    of = {span["attributes"].get("containerd.exec_id"): span for span in spans if span["name"].endswith("/Start")}
    assert of["wrong"]["status"] == {"code": 2, "message": str(raised.value)}
    assert "launch.clone" in {span["name"] for span in children(spans, of["right"])}
    assert len({span["traceId"] for span in spans if not span["parentSpanId"]}) == 6  # each call: nobody sent a trace


def test_whoever_does_not_want_a_trace_gets_none(traced, file):
    c = traced("/bin/sleep", "1000")
    c.client.metadata = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
    c.create()
    c.client.metadata = {"traceparent": "00-no-trace-01"}  # and what is none is not believed
    c.call("Start")
    wait_until(lambda: told(file))
    assert {span["name"].rpartition("/")[2] for span in told(file) if not span["parentSpanId"]} == {"Start"}


class Collector(http.server.HTTPServer):
    """What a collector is for us; busy the first time."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Receiver)
        self.asked, self.answers = [], [503, 200]
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Receiver(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers["Content-Type"], self.headers["X-Token"], body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_collector_gets_them_as_soon_as_it_takes_them(traced):
    collector = Collector()
    try:
        c = traced("/bin/sleep", "1000", traces={
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}/",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-token=a%20secret",
        })  # fmt: skip
        c.create()
        wait_until(lambda: any(b"/Create" in body for *_, body in collector.asked[1:]))  # the last of it
    finally:
        collector.close()
    first, second = collector.asked[:2]
    assert first == second  # the first time it was busy
    assert first[:3] == ("/v1/traces", "application/json", "a secret")
    (resource,) = json.loads(first[3])["resourceSpans"]
    assert {"key": "service.name", "value": {"stringValue": "containerd-shim-pyrunc-v2"}} in resource["resource"][
        "attributes"
    ]


@pytest.fixture
def mute():
    """A collector that accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def sent_to(server, milliseconds):
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_TIMEOUT": str(milliseconds)}


def sockets(pid):
    folder = f"/proc/{pid}/fd"
    return {link for name in os.listdir(folder) if (link := os.readlink(f"{folder}/{name}")).startswith("socket:")}


def test_a_collector_that_does_not_answer_holds_up_nobody(traced, mute):
    c = traced("/bin/sleep", "1000", traces=sent_to(mute, 600_000)).create()
    with mute.accept()[0]:
        pid = c.call("State")["pid"]  # whoever waited for the collector would not be answered
        shim = c.call("Connect")["shim_pid"]
        children = {int(each) for each in Path(f"/proc/{shim}/task/{shim}/children").read_text().split()}
        (sender,) = children - {pid}
        try:  # who connects to a shim that was killed is not to wait for what has its socket too
            assert len(sockets(sender)) == 1
            assert not sockets(sender) & sockets(shim)
        finally:
            os.kill(sender, signal.SIGKILL)  # it would try for ten minutes


def test_what_a_collector_has_not_taken_after_its_time_is_lost(traced, mute):
    c = traced("/bin/sleep", "1000", traces=sent_to(mute, 200)).create()
    said = ""

    def lost():
        nonlocal said
        said += c.messages()
        return "spans are lost" in said

    wait_until(lost)
    assert "timed out" in said


def test_what_can_not_be_sent_is_said(traced):
    c = traced("/bin/sleep", "1000", traces={
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }).create()  # fmt: skip
    assert "no traces are sent to http://collector:4317/v1/traces" in c.messages()

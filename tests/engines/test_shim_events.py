"""Events: in order, together where they may be, and by containerd's program where it has given no address."""

import contextlib
import os
import socket
import time

import pytest

from engines.shim import wait_until
from pyrunc.log import Log
from pyrunc.protobuf import decode
from pyrunc.shim import events, messages, ttrpc
from pyrunc.shim.loop import Loop
from sizes import size

AWAY_SECONDS = size(30, 1)

PUBLISHER = """#!/bin/sh
# refuses the first two, as a containerd that is not there
echo x >> $0.tries
test $(wc -l < $0.tries) -gt 2 || exit 1
n=$(wc -l < $0.tries)
cat > $0.event.$n
echo "$@" > $0.words.$n
mv $0.words.$n $0.done.$n
"""


def test_without_an_address_events_go_through_containerds_program(container):
    c = container("/bin/sh", "-c", "exit 7")
    program = c.bundle / "publisher"
    program.write_text(PUBLISHER)
    program.chmod(0o755)
    c.publisher = str(program)
    c.start_shim(env={"TTRPC_ADDRESS": ""}).create()
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    wait_until(lambda: len([*c.bundle.glob("publisher.done.*")]) == 4)
    done = sorted(c.bundle.glob("publisher.done.*"), key=lambda path: int(path.suffix[1:]))
    topics = []
    for path in done:
        words = path.read_text().split()
        assert words[:3] == ["--address", "/run/none", "publish"]
        assert words[3::2] == ["--topic", "--namespace"]
        assert words[6] == "tests"
        any = decode(messages.ANY, path.with_name(path.name.replace("done", "event")).read_bytes())
        name, message = messages.EVENTS[words[4]]
        assert any["type_url"] == f"containerd.events.{name}"
        assert decode(message, any["value"])["container_id"] == c.id
        topics.append(words[4].removeprefix("/tasks/"))
    assert topics == ["create", "start", "exit", "delete"]
    c.call("Shutdown")


def test_a_program_that_is_not_there_keeps_nothing_from_working(container):
    c = container("/bin/true")
    c.publisher = "/bin/nonesuch"
    c.start_shim(env={"TTRPC_ADDRESS": ""}).create()
    c.call("Start")
    assert c.call("Wait")["exit_status"] == 0
    c.call("Delete")


def in_order(host, c):
    """An event may come twice, if its answer was on its way when the engine went."""
    topics = host.topics(c.id)
    return [topic for index, topic in enumerate(topics) if topic not in topics[:index]]


def test_no_event_is_lost_while_containerd_restarts(container, host):
    c = container("/bin/true").start_shim().create()
    wait_until(lambda: host.topics(c.id) == ["create"])
    host.hang_up()
    c.call("Start")
    c.call("Wait")
    time.sleep(AWAY_SECONDS)
    host.listen()
    wait_until(lambda: in_order(host, c) == ["create", "start", "exit"])


def test_events_of_several_containers_go_together_and_each_ones_in_order(container, host):
    annotations = {"io.kubernetes.cri.sandbox-id": f"together-{os.getpid()}"}
    pod = [container("/bin/true", annotations=annotations).start_shim().create() for _ in range(6)]
    wait_until(lambda: all(host.topics(c.id) == ["create"] for c in pod))
    host.hang_up()
    for c in pod:
        c.call("Start")
        c.call("Wait")
        c.call("Delete")
    time.sleep(0.1)
    host.together.clear()
    host.listen()
    wait_until(lambda: all("delete" in host.topics(c.id) for c in pod))
    for c in pod:
        assert in_order(host, c) == ["create", "start", "exit", "delete"]
    assert max(host.together) >= len(pod)


def test_an_event_that_is_not_answered_is_sent_again(container, host):
    """Whoever took the event ended before it answered. It may come twice, but it comes."""
    c = container("/bin/true").start_shim().create()
    wait_until(lambda: host.topics(c.id) == ["create"])
    host.deaf = True
    c.call("Start")
    time.sleep(0.1)
    host.hang_up()
    host.deaf = False
    host.listen()
    wait_until(lambda: "exit" in host.topics(c.id))
    assert host.topics(c.id).index("start") < host.topics(c.id).index("exit")


UNAVAILABLE = 14


@pytest.fixture
def refusing(host):
    """What is refused, with which code, and how often that happened."""
    refused = []
    rules = {}

    def refuses(topic):
        code, times = rules.get(topic, (0, 0))
        if refused.count(topic) >= times:
            return 0
        refused.append(topic)
        return code

    host.refuses = refuses
    yield rules, refused
    host.refuses = lambda topic: 0


def test_a_refused_event_comes_again_before_those_after_it(container, host, refusing):
    rules, refused = refusing
    rules["/tasks/start"] = (UNAVAILABLE, 3)
    annotations = {"io.kubernetes.cri.sandbox-id": f"refused-{os.getpid()}"}
    c, other = (container("/bin/true", annotations=annotations).start_shim().create() for _ in range(2))
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    other.call("Delete")
    wait_until(lambda: host.topics(other.id) == ["create", "exit", "delete"])  # it does not wait for the other
    assert "exit" not in host.topics(c.id)
    wait_until(lambda: host.topics(c.id) == ["create", "start", "exit", "delete"])
    assert refused == ["/tasks/start"] * 3


@pytest.mark.parametrize("code", [ttrpc.UNKNOWN, ttrpc.INVALID_ARGUMENT, UNAVAILABLE])
def test_an_event_that_is_none_for_containerd_keeps_the_others_from_nothing(container, host, refusing, code):
    """Only "invalid argument" is final: any other error may pass."""
    rules, refused = refusing
    rules["/tasks/start"] = (code, 2)
    c = container("/bin/true").start_shim().create()
    c.call("Start")
    c.call("Wait")
    expected = ["create", "exit"] if code == ttrpc.INVALID_ARGUMENT else ["create", "start", "exit"]
    wait_until(lambda: host.topics(c.id) == expected)
    assert len(refused) == (1 if code == ttrpc.INVALID_ARGUMENT else 2)
    assert "containerd refuses" in c.messages()


def test_an_exit_is_told_however_often_it_was_refused(monkeypatch):
    """However many events wait."""
    sent = []

    class Way:
        at_a_time = 64

        def send(self, events):
            sent.append([event.topic for event in events])
            for event in events:
                publisher.refused(event, "busy", False)

    monkeypatch.setattr(events, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(events, "MOST", 20)
    loop = Loop(Log(None))
    publisher = events.Publisher(loop, Log(None))
    publisher.way = Way()
    publisher.publish("/tasks/exit", container_id="a", id="a")
    for number in range(40):
        publisher.publish("/tasks/oom", container_id=f"b{number}")
    assert len(publisher.queue) == 20
    loop.after(0.3, lambda: setattr(loop, "over", True))
    loop.run()
    assert [event.topic for event in publisher.queue] == ["/tasks/exit"]
    assert len(sent) > 2 * events.MOST_REFUSALS


def test_a_containerd_that_takes_nobody_in_keeps_no_caller_waiting(container, host):
    """A receiver that is stopped: its socket is there, and full."""
    c = container("/bin/true").start_shim().create()
    wait_until(lambda: host.topics(c.id) == ["create"])
    host.hang_up()
    clients = []
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(host.address)
        full.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                clients.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                clients[-1].connect(host.address)
        c.call("Start")
        c.call("Wait")
        assert c.call("State")["status"] == 3
        for client in clients:
            client.close()
    os.unlink(host.address)
    host.listen()
    wait_until(lambda: in_order(host, c) == ["create", "start", "exit"])

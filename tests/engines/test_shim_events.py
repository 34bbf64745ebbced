"""Events: in order, together where they may be, and by containerd's program where it has given no address."""

import os
import time

from engines.shim import wait_until
from shim import messages
from shim.protobuf import decode

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


def test_no_event_is_lost_while_containerd_restarts(container, host):
    c = container("/bin/true").start_shim().create()
    wait_until(lambda: host.topics(c.id) == ["create"])
    host.hang_up()
    c.call("Start")
    c.call("Wait")
    time.sleep(0.1)
    host.listen()
    wait_until(lambda: host.topics(c.id) == ["create", "start", "exit"])


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
        order = [topic for index, topic in enumerate(host.topics(c.id)) if topic not in host.topics(c.id)[:index]]
        assert order == ["create", "start", "exit", "delete"]  # one may come twice: it was on its way
    assert max(host.together) >= len(pod)


def test_an_event_that_is_not_answered_is_sent_again(container, host):
    """Whoever took it has gone before it said so: it may come twice, but it comes."""
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

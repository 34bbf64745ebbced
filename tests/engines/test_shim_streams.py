"""Streams: fifos, terminals, files and loggers. Everything comes out as it went in, whoever reads, and whenever."""

import hashlib
import json
import os
import pty
import select
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.shim import Failed, wait_until
from pyrunc.linux.fd import Fd
from pyrunc.log import Log
from pyrunc.shim.loop import Loop
from pyrunc.shim.streams import Pump
from sizes import size

MEGABYTES = size(1024, 32)


def test_output_goes_to_the_fifos_and_input_comes_from_one(container):
    c = container("/bin/sh", "-c", "cat; echo err >&2").start_shim()
    names = {name: c.fifo(name) for name in ("stdin", "stdout", "stderr")}
    c.create(**names)
    ends = {name: c.open(path, os.O_RDWR | os.O_NONBLOCK) for name, path in names.items()}
    c.call("Start")
    os.write(ends["stdin"], b"some text\n")
    c.call("CloseIO", stdin=True)  # what was written before is not lost, though the fifo has another writer
    assert c.call("Wait")["exit_status"] == 0
    wait_until(lambda: select.select([ends["stdout"]], [], [], 0)[0] and select.select([ends["stderr"]], [], [], 0)[0])
    assert os.read(ends["stdout"], 100) == b"some text\n"
    assert os.read(ends["stderr"], 100) == b"err\n"
    c.call("Delete")


def whole(reader, seconds=20.0):
    """What can be read of it until its end, which a fifo without a writer is at from the beginning."""
    got = b""
    while True:
        assert select.select([reader], [], [], seconds)[0]
        data = os.read(reader, 1 << 16)
        if not data:
            return got
        got += data


def descriptors(c):
    return sorted(os.readlink(f"/proc/{c.call('Connect')['shim_pid']}/fd/{name}").partition(":")[0] for name in
                  os.listdir(f"/proc/{c.call('Connect')['shim_pid']}/fd"))  # fmt: skip


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
def test_who_opens_a_fifo_after_the_end_finds_what_was_written(container, terminal):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    before = descriptors(c)
    names = {name: c.fifo(name) for name in ("stdout", "stderr")[: 1 if terminal else 2]}
    program = {"cwd": "/", "args": ["/bin/sh", "-c", "echo out; echo err >&2"], "env": []}
    spec = {"value": json.dumps(program).encode()}
    c.call("Exec", exec_id="e", terminal=terminal, spec=spec, **names)
    c.call("Start", exec_id="e")
    assert c.call("Wait", exec_id="e")["exit_status"] == 0
    time.sleep(0.6)  # longer than between two looks
    got = [whole(c.open(path)) for path in names.values()]
    assert got == ([b"out\r\nerr\r\n"] if terminal else [b"out\n", b"err\n"])
    c.call("Delete", exec_id="e")
    assert descriptors(c) == before


def test_who_comes_back_after_the_end_finds_what_was_not_read(container):
    c = container("/bin/sh", "-c", "echo one; read line; echo two").start_shim()
    names = {name: c.fifo(name) for name in ("stdin", "stdout")}
    c.create(**names)
    c.call("Start")
    reader, writer = os.open(names["stdout"], os.O_RDONLY), c.open(names["stdin"], os.O_WRONLY)
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    os.write(writer, b"\n")
    assert c.call("Wait")["exit_status"] == 0
    assert whole(c.open(names["stdout"])) == b"two\n"


def test_a_writer_waits_no_longer_than_the_process_is_there(container):
    """More than fits into the fifo, which nobody opens: neither waits after Delete, nor is a descriptor left."""
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    before = descriptors(c)
    for number, words in enumerate(["true", "echo something", "seq 1 9000"]):
        path = c.fifo(f"out{number}")
        spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/sh", "-c", words], "env": []}).encode()}
        c.call("Exec", exec_id="e", stdout=path, spec=spec)
        c.call("Start", exec_id="e")
        c.call("Wait", exec_id="e")
        c.call("Delete", exec_id="e")
        assert descriptors(c) == before
        with pytest.raises(OSError, match="No such device"):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)


def test_who_waits_for_a_writer_does_not_find_the_end_while_another_fifo_is_opened(container):
    """A client opens its fifos one after the other: the first is open, and the process's second has no reader yet."""
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    names = {name: c.fifo(name) for name in ("stdout", "stderr")}
    with ThreadPoolExecutor(1) as client:
        first = client.submit(lambda: whole(c.open(names["stdout"], os.O_RDONLY)))
        time.sleep(0.05)
        spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/echo", "out"], "env": []}).encode()}
        c.call("Exec", exec_id="e", spec=spec, **names)
        c.call("Start", exec_id="e")
        assert first.result() == b"out\n"
    assert c.call("Wait", exec_id="e")["exit_status"] == 0


def test_delete_lets_a_client_read_what_is_left(container):
    """containerd's client before 2.4 stops reading when it has had a process deleted."""
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    before = descriptors(c)
    path = c.fifo("out")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    program = {"cwd": "/", "args": ["/bin/echo", "something"], "env": []}
    c.call("Exec", exec_id="e", stdout=path, spec={"value": json.dumps(program).encode()})
    c.call("Start", exec_id="e")
    c.call("Wait", exec_id="e")
    deleting = c.client.send("Delete", id=c.id, exec_id="e")
    assert c.client.receive(c.client.send("State", id=c.id))["status"] == 2
    time.sleep(0.1)
    assert select.select([c.client.socket], [], [], 0)[0] == []
    assert whole(reader) == b"something\n"
    os.close(reader)
    assert c.client.receive(deleting)["exit_status"] == 0
    assert descriptors(c) == before


@pytest.mark.parametrize("added", [False, True])
def test_an_end_is_told_when_who_reads_has_the_output(container, added):
    """containerd's client stops reading when it hears of the end."""
    much = ["/bin/head", "-c", "100000", "/dev/zero"]  # it ends with most of that in a fifo and a pipe
    c = container(*(["/bin/sleep", "1000"] if added else much)).start_shim()
    streams = {"stdout": c.fifo("stdout")}
    of_added = {"exec_id": "e"} if added else {}
    reader = c.open(streams["stdout"])
    c.create(**({} if added else streams))
    if added:
        c.call("Start")
        spec = json.dumps({"cwd": "/", "args": much}).encode()
        c.call("Exec", spec={"type_url": "x", "value": spec}, **of_added, **streams)
    waiting = c.client.send("Wait", id=c.id, **of_added)
    began = time.monotonic()
    pid = c.call("Start", **of_added)["pid"]
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    told = select.select([c.client.socket], [], [], 0)[0]
    assert not told or time.monotonic() > began + 0.4
    assert len(whole(reader)) == 100000
    assert c.client.receive(waiting)["exit_status"] == 0


def test_delete_does_not_wait_for_a_client_that_has_gone(container):
    c = container("/bin/sh", "-c", "read line; echo something").start_shim()
    names = {name: c.fifo(name) for name in ("stdin", "stdout")}
    c.create(**names)
    c.call("Start")
    reader = os.open(names["stdout"], os.O_RDONLY)
    os.close(c.open(names["stdin"], os.O_WRONLY))
    c.opened.pop()
    assert c.call("Wait")["exit_status"] == 0
    wait_until(lambda: select.select([reader], [], [], 0)[0])
    os.close(reader)
    began = time.monotonic()
    c.call("Delete")
    assert time.monotonic() - began < 1.5


def test_a_file_that_takes_nothing_keeps_nobody_waiting(container):
    """As on a file server that is away: here it is a terminal whose other end nobody reads."""
    master, slave = pty.openpty()
    try:
        c = container("/bin/seq", "1", "100000").start_shim()
        c.create(stdout=f"file://{os.ttyname(slave)}")
        c.call("Start")
        time.sleep(0.2)  # by now it is full
        for _ in range(20):
            began = time.monotonic()
            assert c.call("State")["status"] == 2
            assert time.monotonic() - began < 1
        c.call("Kill", signal=9)
        assert c.call("Wait")["exit_status"] == 137
        c.call("Delete")
    finally:
        os.close(slave)
        os.close(master)


def test_a_pump_that_is_to_finish_takes_any_number_of_chunks(tmp_path):
    """It serves others in between."""
    loop = Loop(Log(None))
    path = tmp_path / "much"
    path.touch()
    os.truncate(path, 200 << 20)
    turns = []

    def turn():
        turns.append(None)
        if not loop.over:
            loop.soon(turn)

    def end():
        loop.over = True

    with Fd(os.open(path, os.O_RDONLY)) as source, Fd(os.open("/dev/null", os.O_WRONLY)) as sink:
        pump = Pump(loop, source, sink, end)
        loop.soon(turn)
        pump.finish()
        loop.run()
    assert len(turns) > 3000


def test_a_slow_reader_gets_everything_and_costs_nothing(container):
    c = container("/bin/sh", "-c", "seq 1 200000").start_shim()
    path = c.fifo("stdout")
    c.create(stdout=path)
    reader = c.open(path, os.O_RDONLY)
    c.call("Start")
    pid = c.call("Connect")["shim_pid"]
    time.sleep(0.3)
    before = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    time.sleep(0.7)
    after = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    assert after - before <= 1  # a tick
    got = b""
    while data := os.read(reader, 1 << 16):
        got += data
    assert got == b"".join(b"%d\n" % n for n in range(1, 200001))
    assert c.call("Wait")["exit_status"] == 0


def test_output_nobody_reads_does_not_keep_a_container_from_being_deleted(container):
    c = container("/bin/sh", "-c", "seq 1 12000; exit 2").start_shim()
    c.create(stdout=c.fifo("stdout"))
    c.call("Start")
    assert c.call("Wait")["exit_status"] == 2
    began = time.monotonic()
    c.call("Delete")
    assert time.monotonic() - began < 5


def test_a_terminal(container):
    c = container("/bin/sh", "-c", "read line; stty size; echo got $line", process={"terminal": True}).start_shim()
    names = {name: c.fifo(name) for name in ("stdin", "stdout")}
    c.create(terminal=True, **names)
    reader, writer = c.open(names["stdout"]), c.open(names["stdin"], os.O_WRONLY)
    c.call("ResizePty", width=90, height=33)
    c.call("Start")
    os.write(writer, b"hello\n")
    assert c.call("Wait")["exit_status"] == 0
    assert whole(reader).replace(b"\r", b"") == b"hello\n33 90\ngot hello\n"
    c.call("Delete")


def test_a_terminal_of_an_added_process(container):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/tty"], "env": []}).encode()}
    path = c.fifo("out")
    reader = c.open(path)
    c.call("Exec", exec_id="t", terminal=True, spec=spec, stdout=path)
    c.call("Start", exec_id="t")
    assert c.call("Wait", exec_id="t")["exit_status"] == 0
    assert whole(reader) == b"/dev/pts/0\r\n"
    c.call("Delete", exec_id="t")


def test_a_log_file(container):
    c = container("/bin/sh", "-c", "echo out; echo err >&2").start_shim()
    uri = f"file://{c.bundle}/logs/deep/file"
    c.create(stdout=uri, stderr=uri)
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    assert sorted((c.bundle / "logs/deep/file").read_text().split()) == ["err", "out"]


@pytest.mark.parametrize(("scheme", "ready"), [("binary", ""), ("binary-v2", "echo >&5; ")])
def test_a_logger(container, scheme, ready):
    c = container("/bin/sh", "-c", "echo out; echo err >&2").start_shim()
    logger = c.bundle / "logger"
    logger.write_text(
        '#!/bin/sh\necho "$@ $CONTAINER_ID $CONTAINER_NAMESPACE" > ${0}.args\n'
        f"{ready}exec 5>&-\n"
        "cat <&4 > ${0}.err &\ncat <&3 > ${0}.out\nwait\nmv ${0}.err ${0}.done\n"
    )
    logger.chmod(0o755)
    uri = f"{scheme}://{logger}?key=a%20b"
    c.create(stdout=uri, stderr=uri)
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    wait_until(lambda: Path(f"{logger}.done").exists())
    assert Path(f"{logger}.args").read_text() == f"key a b {c.id} tests\n"
    assert Path(f"{logger}.out").read_text() == "out\n"
    assert Path(f"{logger}.done").read_text() == "err\n"


def test_much_output_is_the_same_byte_for_byte(container):
    """1 GB with PYRUNC_FULL=1. Random, so that a piece that is lost or comes twice changes the sum."""
    block = os.urandom(8 << 20)
    times = MEGABYTES // 8
    c = container("/bin/sh", "-c", f"for i in $(seq {times}); do cat /tmp/data; done")
    (c.bundle / "data").write_bytes(block)
    config = json.loads((c.bundle / "config.json").read_text())
    (c.host.rootfs / "tmp/data").touch()
    mount = {"destination": "/tmp/data", "type": "bind", "source": f"{c.bundle}/data", "options": ["rbind"]}
    config["mounts"].append(mount)
    (c.bundle / "config.json").write_text(json.dumps(config))
    c.start_shim()
    path = c.fifo("stdout")
    c.create(stdout=path)
    reader = c.open(path, os.O_RDONLY)
    waiting = c.client.send("Wait", id=c.id)
    c.call("Start")
    got, expected = hashlib.sha256(), hashlib.sha256()
    while data := os.read(reader, 1 << 20):
        got.update(data)
    for _ in range(times):
        expected.update(block)
    assert got.digest() == expected.digest()
    assert c.client.receive(waiting)["exit_status"] == 0


def test_another_reader_gets_what_the_first_one_left(container):
    """A client that is killed, and one that attaches: the container neither ends nor loses a line."""
    c = container("/bin/sh", "-c", "while read line; do echo got $line; done; echo end").start_shim()
    names = {name: c.fifo(name) for name in ("stdin", "stdout")}
    c.create(**names)
    c.call("Start")
    writer = c.open(names["stdin"], os.O_WRONLY)  # the engine's: where it goes, the input ends
    for number in range(3):
        reader = os.open(names["stdout"], os.O_RDONLY)
        os.write(writer, b"a%d\n" % number)
        assert os.read(reader, 100) == b"got a%d\n" % number
        os.write(writer, b"b%d\n" % number)
        os.close(reader)
        reader = os.open(names["stdout"], os.O_RDONLY)
        assert os.read(reader, 100) == b"got b%d\n" % number
        os.close(reader)
    assert c.call("State")["status"] == 2
    reader = c.open(names["stdout"], os.O_RDONLY)
    c.call("CloseIO", stdin=True)
    assert os.read(reader, 100) == b"end\n"


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("binary:///bin/nonesuch?a=b", "starting the logger"),
        ("binary:///bin/false", None),  # it ends, and is never ready: as runc's shim, which goes on
        ("binary-v2:///bin/false", "before it wrote a byte"),
        ("gopher://x/y", "is no kind of stream"),
        ("/nonesuch/fifo", "opening /nonesuch/fifo"),
    ],
)
def test_a_stream_that_is_not_to_be_had_is_creates_error(container, host, uri, cause):
    c = container("/bin/true").start_shim()
    if cause is None:
        c.create(stdout=uri, stderr=uri)
        return
    with pytest.raises(Failed, match=cause):
        c.create(stdout=uri, stderr=uri)
    assert host.run("mountpoint", "-q", c.bundle / "rootfs").returncode


def test_a_logger_that_is_not_ready_is_ended(container):
    c = container("/bin/true").start_shim()
    logger = c.bundle / "logger"
    logger.write_text("#!/bin/sh\nexec 5>&-\necho $$ > $0.pid\nsleep 1000 & wait\n")
    logger.chmod(0o755)
    with pytest.raises(Failed, match="before it wrote a byte"):
        c.create(stdout=f"binary-v2://{logger}")
    pid = c.bundle / "logger.pid"
    assert not pid.exists() or not Path(f"/proc/{pid.read_text().strip() or 0}").exists()
    wait_until(lambda: not [name for name in os.listdir("/proc") if name.isdigit() and logger_runs(name, logger)])


def logger_runs(pid, logger):
    try:
        return str(logger).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def test_a_logger_gets_much_output_whole_and_ends_with_the_container(container):
    c = container("/bin/seq", "1", "300000").start_shim()
    logger = c.bundle / "logger"
    logger.write_text("#!/bin/sh\nexec 5>&-\nmd5sum <&3 > ${0}.sum\nmv ${0}.sum ${0}.done\n")
    logger.chmod(0o755)
    uri = f"binary://{logger}"
    c.create(stdout=uri, stderr=uri)
    c.call("Start")
    c.call("Wait")
    c.call("Delete")
    done = c.bundle / "logger.done"
    wait_until(done.exists)
    whole = hashlib.md5(b"".join(b"%d\n" % number for number in range(1, 300001))).hexdigest()
    assert done.read_text().split()[0] == whole


def test_an_added_process_writes_to_a_file_that_others_write_to(container):
    c = container("/bin/sleep", "100").start_shim()
    uri = f"file://{c.bundle}/log.txt"
    c.create(stdout=uri)
    c.call("Start")
    for number in range(3):
        spec = b'{"cwd": "/", "args": ["/bin/echo", "%d"], "env": []}' % number
        c.call("Exec", exec_id=f"e{number}", stdout=uri, spec={"value": spec})
        c.call("Start", exec_id=f"e{number}")
        c.call("Wait", exec_id=f"e{number}")
        c.call("Delete", exec_id=f"e{number}")
    assert (c.bundle / "log.txt").read_text() == "0\n1\n2\n"

"""Streams: fifos, terminals, files and loggers. Everything comes out as it went in, whoever reads, and whenever."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from engines.shim import Failed, wait_until
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
    c.call("Delete")
    assert os.read(ends["stdout"], 100) == b"some text\n"
    assert os.read(ends["stderr"], 100) == b"err\n"


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
    c.call("Delete")
    assert os.read(reader, 1000).replace(b"\r", b"") == b"hello\n33 90\ngot hello\n"


def test_a_terminal_of_an_added_process(container):
    c = container("/bin/sleep", "100").start_shim().create()
    c.call("Start")
    spec = {"value": json.dumps({"cwd": "/", "args": ["/bin/tty"], "env": []}).encode()}
    path = c.fifo("out")
    reader = c.open(path)
    c.call("Exec", exec_id="t", terminal=True, spec=spec, stdout=path)
    c.call("Start", exec_id="t")
    assert c.call("Wait", exec_id="t")["exit_status"] == 0
    c.call("Delete", exec_id="t")
    assert os.read(reader, 100) == b"/dev/pts/0\r\n"


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
    c = container("/bin/sh", "-c", f"for i in $(seq {times}); do cat /data; done")
    (c.bundle / "data").write_bytes(block)
    config = json.loads((c.bundle / "config.json").read_text())
    (c.host.rootfs / "data").touch()
    mount = {"destination": "/data", "type": "bind", "source": f"{c.bundle}/data", "options": ["rbind"]}
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

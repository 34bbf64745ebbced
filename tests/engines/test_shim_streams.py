"""Streams under load: everything comes out as it went in, whoever reads, and whenever."""

import hashlib
import json
import os

import pytest

from engines.shim import FULL, Failed, wait_until

MEGABYTES = 1024 if FULL else 32


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

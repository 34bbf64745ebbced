"""Frames: split anywhere, too large, of no known kind. And the poll loop."""

import _socket
import os
import select

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.linux.fd import Fd
from pyrunc.log import Log
from pyrunc.protobuf import Malformed
from pyrunc.shim import ttrpc
from pyrunc.shim.loop import Loop
from pyrunc.shim.ttrpc import LARGEST, REQUEST, RESPONSE, Reader, Status, pack

frames = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([REQUEST, RESPONSE]), st.binary(max_size=100)), max_size=6
)


@given(frames, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_frames_come_out_as_they_went_in_however_they_are_split(sent, sizes):
    data = b"".join(pack(*frame) for frame in sent)
    reader, got = Reader(), []
    while data:
        for size in sizes:
            got += [(f.stream, f.type, f.payload) for f in reader.feed(data[:size])]
            data = data[size:]
    assert got == sent
    assert reader.is_between_frames()


def test_a_frame_that_is_too_large_is_skipped_and_told():
    reader = Reader()
    head = (LARGEST + 5).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes((REQUEST, 0))
    body = bytes(LARGEST + 5)
    first = list(reader.feed(head + body[:100]))
    assert [(f.stream, f.payload) for f in first] == [(3, None)]
    assert list(reader.feed(body[100:-1])) == []
    assert len(reader.buffer) == 0  # nothing of it is kept
    assert [f.payload for f in reader.feed(body[-1:] + pack(5, REQUEST, b"next"))] == [b"next"]


def test_a_frame_of_unknown_type_is_refused():
    with pytest.raises(Malformed, match="9 is no type"):
        list(Reader().feed(bytes((0, 0, 0, 1, 0, 0, 0, 1, 9, 0, 0))))


def test_a_message_that_is_too_large_is_not_sent():
    with pytest.raises(Status) as caught:
        pack(1, RESPONSE, bytes(LARGEST + 1))
    assert caught.value.code == ttrpc.RESOURCE_EXHAUSTED


def test_a_connection_takes_and_gives_more_than_a_socket_holds():
    loop = Loop(Log())
    got: list[bytes] = []
    closed: list[str] = []
    ours, theirs = _socket.socketpair()
    payload = os.urandom(2 << 20)

    def answer(connection, frame):
        connection.send(pack(frame.stream, RESPONSE, frame.payload))

    def receive(connection, frame):
        got.append(frame.payload)
        connection.close()

    ttrpc.Connection(loop, _socket.socket(fileno=ours.detach()), answer, lambda c, why: closed.append(why))
    client = ttrpc.Connection(loop, _socket.socket(fileno=theirs.detach()), receive, lambda c, why: None)
    client.send(pack(1, REQUEST, payload))
    loop.after(5, lambda: setattr(loop, "over", True))
    while not closed and not loop.over:
        for fd, events in loop.poll.poll(100):
            if fd in loop.handlers:
                loop.handlers[fd](events)
    assert got == [payload]
    assert closed == [""]


def test_a_mistake_in_a_handler_does_not_end_the_loop(tmp_path):
    read, write = os.pipe()
    os.write(write, b"x")
    log = Fd(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), "log")
    loop = Loop(Log(log))

    def handler(_):
        os.read(read, 1)
        loop.after(0, lambda: setattr(loop, "over", True))
        raise KeyError("mine")

    loop.watch(read, select.POLLIN, handler)
    loop.run()
    assert "internal error: KeyError: 'mine' (" in (tmp_path / "log").read_text()
    log.close()
    os.close(read)
    os.close(write)

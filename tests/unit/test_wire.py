"""Messages between a program, its worker and the worker's runners."""

import socket

from pyrunc.library import wire


def test_the_last_message_is_heard_of_who_closes_without_having_read_all():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, {"made": 1})
        wire.send(theirs, {"own": True})
        theirs.close()
        assert wire.receive(ours, socket.MSG_DONTWAIT) == ({"own": True}, [])
        assert wire.receive(ours, socket.MSG_DONTWAIT) is None

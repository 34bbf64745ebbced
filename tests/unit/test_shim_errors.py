"""What containerd is told of an error: a code of gRPC, and words."""

import errno

import pytest

from pyrunc.errors import NoSuchContainer, PyruncError, StateError
from pyrunc.protobuf import Malformed
from pyrunc.shim import ttrpc
from pyrunc.shim.failure import in_words
from pyrunc.shim.ttrpc import Status


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (PyruncError("reading", "cpu.stat", "no such device"), ttrpc.UNKNOWN, "reading cpu.stat: no such device"),
        (StateError("cannot pause", "c", "it is stopped"), ttrpc.FAILED_PRECONDITION, "cannot pause c: it is stopped"),
        (NoSuchContainer("c"), ttrpc.NOT_FOUND, "c"),
        (OSError(errno.ENODEV, "No such device", "cpu.stat"), ttrpc.UNKNOWN, "cpu.stat: no such device"),
        (Malformed("a string is cut off"), ttrpc.INVALID_ARGUMENT, "a string is cut off"),
        (Status(ttrpc.CANCELLED, "it was killed"), ttrpc.CANCELLED, "it was killed"),
        (KeyError("x"), ttrpc.INTERNAL, "internal error: KeyError: 'x'"),
    ],
)
def test_only_a_mistake_of_ours_is_an_internal_error(error, code, text):
    status = in_words(error)
    assert status.code == code
    assert text in status.message
    assert ("internal error" in status.message) == (code == ttrpc.INTERNAL)

"""The conversation between the runtime and a container's process: one letter a message, each with its answer."""

import posix
from pathlib import Path

import pytest

from pyrunc.container import launch
from pyrunc.errors import StepError, unpacked
from pyrunc.init import channel
from pyrunc.init.channel import Channel
from pyrunc.linux.fd import Fd

LETTERS = {
    name: value
    for name, value in vars(channel).items()
    if name.isupper() and isinstance(value, str) and len(value) == 1
}
DOCUMENT = (Path(__file__).parents[2] / "docs/architecture.md").read_text()


@pytest.fixture
def ends():
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_no_two_messages_have_one_letter():
    assert len({*LETTERS.values()}) == len(LETTERS)


def test_every_message_of_a_process_has_its_answer():
    answered = {*launch.ANSWERS, *launch.NEWS, channel.READY}
    assert answered == {*LETTERS.values()} - {channel.GO, channel.STREAM, channel.ARGUMENTS}


@pytest.mark.parametrize("name", sorted(LETTERS))
def test_every_message_is_in_the_document(name):
    assert name == "GO" or f"`{LETTERS[name]}` {name}" in DOCUMENT


def test_texts_and_a_descriptor_come_as_they_were_sent(ends):
    ours, theirs = ends
    read, write = posix.pipe2(posix.O_CLOEXEC)
    with Fd(read), Fd(write) as given:
        theirs.send(channel.STEP_TAKEN, "a\udcff step", "", "3\n", fd=given)
        said = ours.receive()
        assert (said.kind, said.fields) == (channel.STEP_TAKEN, ["a\udcff step", "", "3\n"])
        assert said.descriptor is not None
        with said.descriptor as came:
            assert posix.fstat(came.number) == posix.fstat(write)


def test_a_zero_byte_in_an_error_does_not_shift_its_fields(ends):
    ours, theirs = ends
    error = StepError("exec: a\0b", "subject", "cause", "hint")
    theirs.write(channel.FAILED, *error.fields)
    assert ours.receive().fields == ["exec: a\\x00b", "subject", "cause", "hint"]
    assert unpacked("a\0b") == ["a", "b"]


def test_the_end_of_the_stream_is_a_message(ends):
    ours, theirs = ends
    assert not ours.is_alone()
    theirs.close()
    assert ours.is_alone()
    assert ours.receive().kind == channel.END

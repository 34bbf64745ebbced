"""Our codec beside the protobuf library: what one writes the other reads, for every message that we have."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrunc.protobuf import BOOL, BYTES, INT32, INT64, STRING, UINT32, UINT64, Malformed, decode, encode
from pyrunc.shim import messages, metrics

FIELD = descriptor_pb2.FieldDescriptorProto
TYPES = {
    STRING: FIELD.TYPE_STRING, BYTES: FIELD.TYPE_BYTES, BOOL: FIELD.TYPE_BOOL, UINT32: FIELD.TYPE_UINT32,
    UINT64: FIELD.TYPE_UINT64, INT32: FIELD.TYPE_INT32, INT64: FIELD.TYPE_INT64,
}  # fmt: skip
SCALARS = {
    STRING: st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300),  # ours refuses a NUL
    BYTES: st.binary(max_size=300),
    BOOL: st.booleans(),
    UINT32: st.integers(0, 2**32 - 1),
    UINT64: st.integers(0, 2**64 - 1),
    INT32: st.integers(-(2**31), 2**31 - 1),
    INT64: st.integers(-(2**63), 2**63 - 1),
}
TABLES = {
    **{name: table for name, table in vars(messages).items() if name.isupper() and isinstance(table, dict)},
    **{topic: table for topic, (_, table) in messages.EVENTS.items()},
    "V1": metrics.V1,
    "V2": metrics.V2,
}
del TABLES["EVENTS"], TABLES["GO_ZERO"]


def describe(file, table, name):
    """The table as the library's descriptor."""
    described = file.message_type.add(name=name)
    for number, (field, kind) in table.items():
        added = described.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
        if isinstance(kind, list):
            added.label = FIELD.LABEL_REPEATED
            kind = kind[0]
        if isinstance(kind, dict):
            added.type = FIELD.TYPE_MESSAGE
            added.type_name = f".{file.package}.{describe(file, kind, f'{name}_{field}')}"
        else:
            added.type = TYPES[kind]
    return name


def library_class(name):
    plain = "".join(character if character.isalnum() else "_" for character in name)
    file = descriptor_pb2.FileDescriptorProto(name=f"{plain}.proto", package=f"t{plain}", syntax="proto3")
    describe(file, TABLES[name], "M")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.M"))


CLASSES = {name: library_class(name) for name in TABLES}


def values_of(table):
    """Any values that the table can hold."""

    def one(kind):
        return values_of(kind) if isinstance(kind, dict) else SCALARS[kind]

    fields = {}
    for name, kind in table.values():
        if isinstance(kind, list):
            fields[name] = st.lists(one(kind[0]), max_size=4)
        elif isinstance(kind, dict):
            fields[name] = st.none() | values_of(kind)
        else:
            fields[name] = one(kind)
    return st.fixed_dictionaries(fields)


def fill(message, table, values):
    for name, kind in table.values():
        value = values[name]
        if isinstance(kind, list) and isinstance(kind[0], dict):
            for each in value:
                fill(getattr(message, name).add(), kind[0], each)
        elif isinstance(kind, list):
            getattr(message, name).extend(value)
        elif isinstance(kind, dict):
            if value is not None:
                getattr(message, name).SetInParent()
                fill(getattr(message, name), kind, value)
        else:
            setattr(message, name, value)
    return message


named = st.sampled_from(sorted(TABLES)).flatmap(lambda name: st.tuples(st.just(name), values_of(TABLES[name])))


@given(named)
@settings(max_examples=400, deadline=None)
def test_the_library_reads_what_we_write_and_we_what_it_writes(case):
    name, values = case
    table = TABLES[name]
    theirs = fill(CLASSES[name](), table, values)
    ours = encode(table, values)
    assert CLASSES[name].FromString(ours) == theirs
    assert decode(table, theirs.SerializeToString()) == values
    assert decode(table, ours) == values


@given(named)
@settings(max_examples=100, deadline=None)
def test_what_is_cut_off_is_refused_or_was_complete_there(case):
    """A message may end after any field. If it ends within one, it is refused, as by the library."""
    name, values = case
    data = encode(TABLES[name], values)
    for length in range(min(len(data), 200)):
        try:
            decode(TABLES[name], data[:length])
            ours = True
        except Malformed:
            ours = False
        try:
            CLASSES[name].FromString(data[:length])
            theirs = True
        except Exception:
            theirs = False
        assert ours == theirs, (name, data[:length])


@given(st.sampled_from(["CREATE", "REQUEST", "STATE"]), st.binary(max_size=64))
@settings(max_examples=1000, deadline=None)
def test_any_bytes_are_a_message_or_refused(name, data):
    try:
        values = decode(TABLES[name], data)
    except Malformed:
        return
    assert decode(TABLES[name], encode(TABLES[name], values)) == values


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x0a", "cut off"),
        (b"\x0a\x05abc", "cut off"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "cut off"),
        (b"\x08" + b"\xff" * 11, "longer than ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x00", "no number of a field"),
        (b"\x0a\x02\xff\xfe", "UTF-8"),
        (b"\x08\x01", "not of its type"),
        (b"\x1a\x01\x0a", "cut off"),
    ],
)
def test_malformed_messages_are_refused_in_words(data, cause):
    with pytest.raises(Malformed, match=cause):
        decode(messages.CREATE, data)


def test_unknown_fields_of_every_type_are_skipped():
    unknown = b"\xf8\x07\x05" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + b"\xfa\x07\x02zz"
    assert decode(messages.ID, unknown + b"\x0a\x01x" + unknown) == {"id": "x"}


def test_a_list_of_numbers_may_be_packed_or_not():
    table = {1: ("numbers", [UINT64])}
    assert decode(table, b"\x0a\x02\x01\x02" + b"\x08\x03") == {"numbers": [1, 2, 3]}


def test_a_text_that_is_no_utf8_is_sent_all_the_same():
    assert encode(messages.ID, {"id": "a\udcff"}) == b"\x0a\x02a?"


def test_every_member_is_there_after_decoding():
    assert decode(messages.DELETED, b"") == {"pid": 0, "exit_status": 0, "exited_at": None}

"""The program for device rules, run by a small interpreter, and v1's list, against the rules read out loud."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from pyrunc.cgroups import device_filter
from pyrunc.cgroups.device_rules import ALL, DEFAULT, list_of
from pyrunc.errors import PyruncError

BITS = device_filter.ACCESS


def run(program: bytes, kind: str, major: int, minor: int, wanted: int) -> int:
    """What the kernel would do with a struct bpf_cgroup_dev_ctx."""
    context = struct.pack("=III", wanted << 16 | device_filter.KINDS[kind], major, minor)
    registers = [0] * 11
    position = 0
    while True:
        opcode, both, offset, immediate = struct.unpack_from("=BBhi", program, position * 8)
        target, source = both & 15, both >> 4
        position += 1
        match opcode:
            case device_filter.LOAD:
                registers[target] = struct.unpack_from("=I", context, offset)[0]
            case device_filter.AND:
                registers[target] &= immediate & 0xFFFFFFFFFFFFFFFF
            case device_filter.RIGHT:
                registers[target] >>= immediate
            case device_filter.MOVE:
                registers[target] = immediate
            case device_filter.COPY:
                registers[target] = registers[source]
            case device_filter.JUMP_IF:
                position += offset if registers[target] == immediate else 0
            case device_filter.JUMP_UNLESS:
                position += offset if registers[target] != immediate else 0
            case device_filter.EXIT:
                return registers[0]
            case _:
                raise AssertionError(f"opcode {opcode:#x}")


def allowed(rules: list, kind: str, major: int, minor: int, bit: str) -> bool:
    """The last rule that matches the device and names the bit decides. Without one the answer is no."""
    for rule in reversed([*rules, *DEFAULT]):
        matches = (
            rule.get("type", "a") in ("a", kind)
            and rule.get("major", -1) in (-1, major)
            and rule.get("minor", -1) in (-1, minor)
        )
        if matches and bit in (rule.get("access") or "rwm"):
            return bool(rule["allow"])
    return False


NUMBERS = st.sampled_from([0, 1, 3, 5, 8, 200])
RULES = st.lists(
    st.fixed_dictionaries(
        {"allow": st.booleans(), "access": st.sampled_from(["r", "w", "m", "rw", "wm", "rwm"])},
        optional={"type": st.sampled_from(["a", "b", "c"]), "major": NUMBERS | st.just(-1), "minor": NUMBERS},
    ),
    max_size=6,
)


@given(RULES, st.sampled_from("bc"), NUMBERS, NUMBERS, st.sets(st.sampled_from("rwm"), min_size=1))
def test_each_bit_is_decided_by_the_last_rule_that_names_it(rules, kind, major, minor, wanted):
    program = device_filter.program(rules)
    mask = sum(BITS[bit] for bit in wanted)
    expected = all(allowed(rules, kind, major, minor, bit) for bit in wanted)
    assert bool(run(program, kind, major, minor, mask)) == expected


@given(RULES, st.sampled_from("bc"), NUMBERS, NUMBERS, st.sampled_from("rwm"))
def test_a_list_of_v1_says_the_same_or_can_not_be_had(rules, kind, major, minor, bit):
    try:
        found = list_of(rules)
    except PyruncError as error:
        assert "cgroup v1 can't except" in str(error)
        return
    excepted = any(
        key[0] == kind and key[1] in (ALL, major) and key[2] in (ALL, minor) and bit in access
        for key, access in found.exceptions.items()
    )
    assert (found.all != excepted) == allowed(rules, kind, major, minor, bit)


@given(st.integers(0, (1 << 32) - 1))
def test_any_number_that_the_rules_take(number):
    rules = [{"allow": True, "type": "c", "major": number, "minor": number, "access": "r"}]
    known = number < 1 << 31
    assert run(device_filter.program(rules), "c", number, number, BITS["r"]) == known


def test_nothing_but_the_default_devices_is_allowed_without_rules():
    program = device_filter.program([])
    assert run(program, "c", 1, 3, BITS["r"] | BITS["w"])  # /dev/null
    assert not run(program, "b", 8, 0, BITS["r"])
    assert not run(program, "c", 1, 11, BITS["r"])  # /dev/kmsg

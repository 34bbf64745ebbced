"""devices on v2: the rules as a BPF program of the cgroup. config-linux.md#allowed-device-list, bpf(2), Linux 4.15

A process asks for some of three bits: mknod, read, write. The program tries the rules from the last to the first. A
rule that matches the device decides those bits that it names and that are still undecided. When all bits are allowed,
access is granted. When a bit is denied, or undecided at the end, access is refused. So the last rule that matches wins,
for each bit by itself, as in v1's lists.
"""

import errno
import posix
import struct

from pyrunc.cgroups.device_rules import DEFAULT, access_of
from pyrunc.errors import PyruncError, reason
from pyrunc.linux import kernel_error
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.fd import Fd, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import DeviceRule

    Instruction = tuple[int, int, int, int]

BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
BPF_F_REPLACE = 4
MOST = 64  # BPF_CGROUP_MAX_PROGS
LICENSE = b"Apache-2.0"  # GPL is needed only by a program that calls certain helpers of the kernel's; ours calls none

KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}

# struct bpf_insn: opcode, destination | source << 4, offset, immediate
LOAD, AND, RIGHT, MOVE, COPY, JUMP_IF, JUMP_UNLESS, EXIT = 0x61, 0x57, 0x77, 0xB7, 0xBF, 0x15, 0x55, 0x95
RESULT, CONTEXT, KIND, WANTED, MAJOR, MINOR = (
    0,
    1,
    2,
    3,
    4,
    5,
)  # registers. After START, CONTEXT is not needed: it is free for use

# struct bpf_cgroup_dev_ctx: u32 access_type (access << 16 | kind), u32 major, u32 minor
START: "tuple[Instruction, ...]" = (
    (LOAD, KIND | CONTEXT << 4, 0, 0),
    (AND, KIND, 0, 0xFFFF),
    (LOAD, WANTED | CONTEXT << 4, 0, 0),
    (RIGHT, WANTED, 0, 16),
    (LOAD, MAJOR | CONTEXT << 4, 4, 0),
    (LOAD, MINOR | CONTEXT << 4, 8, 0),
)


def program(rules: "list[DeviceRule]") -> bytes:
    """The program for a list of rules, as bpf(2) takes it."""
    code = [*START]
    for rule in reversed([*rules, *DEFAULT]):
        code += _of_rule(rule)
    code += _answer(0)
    return b"".join(struct.pack("=BBhi", *instruction) for instruction in code)


def _of_rule(rule: "DeviceRule") -> "list[Instruction]":
    access = 0
    for letter in access_of(rule):
        access |= ACCESS[letter]
    if rule["allow"]:
        decide = [(AND, WANTED, 0, ~access), (JUMP_UNLESS, WANTED, 2, 0), *_answer(1)]
    else:
        decide = [(COPY, CONTEXT | WANTED << 4, 0, 0), (AND, CONTEXT, 0, access), (JUMP_IF, CONTEXT, 2, 0), *_answer(0)]
    kind = rule.get("type") or "a"
    asked = ((KIND, KINDS.get(kind)), (MAJOR, rule.get("major")), (MINOR, rule.get("minor")))
    tests = [(register, number) for register, number in asked if number not in (None, -1)]
    guards = [
        (JUMP_UNLESS, register, len(decide) + len(tests) - 1 - i, _immediate(value or 0))
        for i, (register, value) in enumerate(tests)
    ]
    return guards + decide


def _immediate(value: int) -> int:
    """A number as an instruction has it. No device has one that does not fit: what stands for it equals no device's."""
    return value if value < 1 << 31 else value - (1 << 32)


def _answer(value: int) -> "list[Instruction]":
    return [(MOVE, RESULT, 0, value), (EXIT, 0, 0, 0)]


def apply(directory: str, rules: "list[DeviceRule]") -> None:
    """Load the program and attach it to the cgroup. Raises PyruncError."""
    try:
        with _load(rules) as loaded, open_at(None, directory, posix.O_RDONLY | posix.O_DIRECTORY) as cgroup:
            if lib.sys_bpf_attach(cgroup.number, loaded.number, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI) < 0:
                raise kernel_error("bpf attach", directory)
    except OSError as error:
        raise PyruncError("setting device rules of cgroup", directory, reason(error)) from error


def replace(directory: str, old: "list[DeviceRule]", new: "list[DeviceRule]") -> None:
    """Put one program in the place of another, with no moment in between. BPF_F_REPLACE, Linux 5.6. Raises PyruncError.

    Others, such as an engine's plug-in, may have attached programs of their own. We know ours by its tag: the kernel's
    hash of a program.
    """
    try:
        with _load(new) as loaded, open_at(None, directory, posix.O_RDONLY | posix.O_DIRECTORY) as cgroup:
            with _load(old) as like_ours:
                ours = _attached(cgroup, _tag(like_ours))
            if ours is None and _attached(cgroup, _tag(loaded)) is not None:
                return  # an earlier call did this, and was killed right after it
            if ours is None:
                raise OSError(errno.ENOENT, "none of its programs has the rules on record", directory)
            flags = BPF_F_ALLOW_MULTI | BPF_F_REPLACE
            with ours:
                if lib.sys_bpf_replace(cgroup.number, loaded.number, BPF_CGROUP_DEVICE, flags, ours.number) < 0:
                    raise kernel_error("bpf attach", directory)
    except OSError as error:
        raise PyruncError("changing device rules of cgroup", directory, reason(error)) from error


def _load(rules: "list[DeviceRule]") -> Fd:
    code = program(rules)
    number = lib.sys_bpf_load(BPF_PROG_TYPE_CGROUP_DEVICE, code, len(code) // 8, LICENSE)
    if number < 0:
        raise kernel_error("bpf load", "the device rules")
    return Fd(number, "the device rules")


def _attached(cgroup: Fd, tag: bytes) -> "Fd | None":
    ids, count = ffi.new("uint32_t[]", MOST), ffi.new("uint32_t *", MOST)
    if lib.sys_bpf_query(cgroup.number, BPF_CGROUP_DEVICE, ids, count) < 0:
        raise kernel_error("bpf query", cgroup.name)
    for index in range(count[0]):
        number = lib.sys_bpf_by_id(ids[index])
        if number >= 0:
            found = Fd(number, "a program of the cgroup's")
            if _tag(found) == tag:
                return found
            found.close()
    return None


def _tag(loaded: Fd) -> bytes:
    tag = ffi.new("char[8]")
    if lib.sys_bpf_tag(loaded.number, tag) < 0:
        raise kernel_error("bpf info", loaded.name)
    return b"".join(tag[index] for index in range(8))

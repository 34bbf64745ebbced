"""A profile becomes a BPF program, by libseccomp. config-linux.md#seccomp

This is not on the start-up path, as cache.py keeps the programs: pyseccomp imports ctypes, and Docker's profile takes
25 ms with the imports.
"""

import ctypes.util
import errno
import os
import struct
import sys

from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.seccomp.younger import NUMBERS, UNKNOWN

# pyseccomp asks ctypes for the library's file, and ctypes runs ldconfig, and a compiler if PATH has one, to find it. We
# answer at once: the loader finds libseccomp by its name, and C's library is loaded already.
find_library = ctypes.util.find_library
try:
    ctypes.util.find_library = {"seccomp": "libseccomp.so.2"}.get  # type: ignore[assignment]
    import pyseccomp
except OSError as error:
    raise PyruncError("seccomp profile", "", reason(error), "libseccomp compiles it: install libseccomp2") from error
finally:
    ctypes.util.find_library = find_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Seccomp, Syscall, SyscallArg

OPTIMIZE_ABOVE = 32  # rules. With no rule at all libseccomp <= 2.5.4 makes a wrong tree
X32_BIT = 0x40000000

ACTIONS = {
    "SCMP_ACT_KILL": pyseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": pyseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
    "SCMP_ACT_TRAP": pyseccomp.TRAP,
    "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
    "SCMP_ACT_LOG": pyseccomp.LOG,
    "SCMP_ACT_NOTIFY": pyseccomp.NOTIFY,
}
WITH_ERRNO = {"SCMP_ACT_ERRNO": pyseccomp.ERRNO, "SCMP_ACT_TRACE": pyseccomp.TRACE}
OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE,
    "SCMP_CMP_LT": pyseccomp.LT,
    "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_EQ": pyseccomp.EQ,
    "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT,
    "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}
# Architectures that pyseccomp's table does not have yet. libseccomp's tokens are AUDIT_ARCH_* of the kernel.
YOUNGER_ARCHITECTURES = {
    "LOONGARCH64": 258 | 0xC0000000,
    "M68K": 4,
    "SH": 42 | 0x40000000,
    "SHEB": 42,
}
PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")

# struct sock_filter: code, jump if true, jump if false, k
LOAD, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
SYSCALL_NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


def compile(profile: "Seccomp") -> bytes:
    """The program as the kernel takes it: an array of struct sock_filter.

    Raises:
        ConfigError: the profile names something that libseccomp does not know.
        PyruncError: libseccomp refused.
    """
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    program = pyseccomp.SyscallFilter(default)
    architectures = _architectures(profile)
    for name, architecture in architectures.items():
        if architecture != pyseccomp.system_arch():  # libseccomp puts this one into every filter
            _add_architecture(program, name, architecture)
    rules = profile.get("syscalls") or []
    program.set_attr(pyseccomp.Attr.CTL_NNP, 0)
    if sum(len(rule["names"]) for rule in rules) > OPTIMIZE_ABOVE:
        program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    for rule in rules:
        action = _action(rule["action"], rule.get("errnoRet"))
        if action != default:
            for name in rule["names"]:
                _add(program, name, action, rule)
    code = _exported(program)
    tokens = [*dict.fromkeys([*architectures.values(), pyseccomp.system_arch()])]
    if profile["defaultAction"] in PERMISSIVE:
        return before_libseccomp(rules, default, tokens) + code
    return enosys_stub(profile, [*architectures.values()] or [pyseccomp.system_arch()]) + code


def _add_architecture(program: "pyseccomp.SyscallFilter", name: str, architecture: int) -> None:
    """Add an architecture. A filter is for one order of bytes: that of s390x is not x86_64's. seccomp_arch_add(3)"""
    try:
        program.add_arch(architecture)
    except OSError as error:
        cause = error.strerror or str(error)
        if error.errno == errno.EDOM:
            cause = "its order of bytes is not this machine's, and one filter can't be for both"
        raise ConfigError("config.json", "/linux/seccomp/architectures", f"{name}: {cause}") from error


def _exported(program: "pyseccomp.SyscallFilter") -> bytes:
    """The program, through a pipe. That has room for twice what the kernel takes (BPF_MAXINSNS); when there is more,
    libseccomp fails."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with open(read, "rb", buffering=0) as reader, open(write, "wb", buffering=0) as writer:
        try:
            program.export_bpf(writer)
        except OSError as error:
            raise PyruncError("seccomp profile", "", f"libseccomp can't export it: {error.strerror}") from error
        return reader.read(1 << 16) or b""


def _architectures(profile: "Seccomp") -> "dict[str, int]":
    """Name -> libseccomp's token. A name that the profile has twice is no mistake."""
    found = {}
    for name in profile.get("architectures") or []:
        short = name.removeprefix("SCMP_ARCH_")
        token = getattr(pyseccomp.Arch, short, YOUNGER_ARCHITECTURES.get(short))
        if token is None:
            raise ConfigError("config.json", "/linux/seccomp/architectures", f"unknown architecture {name}")
        found[name] = token
    return found


def architecture_names() -> "list[str]":
    """Those that this libseccomp can make a filter for, without SCMP_ARCH_."""
    tokens = {name: token for name, token in vars(pyseccomp.Arch).items() if name.isupper() and name != "NATIVE"}
    return [name for name, token in {**tokens, **YOUNGER_ARCHITECTURES}.items() if _is_known(token)]


def _is_known(token: int) -> bool:
    try:
        pyseccomp.SyscallFilter(pyseccomp.ALLOW).exist_arch(token)
    except OSError:
        return False
    return True


def version() -> str:
    """libseccomp's: that of its file, libseccomp.so.MAJOR.MINOR.PATCH."""
    return library().rpartition(".so.")[2]


def _action(name: str, number: "int | None") -> int:
    if name in WITH_ERRNO:
        return int(WITH_ERRNO[name](errno.EPERM if number is None else number))
    if name not in ACTIONS:
        raise ConfigError("config.json", "/linux/seccomp", f"{name} is not supported yet by this version of pyrunc")
    return int(ACTIONS[name])


def _add(program: "pyseccomp.SyscallFilter", name: str, action: int, rule: "Syscall") -> None:
    """Add a rule for one system call. A name that libseccomp does not know is no error (config-linux.md#seccomp):
    profiles name all system calls there are, those of other architectures and of younger kernels too."""
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number == UNKNOWN:
        return  # but see before_libseccomp
    arguments = rule.get("args") or []
    try:
        if len({argument["index"] for argument in arguments}) < len(arguments):
            # libseccomp takes one condition for an argument. Several mean "any of them", as in runc: a rule for each
            for argument in arguments:
                program.add_rule(action, number, _condition(argument))
        else:
            program.add_rule(action, number, *map(_condition, arguments))
    except OSError as error:
        raise PyruncError("seccomp rule for", name, error.strerror or str(error)) from error


def _condition(argument: "SyscallArg") -> "pyseccomp.Arg":
    return pyseccomp.Arg(argument["index"], OPERATORS[argument["op"]], argument["value"], argument.get("valueTwo") or 0)


def before_libseccomp(rules: "list[Syscall]", default: int, architectures: "list[int]") -> bytes:
    """Instructions before the filter, for what a profile forbids and this libseccomp does not know: where everything
    is allowed that no rule names, fchmodat2 would be a way around a rule against fchmodat.
    """
    found: dict[int, int] = {}
    for rule in rules:
        action = _action(rule["action"], rule.get("errnoRet"))
        for name in rule["names"]:
            known = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != UNKNOWN
            if known or name not in NUMBERS or action == default:
                continue
            if rule.get("args"):
                raise PyruncError("seccomp rule for", name, "this libseccomp does not know it, nor its arguments")
            found.setdefault(NUMBERS[name], action)
    tests = [
        instruction
        for number, action in found.items()
        for instruction in ((JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, action))
    ]
    if pyseccomp.Arch.X32 in architectures:
        tests += [(code, yes, no, k | X32_BIT if code == JUMP_EQUAL else k) for code, yes, no, k in tests]
    if not tests:
        return b""
    own = [token for token in architectures if token != pyseccomp.Arch.X32]  # the kernel tells it by a bit alone
    ours = [(JUMP_EQUAL, len(own) - index, 0, token) for index, token in enumerate(own)]
    return _pack(
        [(LOAD, 0, 0, ARCHITECTURE), *ours, (JUMP, 0, 0, len(tests) + 1), (LOAD, 0, 0, SYSCALL_NUMBER), *tests]
    )


def enosys_stub(profile: "Seccomp", architectures: "list[int]") -> bytes:
    """Instructions before the filter, for system calls that are younger than all that the profile names.

    They fail with ENOSYS and not with the profile's error, so that a C library falls back to an older one (runc#2750).
    """
    last: dict[int, int] = {}
    for token in architectures:
        newest = _newest(profile, token)
        if newest:
            last[token] = newest
    blocks = b""
    for token, newest in last.items():
        if token == pyseccomp.Arch.X32:
            continue  # for the kernel the same architecture as x86_64: a bit of the number tells them apart
        block = [(LOAD, 0, 0, SYSCALL_NUMBER)]
        if token == pyseccomp.Arch.X86_64 and pyseccomp.Arch.X32 in last:
            block += [
                (JUMP_GREATER_EQUAL, 0, 2, X32_BIT),
                (JUMP_GREATER, 2, 0, last[pyseccomp.Arch.X32]),
                (JUMP, 0, 0, 2),
            ]
        block += [(JUMP_GREATER, 0, 1, newest), (RETURN, 0, 0, pyseccomp.ERRNO(errno.ENOSYS))]
        blocks += _pack([(JUMP_EQUAL, 0, len(block), token), *block])
        blocks += _pack([(LOAD, 0, 0, ARCHITECTURE)])  # the next block compares it again
    return _pack([(LOAD, 0, 0, ARCHITECTURE)]) + blocks if blocks else b""


def _newest(profile: "Seccomp", architecture: int) -> int:
    numbers = [0]
    for rule in profile.get("syscalls") or []:
        for name in rule["names"]:
            number = pyseccomp.resolve_syscall(architecture, name)
            if number > 0:  # a negative one is libseccomp's own, for a call that this architecture does not have
                numbers.append(number)
    return max(numbers)


def _pack(instructions: "list[tuple[int, int, int, int]]") -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def library() -> str:
    """The file of the libseccomp that is loaded. In the image there is no file: then what it is called."""
    linked = sys.modules.get("pyrunc.image._linked")
    if linked is not None:
        return str(linked.LIBSECCOMP)
    pyseccomp.system_arch()
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(" ", 5)[-1].strip()
            if "/libseccomp" in path:
                return path
    raise PyruncError("libseccomp", "", "is not among the loaded libraries")

"""A profile as a BPF program, by libseccomp. config-linux.md#seccomp

Off the start-up path: pyseccomp brings ctypes (Docker's profile: 25 ms with the imports). See cache.py.
"""

import ctypes.util
import os
import struct
import sys

from pyrunc.errors import ConfigError, PyruncError

# pyseccomp asks for the library's file, and for an answer ldconfig is run, and a compiler if PATH has one. The loader
# finds libseccomp by its name, and C's library is there already.
find_library = ctypes.util.find_library
try:
    ctypes.util.find_library = {"seccomp": "libseccomp.so.2"}.get  # type: ignore[assignment]
    import pyseccomp
finally:
    ctypes.util.find_library = find_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Seccomp, Syscall, SyscallArg

EPERM = 1
EDOM = 33
ENOSYS = 38
OPTIMIZE_ABOVE = 32  # rules; libseccomp <= 2.5.4 makes a wrong tree of none
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
# Younger than pyseccomp's own table: AUDIT_ARCH_* of the kernel, which libseccomp's tokens are.
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
        ConfigError: a profile that says what libseccomp does not know.
        PyruncError: libseccomp refused.
    """
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    program = pyseccomp.SyscallFilter(default)
    architectures = _architectures(profile)
    for name, architecture in architectures.items():
        if architecture != pyseccomp.system_arch():  # which libseccomp starts every filter with
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
    if profile["defaultAction"] in PERMISSIVE:
        return code
    return enosys_stub(profile, [*architectures.values()] or [pyseccomp.system_arch()]) + code


def _add_architecture(program: "pyseccomp.SyscallFilter", name: str, architecture: int) -> None:
    """One filter is for one order of bytes: that of s390x is not x86_64's. seccomp_arch_add(3)"""
    try:
        program.add_arch(architecture)
    except OSError as error:
        cause = error.strerror or str(error)
        if error.errno == EDOM:
            cause = "its order of bytes is not this machine's, and one filter can't be for both"
        raise ConfigError("config.json", "/linux/seccomp/architectures", f"{name}: {cause}") from error


def _exported(program: "pyseccomp.SyscallFilter") -> bytes:
    """Through a pipe, which has room for twice what the kernel takes (BPF_MAXINSNS); for more libseccomp fails."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with open(read, "rb", buffering=0) as reader, open(write, "wb", buffering=0) as writer:
        try:
            program.export_bpf(writer)
        except OSError as error:
            raise PyruncError("seccomp profile", "", f"libseccomp can't export it: {error.strerror}") from error
        return reader.read(1 << 16) or b""


def _architectures(profile: "Seccomp") -> "dict[str, int]":
    """By name: one that is there twice is no mistake."""
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


def _action(name: str, errno: "int | None") -> int:
    if name in WITH_ERRNO:
        return int(WITH_ERRNO[name](EPERM if errno is None else errno))
    if name not in ACTIONS:
        raise ConfigError("config.json", "/linux/seccomp", f"{name} is not supported yet by this version of pyrunc")
    return int(ACTIONS[name])


def _add(program: "pyseccomp.SyscallFilter", name: str, action: int, rule: "Syscall") -> None:
    """One system call. A name that libseccomp does not know is one of another architecture or of the future:
    profiles name all there are, and it is no error (config-linux.md#seccomp)."""
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number == -1:
        return
    arguments = rule.get("args") or []
    try:
        if len({argument["index"] for argument in arguments}) < len(arguments):
            # libseccomp takes one condition for each argument; several mean "any of them", as runc has it
            for argument in arguments:
                program.add_rule(action, number, _condition(argument))
        else:
            program.add_rule(action, number, *map(_condition, arguments))
    except OSError as error:
        raise PyruncError("seccomp rule for", name, error.strerror or str(error)) from error


def _condition(argument: "SyscallArg") -> "pyseccomp.Arg":
    return pyseccomp.Arg(argument["index"], OPERATORS[argument["op"]], argument["value"], argument.get("valueTwo") or 0)


def enosys_stub(profile: "Seccomp", architectures: "list[int]") -> bytes:
    """Instructions before the filter: a system call younger than every one that the profile names fails with
    ENOSYS and not with the profile's error, so that a C library falls back to the older one (runc#2750).
    """
    last: dict[int, int] = {}
    for token in architectures:
        newest = _newest(profile, token)
        if newest:
            last[token] = newest
    blocks = b""
    for token, newest in last.items():
        if token == pyseccomp.Arch.X32:
            continue  # one architecture with x86_64 to the kernel, told apart by a bit of the number
        block = [(LOAD, 0, 0, SYSCALL_NUMBER)]
        if token == pyseccomp.Arch.X86_64 and pyseccomp.Arch.X32 in last:
            block += [
                (JUMP_GREATER_EQUAL, 0, 2, X32_BIT),
                (JUMP_GREATER, 2, 0, last[pyseccomp.Arch.X32]),
                (JUMP, 0, 0, 2),
            ]
        block += [(JUMP_GREATER, 0, 1, newest), (RETURN, 0, 0, pyseccomp.ERRNO(ENOSYS))]
        blocks += _pack([(JUMP_EQUAL, 0, len(block), token), *block])
        blocks += _pack([(LOAD, 0, 0, ARCHITECTURE)])  # the next block compares it again
    return _pack([(LOAD, 0, 0, ARCHITECTURE)]) + blocks if blocks else b""


def _newest(profile: "Seccomp", architecture: int) -> int:
    numbers = [0]
    for rule in profile.get("syscalls") or []:
        for name in rule["names"]:
            number = pyseccomp.resolve_syscall(architecture, name)
            if number > 0:  # negative: libseccomp's own, for calls that this architecture does not have
                numbers.append(number)
    return max(numbers)


def _pack(instructions: "list[tuple[int, int, int, int]]") -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def library() -> str:
    """The file of the libseccomp that is loaded: what a cached program depends on. In the image no file, but a name."""
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

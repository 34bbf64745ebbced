"""Names of system calls that no kernel has. Off the path: see profile.py."""

import pyseccomp

from pyrunc.seccomp.younger import NUMBERS, UNKNOWN

MOST = 512
YOUNGER = {*NUMBERS, "riscv_hwprobe", "uretprobe"}


def is_known(name: str) -> bool:
    return name in YOUNGER or pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != UNKNOWN


def all_known() -> set[str]:
    """Those of this machine."""
    return {*YOUNGER, *by_number(pyseccomp.system_arch()).values()}


def of_all_architectures() -> set[str]:
    """Those of this machine, and of what else it runs."""
    return {name for token in _tokens() for name in by_number(token).values()}


def architectures() -> list[str]:
    """This machine, and its smaller brothers whose programs it runs, as config.json calls them."""
    return [architecture_of(token) for token in _tokens()]


def architecture_of(token: int) -> str:
    return next(
        f"SCMP_ARCH_{name}" for name, each in vars(pyseccomp.Arch).items() if each == token and name != "NATIVE"
    )


def _tokens() -> list[int]:
    own = pyseccomp.system_arch()
    smaller = {pyseccomp.Arch.X86_64: [pyseccomp.Arch.X86], pyseccomp.Arch.AARCH64: [pyseccomp.Arch.ARM]}
    return [own, *smaller.get(own, [])]


def name_of(architecture: int, number: int) -> str:
    """ "" where libseccomp knows none."""
    try:
        return str(pyseccomp.resolve_syscall(architecture, number).decode())
    except ValueError:
        return ""


def by_number(architecture: int) -> dict[int, str]:
    found = {number: name_of(architecture, number) for number in range(MOST)}
    return {number: name for number, name in found.items() if name}

"""Names of system calls that no kernel has. Off the path: see profile.py."""

import pyseccomp

UNKNOWN = -1  # __NR_SCMP_ERROR; a name of another architecture has a negative number of its own
MOST = 512
# Younger than the libseccomp of many hosts.
YOUNGER = {
    "cachestat", "fchmodat2", "file_getattr", "file_setattr", "futex_requeue", "futex_wait", "futex_wake",
    "getxattrat", "listmount", "listns", "listxattrat", "lsm_get_self_attr", "lsm_list_modules",
    "lsm_set_self_attr", "map_shadow_stack", "memfd_secret", "mseal", "open_tree_attr", "process_mrelease",
    "removexattrat", "riscv_hwprobe", "rseq_slice_yield", "set_mempolicy_home_node", "setxattrat", "statmount",
    "uretprobe",
}  # fmt: skip


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

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
    return {*YOUNGER, *by_number().values()}


def by_number() -> dict[int, str]:
    found = {}
    architecture = pyseccomp.system_arch()
    for number in range(MOST):
        try:
            found[number] = pyseccomp.resolve_syscall(architecture, number).decode()
        except ValueError:
            continue
    return found

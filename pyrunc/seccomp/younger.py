"""System calls that are younger than the libseccomp of many hosts. Off the path: see profile.py."""

UNKNOWN = -1  # __NR_SCMP_ERROR; a name of another architecture has a negative number of its own
# The numbers are the same on all architectures (Linux >= 5.1).
NUMBERS = {
    "memfd_secret": 447, "process_mrelease": 448, "set_mempolicy_home_node": 450, "cachestat": 451, "fchmodat2": 452,
    "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467,
    "file_getattr": 468, "file_setattr": 469, "listns": 470, "rseq_slice_yield": 471,
}  # fmt: skip

"""Kernels that we do not have: a seccomp filter around the runtime, in which single system calls fail."""

import errno
from typing import Any

import pyseccomp

# Younger than Debian 12's libseccomp, which would not know their names.
NUMBERS = {"fchmodat2": 452, "statmount": 457, "listmount": 458, "open_tree_attr": 467}


def without(
    *calls: str, error: int = errno.ENOSYS, argument: int = -1, equals: int = 0, mask: int = 0xFFFFFFFF
) -> dict[str, Any]:
    """For Popen: the program runs in a filter in which these calls fail; with `argument`, only when that argument of
    theirs, masked, has a value. The filter does not set no_new_privs, which the container would inherit."""

    def install() -> None:
        conditions = [pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask, equals)] if argument >= 0 else []
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        rules.set_attr(pyseccomp.Attr.CTL_NNP, False)
        for call in calls:
            rules.add_rule(pyseccomp.ERRNO(error), NUMBERS.get(call, call), *conditions)
        rules.load()

    return {"preexec_fn": install}

"""The C of the runtime is compiled for the machines that it was written for, and for no other."""

import shutil
import subprocess
from pathlib import Path

import pytest

HEADER = Path(__file__).parents[2] / "pyrunc/linux/machine.h"
CC = shutil.which("cc") or shutil.which("gcc")


def compiled(*flags):
    command = [CC, *flags, "-fsyntax-only", "-x", "c", str(HEADER)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(CC is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    "flags", [("-U__x86_64__", "-U__aarch64__"), ("-U__SIZEOF_LONG__", "-D__SIZEOF_LONG__=4"), ("-U__BYTE_ORDER__",)]
)
def test_a_machine_that_nobody_has_looked_at_is_refused(flags):
    assert compiled().returncode == 0
    done = compiled(*flags)
    assert done.returncode
    assert "pyrunc is written for" in done.stderr


@pytest.mark.skipif(CC is None, reason="needs a C compiler")
def test_each_number_stands_in_for_a_header_that_lacks_it_alone():
    """Headers that have one of several calls that came together need not have the others."""
    source = '#include <sys/syscall.h>\n#undef SYS_fspick\n#include "' + str(HEADER) + '"\nint is = SYS_fspick;\n'
    command = [CC, "-E", "-P", "-x", "c", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("int is = 433;")

"""The shim's own reading of TOML takes what is plain, and nothing differently from tomllib."""

import tomllib

import pytest

from pyrunc.shim.options import read_toml

TEXTS = [
    "", "\n\n", 'BinaryName = ""\nIoUid = 0\nSystemdCgroup = true\n', "A = 'x'", 'A="/run/x y"', "A = 12\r\nB = false",
    "A = 1 # comment", "# comment\nA = 1", "A = 01", "A = -1", "A = 1_000", "A = 1.5", 'A = "x\\n"', "A.B = 1",
    'A = """x"""', "A = 1\rB = 2", "A = 1\x0bB = 2", "A = 1\r", " A = 1 ",
    "[A]\nB = 1", "A = 1\nA = 2", "A = ", "A", "= 1", "A = yes", 'A = "x', "A = \"x'", "A = 'x\ty'", "Ä = 1", "A = [1]",
    "\tA = 1", 'A = "\u2028"', "A = 1 B = 2", 'A-B = 1', "A = ٣", '"A" = 1',
]  # fmt: skip


def loaded(read, text):
    try:
        return read(text)
    except ValueError:
        return "refused"


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_read_as_tomllib_reads_it(text):
    assert loaded(read_toml, text) == loaded(tomllib.loads, text)

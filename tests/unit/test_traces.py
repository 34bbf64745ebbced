"""traceparent, as https://www.w3.org/TR/trace-context has it."""

import pytest

from pyrunc.shim.tracing import parsed

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(("version", "flags", "rest"), [("00", "01", ""), ("00", "00", ""), ("cc", "01", "-more")])
def test_a_callers_span(version, flags, rest):
    assert parsed(f"{version}-{TRACE}-{SPAN}-{flags}{rest}") == (TRACE, SPAN, int(flags, 16))


@pytest.mark.parametrize("text", [
    "", "00", f"00-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN[1:]}-01",
    f"00-{TRACE[:-1]}é-{SPAN}-01",
])  # fmt: skip
def test_what_is_none(text):
    assert parsed(text) is None

"""docs/security.md and the tests agree: each test that it names is there, and each attack that is tested is named."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = r"(?:[a-z]+_)*?(?:cve_\d{4}_\d+|ghsa_\w{4}|runc_\d{4})_[a-z0-9_]+"


def test_the_attacks_of_the_page_are_those_of_the_tests():
    page = (ROOT / "docs/security.md").read_text()
    rows = [line.split("|")[4] for line in page.splitlines() if line.startswith("|") and line.count("|") == 5]
    named = {name for row in rows for name in re.findall(r"\b[a-z]+(?:_\w+){3,}\b", row)}
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named <= set(re.findall(r"^def test_(\w+)\(", sources, re.M))
    assert named >= set(re.findall(rf"^def test_({NAME})\(", sources, re.M))

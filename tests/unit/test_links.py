"""Each link of a page leads to a file, and to a heading of it, as GitHub and .ci/docs name headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("docs", "conformance", "tests/vm", "benchmarks") for path in (ROOT / folder).rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(page):
    nowhere = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        name, _, heading = link.partition("#")
        if "://" in link:
            continue
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (heading and heading not in headings(there)):
            nowhere.append(link)
    assert not nowhere


def without_code(page: Path) -> str:
    return re.sub(r"(?m)^(?:    |```).*$", "", page.read_text())


def headings(page: Path) -> "set[str]":
    """A word for each: lower case, no punctuation, hyphens for blanks."""
    titles = re.findall(r"(?m)^#+ (.*)$", without_code(page))
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)).strip().lower().replace(" ", "-")
        for title in titles
    }

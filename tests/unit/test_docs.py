"""docs/security.md and the tests agree: each test that it names is there, and each attack that is tested is named."""

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

from pyrunc.cli.arguments import check_count, parse
from pyrunc.cli.call import USAGE

ROOT = Path(__file__).parents[2]
NAME = r"(?:[a-z]+_)*?(?:cve_\d{4}_\d+|ghsa_\w{4}|runc_\d{4})_[a-z0-9_]+"


def test_the_attacks_of_the_page_are_those_of_the_tests():
    page = (ROOT / "docs/security.md").read_text()
    rows = [line.split("|")[4] for line in page.splitlines() if line.startswith("|") and line.count("|") == 5]
    named = {name for row in rows for name in re.findall(r"\b[a-z]+(?:_\w+){3,}\b", row)}
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named <= set(re.findall(r"^def test_(\w+)\(", sources, re.M))
    assert named >= set(re.findall(rf"^def test_({NAME})\(", sources, re.M))


def test_every_message_is_explained():
    """docs/errors.md has each by its beginning. What is no constant is … there."""
    page = (ROOT / "docs/errors.md").read_text()
    explained = {begin for line in page.splitlines() if line.startswith("| `") for begin in BEGINNING.findall(line)}
    missing = beginnings() - explained
    assert not missing, "not in docs/errors.md: " + "; ".join(sorted(missing))
    strange = {begin for begin in explained - beginnings() if "flag provided" not in begin}
    assert not strange, "docs/errors.md explains what nobody says: " + "; ".join(sorted(strange))


BEGINNING = re.compile(r"(?<=[|,] )`([^`]+)`(?=[^|]*\|[^|]*\|[^|]*\|$)")
ERRORS = {"PyruncError", "ConfigError", "UsageError", "StateError", "StepError", "Overdue"}


def beginnings() -> "set[str]":
    """The first argument of every error that is raised, where it has words of its own."""
    found = set()
    for path in [*(ROOT / "pyrunc").rglob("*.py"), *(ROOT / "shim").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                begin = node.args[0]
                parts = begin.values if isinstance(begin, ast.JoinedStr) else [begin]
                said = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts]
                if said != ["…"]:
                    found.add("".join(said))
    return found


def test_every_command_that_the_pages_show_is_one():
    """Verb, flags and number of arguments, in the pages and in the examples of the manual."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = [line for page in pages for line in page.read_text().splitlines() if SHOWN.match(line)]
    examples = runpy.run_path(str(ROOT / "docs/man/make.py"))["EXAMPLES"]
    shown += [line for verb in examples.values() for _, *lines in verb for line in lines]
    commands = [words for line in shown for words in commands_of(line) if words[0] == "pyrunc"]
    assert len(commands) > 60
    for _, *words in commands:
        before = parse(USAGE, words, only_flags=True)
        if before.rest:
            usage = importlib.import_module(f"pyrunc.cli.{before.rest[0]}").USAGE
            check_count(usage, parse(usage, before.rest[1:]))


SHOWN = re.compile(r" {4,}(\$ )?(sudo )?pyrunc (?!=|learn:)")


def commands_of(line: str) -> "list[list[str]]":
    """The words of each command in a line of shell, without what goes where."""
    words = shlex.shlex(line.strip().removeprefix("$ ").removeprefix("sudo "), posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in words:
        if set(word) <= {*"&|;<>"}:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]

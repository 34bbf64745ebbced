"""Lay out what mkdocs takes: pages.py FOLDER. The pages of docs/ stay as they are for readers of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = "https://github.com/pyrunc/pyrunc/blob/main/"

# The menu: what belongs together, in the order in which somebody new would read. A page that it leaves out is an error.
MENU = {
    "Begin": ["index", "install", "tutorial", "rootless", "debugging", "errors"],
    "Engines": ["docker", "podman", "containerd", "kubernetes"],
    "Reference": ["compatibility", "library", "checkpoint", "changelog"],
    "Tools": ["explain", "doctor", "learn", "wait", "timeline", "landlock", "crun", "handlers"],
    "Inside": ["architecture", "security", "image", "performance", "contributing", "reporting"],
}
OTHERS = {
    "index": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "reporting": "SECURITY.md",
}
TITLES = {
    "index": "What it is",
    "changelog": "Changes",
    "contributing": "Contribute",
    "reporting": "Report a vulnerability",
}


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "docs"
    (pages / "man").mkdir(parents=True)
    names = {path.stem: path for path in (ROOT / "docs").glob("*.md")}
    names |= {name: ROOT / path for name, path in OTHERS.items()}
    if unknown := names.keys() - {name for group in MENU.values() for name in group}:
        sys.exit(f"{Path(__file__).name}: in no part of the menu: {', '.join(sorted(unknown))}")
    homes = {path.resolve(): f"{name}.md" for name, path in names.items()}
    for name, path in names.items():
        (pages / f"{name}.md").write_text(linked(path, homes))
    for path in (ROOT / "docs").rglob("*.yaml"):
        target = pages / path.relative_to(ROOT / "docs")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(HERE / "site.css", pages)
    manual = sorted((ROOT / "docs/man").glob("*.8"))
    for path in manual:
        (pages / f"man/{path.stem}.md").write_text(manual_page(path))
    (folder / "mkdocs.yml").write_text(
        (HERE / "mkdocs.yml").read_text() + "nav:\n" + "".join(menu(names)) + "  - Manual pages:\n"
        "" + "".join(f"      - {path.stem}(8): man/{path.stem}.md\n" for path in manual)
    )


def menu(names: "dict[str, Path]") -> "list[str]":
    lines = []
    for title, group in MENU.items():
        lines.append(f"  - {title}:\n")
        for name in group:
            if name in names:
                said = f"{TITLES[name]}: " if name in TITLES else ""
                lines.append(f"      - {said}{name}.md\n")
    return lines


def linked(path: Path, homes: "dict[Path, str]") -> str:
    """The page's text; links to what is no page lead to the repository."""

    def target(match: "re.Match[str]") -> str:
        link, _, anchor = match[1].partition("#")
        if not link or "://" in link:
            return match[0]
        there = (path.parent / link).resolve()
        if not there.exists():
            sys.exit(f"{path.relative_to(ROOT)}: a link leads nowhere: {link}")
        if there in homes:
            return f"]({homes[there]}{anchor and '#'}{anchor})"
        return f"]({SOURCE}{there.relative_to(ROOT)})"

    return re.sub(r"\]\(([^)\s]+)\)", target, path.read_text())


def manual_page(path: Path) -> str:
    """What mandoc makes of it, in a page of its own."""
    shown = subprocess.run(["mandoc", "-T", "html", "-O", "fragment", path], capture_output=True, text=True, check=True)
    html = re.sub(r"\n\s*\n", "\n", shown.stdout)  # a blank line would end HTML in Markdown
    html = re.sub(r'<a class="permalink"[^>]*>(.*?)</a>', r"\1", html)
    return f"# {path.stem}(8)\n\n{html}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

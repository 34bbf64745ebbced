"""Lay out what mkdocs takes: pages.py FOLDER. The pages of docs/ stay as they are for readers of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = "https://github.com/pyrunc/pyrunc"

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
# In the menu, where a page's own title would not fit or not say what it is.
TITLES = {
    "index": "What it is",
    "tutorial": "Tutorial",
    "errors": "Every message",
    "changelog": "Changes",
    "explain": "explain, validate",
    "doctor": "doctor",
    "learn": "learn",
    "wait": "wait",
    "timeline": "--timeline",
    "landlock": "Landlock",
    "image": "The image",
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
    manual = sorted(
        (ROOT / "docs/man").glob("*.8"), key=lambda path: (path.stem.partition("-")[0] != "pyrunc", path.stem)
    )
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
                said = f'"{TITLES[name]}": ' if name in TITLES else ""
                lines.append(f"      - {said}{name}.md\n")
    return lines


def linked(path: Path, homes: "dict[Path, str]") -> str:
    """The page's text; links to what is no page lead to the repository. One that is a file's name is its title."""

    def target(match: "re.Match[str]") -> str:
        text, link = match[1], match[2]
        link, _, anchor = link.partition("#")
        if not link or "://" in link:
            return match[0]
        there = (path.parent / link).resolve()
        if not there.exists():
            sys.exit(f"{path.relative_to(ROOT)}: a link leads nowhere: {link}")
        if there in homes:
            said = title(there) if text.split("/")[-1] == there.name else text
            return f"[{said}]({homes[there]}{anchor and '#'}{anchor})"
        kind = "tree" if there.is_dir() else "blob"
        return f"[{text}]({SOURCE}/{kind}/main/{there.relative_to(ROOT)})"

    text = re.sub(r"\[([^][]*(?:`[^`]*`[^][]*)*)\]\(([^)\s]+)\)", target, path.read_text())
    return re.sub(r"(?m)^\|.*", row, text)


def row(match: "re.Match[str]") -> str:
    """A row of a table. Names of tests may be broken at their underscores; a pipe in code has no backslash here."""

    def word(match: "re.Match[str]") -> str:
        return match[0].replace("\\|", "|") if match[0].startswith("`") else match[0].replace("_", "_<wbr>")

    return re.sub(r"`[^`]*`|\w+(?:_\w+){4,}", word, match[0])


def title(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ").partition(":")[0]


def manual_page(path: Path) -> str:
    """What mandoc makes of it, in a page of its own, whose headings are in its table of contents."""
    shown = subprocess.run(["mandoc", "-T", "html", "-O", "fragment", path], capture_output=True, text=True, check=True)
    html = re.sub(r"\n<br/>\n", "\n", shown.stdout)
    html = re.sub(r'<a class="permalink"[^>]*>(.*?)</a>', r"\1", html, flags=re.DOTALL)
    html = re.sub(r'<table class="(head|foot)">.*?</table>|<p class="Pp"></p>', "", html, flags=re.DOTALL)
    html = re.sub(r"\n\s*\n", "\n", html)  # a blank line would end HTML in Markdown
    html = re.sub(r"<dt[^>]*>(.*?--([a-z-]+))", r'<dt id="option-\2">\1', html)
    html = re.sub(r"<b>((?:pyrunc|containerd-shim-pyrunc)[a-z0-9-]*)</b>\(8\)", r'<a href="\1.html">\1</a>(8)', html)
    sections = re.findall(r'<h1 class="Sh"[^>]*>(.*?)</h1>(.*?)</section>', html, flags=re.DOTALL)
    page = f"# {path.stem}(8)\n"
    for name, text in sections:
        page += f'\n## {" ".join(name.split()).capitalize()}\n\n<div class="manual-text">{text.strip()}\n</div>\n'
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))

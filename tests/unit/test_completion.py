"""Completion for shells and the manual page, which are generated from the verbs."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from pyrunc.cli import completion
from pyrunc.cli.call import VERBS

ROOT = Path(__file__).parents[2]


def complete(*words):
    """What bash would offer for the last of `pyrunc WORDS…`."""
    line = " ".join(f"'{word}'" for word in ("pyrunc", *words))
    script = f'{completion.bash()}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _pyrunc; echo "${{COMPREPLY[@]}}"'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert result.stderr == ""
    return result.stdout.split()


def test_verbs():
    assert complete("") == list(VERBS)
    assert complete("st") == ["start", "state"]
    assert complete("--debug", "re") == ["restore", "resume"]


def test_flags():
    assert complete("delete", "--") == ["--force", "--regex", "--all"]
    assert "--bundle" in complete("create", "--b")
    assert "--root" in complete("--r")
    assert complete("--root", "x", "create", "--no-p") == ["--no-pivot"]


def test_values():
    assert complete("list", "--format", "") == ["table", "json"]
    assert complete("--log-format", "j") == ["json"]
    assert complete("completion", "f") == ["fish"]
    assert complete("explain", "--fail-on", "h") == ["high"]
    assert complete("--cgroup-manager", "d") == ["disabled"]
    assert "KILL" in complete("kill", "a", "K")


def test_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert complete("create", "--bundle", f"{tmp_path}/f") == [f"{tmp_path}/folder"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_script(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = completion.SHELLS[shell]()
    subprocess.run([shell, "-n" if shell == "zsh" else "--no-execute"], input=script, text=True, check=True, timeout=20)


def test_zsh_completes(tmp_path):
    """Loaded from a folder of $fpath, as the package has it; a terminal of zsh's own is needed for Tab."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    (tmp_path / "_pyrunc").write_text(completion.zsh())
    keys = f"""
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z 'fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy'
        zpty -r z said '*ready*'
        zpty -w -n z $'pyrunc list --format t\t'
        zpty -r z said '*table*'
        zpty -w -n z $'\x15pyrunc completion f\t'
        zpty -r z said '*fish*'
    """
    subprocess.run(["zsh", "-f", "-c", keys], check=True, timeout=60)


def test_what_zsh_has_not_is_not_in_its_script():
    script = completion.zsh()
    assert script.startswith("#compdef pyrunc\n")  # or compinit does not find it in a folder
    assert "mapfile" not in script
    assert "mapfile" in completion.bash()


def test_fish_has_every_verb():
    text = completion.fish()
    assert all(f"-a {verb} " in text for verb in VERBS)


def test_the_manual_pages_are_what_the_verbs_say():
    pages = runpy.run_path(str(ROOT / "docs/man/make.py"))["pages"]()
    assert set(pages) == {path.name for path in (ROOT / "docs/man").glob("*.8")}
    for name, text in pages.items():
        assert (ROOT / "docs/man" / name).read_text() == text, "python docs/man/make.py writes them"

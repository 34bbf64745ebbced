"""pyrunc completion SHELL: a script that lets the shell complete verbs, flags and the IDs of containers."""

import re
import sys

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import USAGE as GLOBAL
from pyrunc.cli.call import VERBS, Call, say
from pyrunc.errors import UsageError

FOLDERS, FILES = ("DIR",), ("FILE", "SOCKET", "FIFO", "PATH")
CHOICES = {
    "--cgroup-manager": "cgroupfs systemd disabled",
    "--fail-on": "critical high medium low note",
    "--format": "table json",
    "-f": "table json",
    "--log-format": "text json",
    "--log-level": "error warning info debug",
    "--rootless": "true false auto",
}
SHELL_NAMES = "bash zsh fish"
FISH_IDS = """function __pyrunc_ids
    set -l root (commandline -opc | string join ' ' | string match -r -- '--root[= ](\\S+)')
    test -n "$root[2]" && set root --root $root[2] || set root
    pyrunc $root list --quiet 2>/dev/null
end"""
SIGNALS = "TERM KILL HUP INT QUIT USR1 USR2 STOP CONT WINCH"

USAGE = Usage(
    "completion",
    "bash|zsh|fish",
    "print a script that completes verbs, flags and IDs",
    least=1,
    most=1,
    details="""bash:  pyrunc completion bash >/etc/bash_completion.d/pyrunc
zsh:   source <(pyrunc completion zsh)
fish:  pyrunc completion fish >~/.config/fish/completions/pyrunc.fish""",
)


def main(call: Call) -> None:
    shell = call.arguments.rest[0]
    if shell not in SHELLS:
        raise UsageError("completion", f'"{shell}"', "is no shell that is known", "bash, zsh or fish")
    say(SHELLS[shell]())


def usages() -> "dict[str, Usage]":
    """What every verb takes."""
    for verb in VERBS:
        __import__(f"pyrunc.cli.{verb}")
    return {verb: sys.modules[f"pyrunc.cli.{verb}"].USAGE for verb in VERBS}


def bash() -> str:
    cases = "\n".join(
        f"        {verb}) flags='{_words(usage.flags)}' {_arguments(usage)};;" for verb, usage in usages().items()
    )
    flags = [*GLOBAL.flags, *(flag for usage in usages().values() for flag in usage.flags)]
    return f"""# bash completion of pyrunc
_pyrunc() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local verb= word last= flags words= ids= found= root=()
    local verbs='{" ".join(VERBS)}'
    COMPREPLY=()
    case $previous in
        {_alternatives(flags, FOLDERS)}) mapfile -t COMPREPLY < <(compgen -d -- "$current"); return;;
        {_alternatives(flags, FILES)}) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return;;
{_choices()}
    esac
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        case $word in --root=*) root=("$word");; esac
        [[ $last != --root ]] || root=(--root "$word")
        case " $verbs " in *" $word "*) verb=$word; break;; esac
        last=$word
    done
    case $verb in
{cases}
        *) flags='{_words(GLOBAL.flags)}';;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$current")
    elif [[ ! $verb ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current")
    elif [[ $words ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    elif [[ $found && $previous != "$verb" ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$found" -- "$current")
    elif [[ $ids ]]; then
        found=$("${{COMP_WORDS[0]}}" "${{root[@]}}" list --quiet 2>/dev/null)
        mapfile -t COMPREPLY < <(compgen -W "$ids $found" -- "$current")
    fi
}}
complete -o default -F _pyrunc pyrunc"""


def zsh() -> str:
    """bash's, in zsh's emulation of it, which has no mapfile: to be sourced, or in a folder of $fpath."""
    script = re.sub(r"mapfile -t COMPREPLY < <\((.*)\)(;|$)", r'COMPREPLY=("${(@f)$(\1)}")\2', bash(), flags=re.M)
    return f"""#compdef pyrunc
(( $+functions[compdef] )) || {{ autoload -U compinit && compinit; }}
autoload -U bashcompinit && bashcompinit
{script}
[[ $funcstack[1] != _pyrunc ]] || _bash_complete -o default -F _pyrunc"""


def fish() -> str:
    lines = ["# fish completion of pyrunc", FISH_IDS, "complete -c pyrunc -f"]
    lines += [f"complete -c pyrunc -n __fish_use_subcommand -a {verb} -d {_quoted(VERBS[verb])}" for verb in VERBS]
    lines += [f"complete -c pyrunc -n __fish_use_subcommand {_fish(flag)}" for flag in GLOBAL.flags]
    for verb, usage in usages().items():
        seen = f'-n "__fish_seen_subcommand_from {verb}"'
        lines += [f"complete -c pyrunc {seen} {_fish(flag)}" for flag in usage.flags if not flag.hidden]
        if _takes_id(usage):
            lines.append(f"complete -c pyrunc {seen} -a '(__pyrunc_ids)'")
    lines.append(f'complete -c pyrunc -n "__fish_seen_subcommand_from completion" -a {_quoted(SHELL_NAMES)}')
    return "\n".join(lines)


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def _takes_id(usage: Usage) -> bool:
    """Of a container that is there; `create` and `run` want a new one."""
    return usage.arguments.startswith("ID") and usage.verb not in ("create", "run")


def _arguments(usage: Usage) -> str:
    """The shell's variables for what stands after the verb: IDs of containers, and words that follow one."""
    if usage.verb == "completion":
        return f"words='{SHELL_NAMES}'"
    if usage.verb == "mounts":
        return "ids='add remove'"  # and IDs
    ids = "ids=' '" if _takes_id(usage) else ""
    return f"{ids} found='{SIGNALS}'" if usage.verb == "kill" else ids


def _choices() -> str:
    return "\n".join(
        f"""        {flag}) mapfile -t COMPREPLY < <(compgen -W '{words}' -- "$current"); return;;"""
        for flag, words in CHOICES.items()
    )


def _names(flag: Flag) -> "list[str]":
    return [("--" if len(name) > 1 else "-") + name for name in flag.names]


def _words(flags: "tuple[Flag, ...]") -> str:
    return " ".join(name for flag in flags if not flag.hidden for name in _names(flag))


def _alternatives(flags: "list[Flag]", values: "tuple[str, ...]") -> str:
    return "|".join(sorted({name for flag in flags if flag.value in values for name in _names(flag)}))


def _fish(flag: Flag) -> str:
    names = " ".join(("-l " if len(name) > 1 else "-s ") + name for name in flag.names)
    chosen = CHOICES.get(f"--{flag.name}", "")
    kind = " -F" if flag.value in FOLDERS + FILES else f" -a '{chosen}'" if chosen else ""
    takes = f" -r{kind}" if flag.value else ""
    return f"{names}{takes} -d {_quoted(flag.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

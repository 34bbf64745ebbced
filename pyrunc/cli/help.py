"""--help, made from what the verbs say of themselves."""

import sys

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import USAGE, VERBS, say
from pyrunc.errors import UsageError


def print_help(verbs: "list[str]") -> int:
    if not verbs:
        say(general())
    elif verbs[0] in VERBS:
        __import__(f"pyrunc.cli.{verbs[0]}")
        say(of_verb(sys.modules[f"pyrunc.cli.{verbs[0]}"].USAGE))
    else:
        raise UsageError(f"No help topic for '{verbs[0]}'", "", "", "pyrunc --help lists the verbs")
    return 0


def general() -> str:
    verbs = "\n".join(f"   {name:<11} {summary}" for name, summary in VERBS.items())
    return f"""NAME:
   pyrunc - Open Container Initiative runtime: {USAGE.summary}

USAGE:
   pyrunc [OPTIONS] VERB [ARGUMENTS]

   A bundle is a folder with config.json and a root file system. To run one:

      pyrunc run --bundle DIR ID

COMMANDS:
{verbs}

   pyrunc VERB --help says more.

GLOBAL OPTIONS:
{_flags(USAGE.flags)}"""


def of_verb(usage: Usage) -> str:
    details = f"\nDESCRIPTION:\n   {usage.details.replace(chr(10), chr(10) + '   ')}\n" if usage.details else ""
    options = f"\nOPTIONS:\n{_flags(usage.flags)}" if usage.flags else ""
    return f"""NAME:
   pyrunc {usage.verb} - {usage.summary}

USAGE:
   pyrunc {usage.verb}{" [OPTIONS]" if usage.flags else ""} {usage.arguments}
{details}{options}""".rstrip()


def _flags(flags: "tuple[Flag, ...]") -> str:
    lines = []
    for flag in flags:
        if not flag.hidden:
            names = ", ".join(("--" if len(name) > 1 else "-") + name for name in flag.names)
            default = f" (default: {flag.shown})" if flag.shown else ""
            lines.append(f"   {names + (' ' + flag.value if flag.value else ''):<28} {flag.help}{default}")
    return "\n".join(lines)

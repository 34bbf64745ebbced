"""What somebody probably meant. Loaded when something was wrong."""

import difflib
import errno

from pyrunc.cli.arguments import UnknownFlag
from pyrunc.cli.call import USAGE, VERBS
from pyrunc.container.state import DEFAULT_ROOT


def of_verb(word: str) -> str:
    near = difflib.get_close_matches(word, VERBS, 3, 0.6)
    near.sort(key=lambda verb: sorted(verb) != sorted(word))  # of the near ones, that with the same letters
    return f"did you mean {near[0]}? pyrunc --help lists them" if near else "pyrunc --help lists them"


def of_flag(error: UnknownFlag) -> str:
    """A flag of another place, a misspelt one, or one that nobody knows."""
    verb = error.usage.verb
    dashes = "--" if len(error.flag) > 1 else "-"
    if verb and any(error.flag in flag.names for flag in USAGE.flags):
        value = next(flag.value for flag in USAGE.flags if error.flag in flag.names)
        return f"it stands before the verb: pyrunc {dashes}{error.flag}{value and ' '}{value} {verb}"
    if not verb and (owners := _verbs_with(error.flag)):
        return f"it stands behind the verb: pyrunc {owners[0]} {dashes}{error.flag}"
    names = [name for flag in error.usage.flags if not flag.hidden for name in flag.names if len(name) > 1]
    near = difflib.get_close_matches(error.flag, names, 1, 0.6)
    see = f"pyrunc {verb} --help".replace("  ", " ")
    return f"did you mean --{near[0]}? see {see}" if near else f"see {see}"


def _verbs_with(name: str) -> "list[str]":
    """The verbs that have this flag, those that people mean first."""
    from pyrunc.cli.completion import usages

    all_of_them = usages()
    order = sorted(VERBS, key=lambda verb: verb not in ("run", "exec", "list"))
    return [verb for verb in order if any(name in flag.names and not flag.hidden for flag in all_of_them[verb].flags)]


def of_system(error: OSError) -> str:
    """A user who is not root keeps state where it is the user's own."""
    if error.errno == errno.EACCES and str(error.filename).startswith(DEFAULT_ROOT):
        return "; a user who is not root needs XDG_RUNTIME_DIR, which a login session sets, or --root DIR"
    return ""

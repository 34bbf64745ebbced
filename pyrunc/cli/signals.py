"""Signals by number or by name, with or without SIG. signal(7)"""

import _signal

from pyrunc.cli.arguments import is_count
from pyrunc.errors import UsageError

NAMES = {name[3:]: int(getattr(_signal, name)) for name in dir(_signal) if name[:3] == "SIG" and name[3:4] != "_"}


def number_of(text: str) -> int:
    """Raises UsageError. 0 is allowed: it asks whether there is a process."""
    if is_count(text):
        number = int(text)
        if number < 65:
            return number
    name = text.upper().removeprefix("SIG")
    if name in NAMES and name not in ("BLOCK", "UNBLOCK", "SETMASK"):
        return NAMES[name]
    for prefix, base, sign in (("RTMIN+", 34, 1), ("RTMAX-", 64, -1)):
        offset = name.removeprefix(prefix)
        if name.startswith(prefix) and is_count(offset) and int(offset) <= 30:
            return base + sign * int(offset)
    raise UsageError("signal", f'"{text}"', "unknown signal", "a number up to 64, or a name such as TERM or SIGTERM")

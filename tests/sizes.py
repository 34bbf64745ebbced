"""How much of the same: with PYRUNC_FULL=1 what the documentation names, without it what CI has time for."""

import os

FULL = os.environ.get("PYRUNC_FULL", "") not in ("", "0")


def size(full: int, ordinary: int) -> int:
    return full if FULL else ordinary

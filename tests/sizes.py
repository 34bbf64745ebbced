"""How often the same is tried: with PYRUNC_FULL=1 as often as the documentation says, else as CI has time for."""

import os

FULL = os.environ.get("PYRUNC_FULL", "") not in ("", "0")


def size(full: int, ordinary: int) -> int:
    return full if FULL else ordinary

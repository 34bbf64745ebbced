"""The runtime in which something fails: driver.py says what can."""

import importlib.util
import sys
from pathlib import Path

from integration.support.runtime import Runtime

PACKAGES = Path(importlib.util.find_spec("pyrunc").origin).parents[1]
DRIVER = Path(__file__).with_name("driver.py")


class Faulty(Runtime):
    """The runtime in which something fails."""

    def __init__(self, runtime, *fault):
        super().__init__(runtime.binary, runtime.root, runtime.scratch)
        self.count = 10_000
        self.fault = fault

    def command(self, *words):
        return [
            sys.executable,
            "-I",
            "-S",
            str(DRIVER),
            str(PACKAGES),
            *self.fault,
            "--",
            "--root",
            str(self.root),
            *map(str, words),
        ]

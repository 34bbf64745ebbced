"""pyrunc: an OCI container runtime. As a library: `run`, `Container`, `Config`, `Pool` and `aio`; see docs/library.md.

Nothing is imported until it is asked for: `import pyrunc` is on the start-up path of every verb.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.errors import (
        ConfigError,
        Interrupted,
        NoSuchContainer,
        NotRunning,
        Overdue,
        PyruncError,
        StateError,
        StepError,
        UsageError,
    )
    from pyrunc.library.config import Config, Invalid
    from pyrunc.library.container import Container
    from pyrunc.library.errors import OutputLimitExceeded, TimeoutExpired, WorkerError
    from pyrunc.library.pool import Pool
    from pyrunc.library.process import Process, Terminal
    from pyrunc.library.result import ProcessFailed, Result
    from pyrunc.library.running import run
    from pyrunc.library.sandbox import sandbox
    from pyrunc.library.streams import DEVNULL, PIPE, STDOUT

__version__ = "0.2.0"
SPECIFICATION = "1.3.0"  # of the Open Container Initiative: the newest that is known
__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Config",
    "ConfigError",
    "Container",
    "Interrupted",
    "Invalid",
    "NoSuchContainer",
    "NotRunning",
    "OutputLimitExceeded",
    "Overdue",
    "Pool",
    "Process",
    "ProcessFailed",
    "PyruncError",
    "Result",
    "StateError",
    "StepError",
    "Terminal",
    "TimeoutExpired",
    "UsageError",
    "WorkerError",
    "__version__",
    "run",
    "sandbox",
]

_HOMES = {
    "Config": "pyrunc.library.config",
    "ConfigError": "pyrunc.errors",
    "Container": "pyrunc.library.container",
    "DEVNULL": "pyrunc.library.streams",
    "Interrupted": "pyrunc.errors",
    "Invalid": "pyrunc.library.config",
    "NoSuchContainer": "pyrunc.errors",
    "NotRunning": "pyrunc.errors",
    "OutputLimitExceeded": "pyrunc.library.errors",
    "Overdue": "pyrunc.errors",
    "PIPE": "pyrunc.library.streams",
    "Pool": "pyrunc.library.pool",
    "Process": "pyrunc.library.process",
    "ProcessFailed": "pyrunc.library.result",
    "PyruncError": "pyrunc.errors",
    "Result": "pyrunc.library.result",
    "STDOUT": "pyrunc.library.streams",
    "StateError": "pyrunc.errors",
    "StepError": "pyrunc.errors",
    "Terminal": "pyrunc.library.process",
    "TimeoutExpired": "pyrunc.library.errors",
    "UsageError": "pyrunc.errors",
    "WorkerError": "pyrunc.library.errors",
    "run": "pyrunc.library.running",
    "sandbox": "pyrunc.library.sandbox",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(home, fromlist=[name])
    return getattr(module, name)


def inside() -> "dict[str, str]":
    """What the image has in it besides Python, and which build it is; nothing of the ordinary program."""
    import sys

    linked = sys.modules.get("pyrunc.image._linked")
    found: dict[str, str] = linked.INSIDE if linked is not None else {}
    return found

"""pyrunc: an OCI container runtime. As a library: Container and StateRoot, see docs/library.md.

Nothing is imported until it is asked for: `import pyrunc` is on the start-up path of every verb.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.container.container import Container
    from pyrunc.container.options import Options
    from pyrunc.container.state import StateRoot
    from pyrunc.errors import PyruncError

__version__ = "0.1.0"
SPECIFICATION = "1.3.0"  # of the Open Container Initiative: the newest that is known
__all__ = ["Container", "Options", "PyruncError", "StateRoot", "__version__"]

_HOMES = {
    "Container": "pyrunc.container.container",
    "Options": "pyrunc.container.options",
    "PyruncError": "pyrunc.errors",
    "StateRoot": "pyrunc.container.state",
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

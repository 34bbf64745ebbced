"""The runtime specification: its documents, their types and their checks. Here is what several of the checks ask."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, Linux


def namespaces(document: "Config") -> "dict[str, str]":
    """The namespaces of a container by type: the path of one to join, or "" for a new one."""
    return types_and_paths(document.get("linux", {}))


def types_and_paths(document: "Linux") -> "dict[str, str]":
    """As namespaces(), from config.json's linux."""
    return {each["type"]: each.get("path", "") for each in document.get("namespaces", ())}


def escaped(name: str) -> str:
    """A member's name in a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")

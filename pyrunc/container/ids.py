"""Mappings of IDs: what a number in a user namespace is outside of it. config-linux.md#user-namespace-mappings"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import IDMapping


def on_the_host(inside: int, mappings: "list[IDMapping]", size: int = 1) -> "int | None":
    """The host's ID of one of the container's, or the first of several in a row. None: they are not mapped."""
    for each in mappings:
        if each["containerID"] <= inside and inside + size <= each["containerID"] + each["size"]:
            return each["hostID"] + inside - each["containerID"]
    return None


def as_text(mappings: "list[IDMapping]") -> str:
    """The text that /proc/PID/uid_map takes. user_namespaces(7)"""
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def of_text(text: bytes) -> "list[IDMapping]":
    """The mappings that /proc/PID/uid_map tells."""
    rows = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in rows]


def merged(mappings: "list[IDMapping]") -> "list[tuple[int, int, int]]":
    """In order, with ranges that continue each other as one: two mappings that mean the same are equal."""
    found: list[tuple[int, int, int]] = []
    for inside, outside, size in sorted((m["containerID"], m["hostID"], m["size"]) for m in mappings):
        before = found[-1] if found else (0, 0, 0)
        if found and (inside, outside) == (before[0] + before[2], before[1] + before[2]):
            found[-1] = (before[0], before[1], before[2] + size)
        else:
            found.append((inside, outside, size))
    return found

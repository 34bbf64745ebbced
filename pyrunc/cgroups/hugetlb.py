"""hugetlb: huge pages, used and reserved. config-linux.md#huge-page-limits"""

import posix

from pyrunc.cgroups.controller import Controller
from pyrunc.cgroups.counters import is_there, keyed, number, some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.counters import Values
    from pyrunc.cgroups.files import Write

HUGE_PAGES = "/sys/kernel/mm/hugepages"


def limits_v1(directory: str, limits: "list[dict[str, Any]]") -> "Iterator[Write]":
    return _limits(directory, limits, "limit_in_bytes")


def limits_v2(directory: str, limits: "list[dict[str, Any]]") -> "Iterator[Write]":
    return _limits(directory, limits, "max")


def _limits(directory: str, limits: "list[dict[str, Any]]", suffix: str) -> "Iterator[Write]":
    """Limit pages and, where the kernel counts them (Linux 5.7), reservations: otherwise a mapping that was reserved
    would fail when it is touched. The schema has checked that pageSize is a size, and no path (runc#4103)."""
    for limit in limits:
        for kind in ("", "rsvd."):
            file = f"hugetlb.{limit['pageSize']}.{kind}{suffix}"
            if not kind or posix.access(f"{directory}/{file}", posix.F_OK):
                yield file, str(limit["limit"])


def statistics_v1(directory: str) -> "Values":
    return {
        size: {
            **some(
                usage=number(directory, f"{prefix}.usage_in_bytes"),
                max=number(directory, f"{prefix}.max_usage_in_bytes"),
            ),
            "failcnt": number(directory, f"{prefix}.failcnt"),
        }
        for size, prefix in _sizes(directory, "usage_in_bytes")
    }


def statistics_v2(directory: str) -> "Values":
    return {
        size: {
            **some(usage=number(directory, f"{prefix}.current")),
            "failcnt": keyed(directory, f"hugetlb.{size}.events").get("max", 0),
        }
        for size, prefix in _sizes(directory, "current")
    }


def _sizes(directory: str, suffix: str) -> "list[tuple[str, str]]":
    """(size, prefix of its files): the files of reserved pages where the kernel counts them (Linux 5.7)."""
    found = []
    try:
        kilobytes = sorted(
            int(name.removeprefix("hugepages-").removesuffix("kB")) for name in posix.listdir(HUGE_PAGES)
        )
    except (FileNotFoundError, ValueError):
        return []
    for size in kilobytes:
        name = f"{size >> 20}GB" if size >= 1 << 20 else f"{size >> 10}MB" if size >= 1 << 10 else f"{size}KB"
        for prefix in (f"hugetlb.{name}.rsvd", f"hugetlb.{name}"):
            if is_there(directory, f"{prefix}.{suffix}"):
                found.append((name, prefix))
                break
    return sorted(found)


CONTROLLER = Controller(
    "hugepageLimits", "hugetlb", (("", limits_v1, limits_v2),), statistics=(statistics_v1, statistics_v2)
)

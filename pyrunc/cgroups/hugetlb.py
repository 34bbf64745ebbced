"""hugetlb: huge pages, used and reserved. config-linux.md#huge-page-limits"""

import posix

from pyrunc.cgroups.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyrunc.cgroups.limits import Write


def writer(suffix: str) -> "Any":
    def writes(directory: str, limits: "list[dict[str, Any]]") -> "Iterator[Write]":
        """The reservation is limited too, where the kernel counts it (Linux 5.7): a mapping that is reserved must
        not fail when it is touched. The schema has seen that a page size is a size (runc#4103)."""
        for limit in limits:
            for kind in ("", "rsvd."):
                file = f"hugetlb.{limit['pageSize']}.{kind}{suffix}"
                if not kind or posix.access(f"{directory}/{file}", posix.F_OK):
                    yield file, str(limit["limit"])

    return writes


V1 = Limits("hugepageLimits", (), also=writer("limit_in_bytes"), controller="hugetlb")
V2 = Limits("hugepageLimits", (), also=writer("max"), controller="hugetlb")

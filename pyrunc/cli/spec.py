"""pyrunc spec: write a new config.json to start from."""

import posix

from pyrunc.cgroups.hierarchy import find, is_unified
from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call
from pyrunc.cli.create import BUNDLE
from pyrunc.errors import PyruncError
from pyrunc.linux.fd import open_at, write_all
from pyrunc.spec.default import default
from pyrunc.spec.jsonc import dumps_pretty

USAGE = Usage(
    "spec",
    "",
    "write a new configuration",
    (BUNDLE, Flag("rootless", help="one that runs without root")),
    details="""config.json is written to the bundle, and never over one that is there. It runs `sh` in `rootfs`:

    mkdir -p bundle/rootfs/bin && cp /bin/busybox bundle/rootfs/bin/sh
    pyrunc spec --bundle bundle && pyrunc run --bundle bundle hello""",
)


def main(call: Call) -> None:
    unified = is_unified(find())  # as runc: on v2 the container sees its own cgroup alone
    document = default(call.arguments.on("rootless"), posix.geteuid(), posix.getegid(), cgroup_namespace=unified)
    with open_at(None, call.arguments.text("bundle") or ".", posix.O_RDONLY | posix.O_DIRECTORY) as bundle:
        try:
            with open_at(bundle, "config.json", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o666) as file:
                write_all(file, (dumps_pretty(document, "\t") + "\n").encode())
        except FileExistsError:
            raise PyruncError("file", "config.json", "exists", "remove it first") from None
